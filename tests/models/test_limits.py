"""Files from strangers: refused within a second, before memory is taken."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data.pictures import Preparation
from nasdistill.models import Classifier, build
from nasdistill.models.artifact import ModelSpec, load, write_final
from nasdistill.models.limits import MOST_PARAMETERS, check_size
from nasdistill.space import Architecture

MLP = {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [4]}}
VIT = {
    "tokens": 4,
    "stem": {"type": "patch"},
    "heads": 2,
    "head_width": 8,
    "depth": 1,
    "mlp_ratio": 2,
}
BLOCK = {"type": "mbconv", "expansion": 2, "kernel": 3, "squeeze_excite": True}
MOBILE = {
    "activation": "relu",
    "stem": 8,
    "stages": [{"block": BLOCK, "width": 8, "depth": 1}] * 2,
    "head": 16,
}
RESNET = {
    "stem": {"type": "conv3", "width": 8},
    "stages": [{"block": {"type": "bottleneck", "reduction": 2}, "width": 8, "depth": 1}] * 2,
}
FAMILIES = {"mlp": MLP, "vit": VIT, "mobile": MOBILE, "resnet": RESNET}
DEEP = "[" * 5000 + "]" * 5000
SIZES = (0, -1, -(10**12), 10**12, 10**30, 0.5, "wide", None, [], {}, [1], True)


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A final's folder, which tests spoil and put right again."""
    folder, shape = tmp_path_factory.mktemp("limits") / "1", Input(1, 8, 8)
    architecture = Architecture("mlp", MLP)
    (folder.parent / "any.onnx").write_bytes(b"")
    write_final(
        folder,
        module=Classifier(build(architecture, shape, 3), (0.5,), (0.5,)),
        spec=ModelSpec(architecture, Preparation.of(shape), ("a", "b", "c")),
        metrics={},
        card="",
        onnx=folder.parent / "any.onnx",
    )
    return folder


def refused_at_once(folder: Path, name: str, content: bytes) -> str:
    """The message about a folder with one file replaced, which comes quickly and takes nothing."""
    path = folder / name
    whole, before = path.read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_bytes(content)
    start = time.process_time()
    try:
        with pytest.raises(UserError) as caught:
            load(folder)
    finally:
        path.write_bytes(whole)
    assert time.process_time() - start < 2  # a second, where nothing else is imported or slow
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10
    assert name in str(caught.value) or "architecture" in str(caught.value)
    return str(caught.value)


def architecture_json(family: str, values: Any) -> bytes:
    return json.dumps({"family": family, "values": values}).encode()


def replaced(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested values with one of them replaced."""
    if not place:
        return value
    key, *rest = place
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    copied = {k: replaced(v, tuple(rest), value) if k == key else v for k, v in items}
    return list(copied.values()) if isinstance(tree, list) else copied


def places(tree: Any) -> list[tuple[Any, ...]]:
    """The places of all values, nested ones and what holds them."""
    if not isinstance(tree, (dict, list)):
        return [()]
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    return [()] + [(key, *below) for key, value in items for below in places(value)]


def at(tree: Any, place: tuple[Any, ...]) -> Any:
    """The value at a place."""
    return at(tree[place[0]], place[1:]) if place else tree


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("architecture.json", DEEP, "nested more than 64 deep"),
        ("input.json", DEEP, "nested more than 64 deep"),
        ("input.json", '{"a":' * 100 + "1" + "}" * 100, "nested more than 64 deep"),
        ("architecture.json", '{"family": ' + "9" * 5000 + "}", "number of 5,000 digits"),
        ("input.json", '{"height": ' + "9" * 5000 + "}", "number of 5,000 digits"),
        ("architecture.json", '{"family": "mlp", "values": {"a": NaN}}', "not finite"),
        ("architecture.json", '{"family": "mlp", "values": {"a": 1e999}}', "too large"),
        ("architecture.json", '"\\ud800"', "lone surrogate"),
        ("architecture.json", " " * (1 << 20) + "1", "allowed are at most 1,048,576"),
        ("architecture.json", "", "empty"),
    ],
)
def test_json_beyond_the_limits(final: Path, name: str, content: str, reason: str) -> None:
    assert reason in refused_at_once(final, name, content.encode())


@pytest.mark.parametrize("key", ["channels", "height", "width"])
@pytest.mark.parametrize("value", SIZES)
def test_sizes_of_images(final: Path, key: str, value: Any) -> None:
    content = json.loads((final / "input.json").read_text()) | {key: value}
    message = refused_at_once(final, "input.json", json.dumps(content).encode())
    assert f"({key}: found {str(value)[:40]}" in message and "allowed: a whole number" in message


def test_an_image_of_sides_that_are_allowed_alone(final: Path) -> None:
    content = json.loads((final / "input.json").read_text()) | {"height": 65536, "width": 65536}
    message = refused_at_once(final, "input.json", json.dumps(content).encode())
    assert "1x65536x65536 has 4,294,967,296 numbers; allowed are at most 67,108,864" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "0.5"),
        ("mean", ["0.5"]),
        ("mean", [None]),
        ("mean", [True]),
        ("mean", [float("nan")]),
        ("mean", [0.5, 0.5]),
        ("mean", {"0": 0.5}),
        ("std", [0]),
        ("std", [-1.0]),
        ("std", [float("inf")]),
        ("classes", ["a"] * 1_000_001),
        ("classes", "abc"),
        ("classes", [1, 2, 3]),
    ],
)
def test_means_and_classes_of_another_kind(final: Path, key: str, value: Any) -> None:
    content = json.loads((final / "input.json").read_text()) | {key: value}
    message = refused_at_once(final, "input.json", json.dumps(content).encode())
    assert "not a final's input.json" in message and (key in message or "finite" in message)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_architectures(final: Path, family: str) -> None:
    values = FAMILIES[family]
    for place in (place for place in places(values) if type(at(values, place)) is int):
        for value in (0, -1, 10**12, 10**30, "wide", None, [], {}):
            content = architecture_json(family, replaced(values, place, value))
            refused_at_once(final, "architecture.json", content)


@pytest.mark.parametrize(
    ("family", "place", "value", "reason"),
    [
        ("vit", ("head_width",), 0, "head_width: found 0, allowed: 1 to 1,000,000"),
        ("vit", ("tokens",), 0, "tokens: found 0, allowed: 1 to 1,000,000"),
        ("vit", ("depth",), 10**6, "depth: found 1000000, allowed: 0 to 500"),
        ("mobile", ("stages", 1, "depth"), 500, "depth of all stages: found 501"),
        ("mobile", ("head",), -8, "head: found -8"),
        ("resnet", ("stem", "width"), 10**9, "width: found 1000000000"),
        ("mlp", ("layers", "widths"), [1] * 501, "number of widths: found 501"),
        ("mlp", ("layers", "widths"), [10**5] * 9, "has 80,0"),
    ],
)
def test_what_is_allowed_is_said(
    final: Path, family: str, place: tuple[Any, ...], value: Any, reason: str
) -> None:
    content = architecture_json(family, replaced(FAMILIES[family], place, value))
    assert reason in refused_at_once(final, "architecture.json", content)


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_architectures_are_built_on_the_meta_device_alone(family: str) -> None:
    module = check_size(Architecture(family, FAMILIES[family]), Input(3, 32, 32), 5, "a.json")
    assert module is not None
    real = build(Architecture(family, FAMILIES[family]), Input(3, 32, 32), 5)
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert [p.shape for p in module.parameters()] == [p.shape for p in real.parameters()]


def test_an_output_that_no_memory_holds() -> None:
    wide = replaced(MOBILE, ("stem",), 1000)
    with pytest.raises(UserError, match="a layer of its architecture gives .* at most 1,073,741"):
        check_size(Architecture("mobile", wide), Input(1, 4096, 4096), 3, "a.json")


def test_profile_and_tune_check_an_architecture_of_a_stranger(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    path.write_bytes(architecture_json("mlp", replaced(MLP, ("layers", "widths"), [10**5] * 9)))
    with pytest.raises(UserError, match=rf"{path}: .* at most {MOST_PARAMETERS:,}"):
        api.profile(str(path))
    path.write_text(DEEP)
    for command in (api.profile, api.tune):
        with pytest.raises(UserError, match=f"{path}: nested more than 64 deep"):
            command(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=f"{path}: not a text file in UTF-8"):
        api.profile(str(path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", ["architecture.json", "input.json", "model.safetensors"])
def test_any_damage_gives_a_message_or_a_model(final: Path, name: str, data: st.DataObject) -> None:
    path = final / name
    whole = path.read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.loads(whole)
        place = data.draw(st.sampled_from(places(content)))
        path.write_text(json.dumps(replaced(content, place, data.draw(JSON))))
    else:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        load(final)
    except UserError as error:
        assert str(final) in str(error) or "family" in str(error)
    finally:
        path.write_bytes(whole)


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families as of a user's file: one layer as wide as asked for, so many layers, none at all."""

    def wide(architecture: Architecture, input: Input, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, architecture.values["n"]))

    def deep(architecture: Architecture, input: Input, classes: int) -> nn.Module:
        layers = [nn.Linear(1, 1) for _ in range(architecture.values["n"])]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(input.height * input.width, classes))

    def real(architecture: Architecture, input: Input, classes: int) -> nn.Module:
        weight = torch.ones(3)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(3 * int(weight.sum())))

    monkeypatch.setattr(
        "nasdistill.models.families._USER_FAMILIES", {"wide": wide, "deep": deep, "real": real}
    )


@pytest.mark.usefixtures("families")
@pytest.mark.parametrize(
    ("family", "n", "reason"),
    [
        ("wide", 10**12, "2,000,000,000,065 parameters; allowed are at most 1,000,000,000"),
        ("wide", 0, "a width of 0: 2.weight"),
        ("deep", 10**9, "more than 20,000 tensors"),
    ],
)
def test_a_student_of_ones_own_family_is_built_without_memory_first(
    family: str, n: int, reason: str
) -> None:
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=reason):
        check_size(Architecture(family, {"n": n}), Input(1, 8, 8), 3, "a.json")
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


@pytest.mark.usefixtures("families")
def test_a_family_of_ones_own_that_cannot_be_built_without_memory_is_left_to_its_author() -> None:
    assert check_size(Architecture("real", {}), Input(1, 8, 8), 3, "a.json") is None
    assert check_size(Architecture("deep", {"n": 3}), Input(1, 8, 8), 3, "a.json") is None
