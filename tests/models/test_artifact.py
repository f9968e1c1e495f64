"""A final's folder: written whole, loaded without code, exported and verified."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data.pictures import Preparation
from nasdistill.models import Classifier, build
from nasdistill.models.artifact import ModelSpec, classify, load, write_final
from nasdistill.models.export import (
    ExportError,
    export_onnx,
    export_program,
    quick_onnx,
    verify_onnx,
)
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.space import Architecture, SearchSpace

INPUT = Input(3, 16, 16)
CLASSES = ("cat", "dog", "owl")


def mobile(seed: int = 0) -> Architecture:
    return SearchSpace.load("mobile").random(random.Random(seed))


def classifier(architecture: Architecture, input: Input = INPUT) -> Classifier:
    """A network with batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = build(architecture, input, len(CLASSES)).train()
    for _ in range(3):
        net(torch.randn(8, input.channels, *input.size))
    mean, std = (0.25, 0.5, 0.75)[: input.channels], (0.2, 0.3, 0.4)[: input.channels]
    return Classifier(net, mean, std).eval()


@pytest.fixture(scope="module")
def original() -> Classifier:
    return classifier(mobile())


@pytest.fixture(scope="module")
def written(original: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finals") / "1"
    write_final(
        folder,
        module=original,
        spec=ModelSpec(mobile(), Preparation.of(INPUT), CLASSES),
        metrics={"test_accuracy": 0.9},
        card="# A card\n",
    )
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(written, tmp_path / "final"))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    return str(caught.value)


# -- the folder ---------------------------------------------------------------------------------


def test_round_trip_is_exact(written: Path, original: Classifier) -> None:
    loaded = load(written)
    assert not loaded.training
    weights, stored = original.state_dict(), loaded.state_dict()
    assert list(weights) == list(stored)
    assert all(torch.equal(weights[key], stored[key]) for key in weights)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(original(images), loaded(images))


def test_what_the_folder_holds(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "README.md",
        "architecture.json",
        "input.json",
        "metrics.json",
        "model.onnx",
        "model.safetensors",
    ]
    assert not written.with_name("1.tmp").exists()
    assert Architecture.from_json((written / "architecture.json").read_text()) == mobile()
    content = json.loads((written / "input.json").read_text())
    assert content["classes"] == list(CLASSES) and content["range"] == [0, 1]
    assert (content["channels"], content["height"], content["width"]) == (3, 16, 16)
    assert content["pillow"] == importlib.metadata.version("pillow")
    assert content["mean"] == pytest.approx([0.25, 0.5, 0.75])
    assert json.loads((written / "metrics.json").read_text()) == {"test_accuracy": 0.9}
    assert (written / "README.md").read_text() == "# A card\n"


def test_leftovers_of_a_killed_write_are_replaced(original: Classifier, tmp_path: Path) -> None:
    (tmp_path / "2.tmp").mkdir()
    (tmp_path / "2.tmp" / "junk").write_text("half")
    (tmp_path / "ready.onnx").write_bytes(b"exported before")
    write_final(
        tmp_path / "2",
        module=original,
        spec=ModelSpec(mobile(), Preparation.of(INPUT), CLASSES),
        metrics={},
        card="",
        onnx=tmp_path / "ready.onnx",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "ready.onnx"]
    assert (tmp_path / "2" / "model.onnx").read_bytes() == b"exported before"
    assert not (tmp_path / "2" / "junk").exists()


def test_fp16_is_stored_and_widened(original: Classifier, tmp_path: Path) -> None:
    (tmp_path / "any.onnx").write_bytes(b"")
    write_final(
        tmp_path / "half",
        module=original,
        spec=ModelSpec(mobile(), Preparation.of(INPUT), CLASSES),
        metrics={},
        card="",
        onnx=tmp_path / "any.onnx",
        half=True,
    )
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    loaded, weights = load(tmp_path / "half").state_dict(), original.state_dict()
    assert all(loaded[key].dtype == weights[key].dtype for key in weights)
    assert all(torch.equal(loaded[k], w.half().to(w.dtype)) for k, w in weights.items())


def test_a_png_is_classified_from_the_folder_alone(
    written: Path, original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(written, tmp_path / "elsewhere"))
    (moved / "model.onnx").unlink()
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("own.png")
    ranked = classify("elsewhere", "own.png")
    with torch.inference_mode():
        logits = original(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    expected = dict(zip(CLASSES, logits.softmax(1)[0].tolist(), strict=True))
    assert dict(ranked) == pytest.approx(expected, abs=1e-6)
    assert [share for _, share in ranked] == sorted(expected.values(), reverse=True)
    assert sum(share for _, share in ranked) == pytest.approx(1, abs=1e-5)
    Image.fromarray(pixels).convert("L").resize((50, 30)).save("grey.png")
    assert {name for name, _ in classify("elsewhere", "grey.png")} == set(CLASSES)
    Path("text.png").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as an image"):
        classify("elsewhere", "text.png")


# -- folders that are refused -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["architecture.json", "input.json", "model.safetensors"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = refused(folder)
    assert name in message and "o such file" in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refused(folder)
    assert str(path) in message and "truncated, or not safetensors" in message


def test_other_architecture(folder: Path) -> None:
    values = {**mobile().values, "stem": mobile().values["stem"] + 4}
    (folder / "architecture.json").write_text(Architecture("mobile", values).to_json())
    message = refused(folder)
    assert "another architecture or other classes" in message and "expected" in message
    values = {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
    (folder / "architecture.json").write_text(Architecture("mlp", values).to_json())
    message = refused(folder)
    assert "missing: net.linear0.weight" in message and "unknown: net." in message
    assert " more" in message


def test_other_classes(folder: Path) -> None:
    content = json.loads((folder / "input.json").read_text())
    content["classes"].append("fox")
    (folder / "input.json").write_text(json.dumps(content))
    message = refused(folder)
    assert "net.head.bias is (3,), expected (4,)" in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("architecture.json", b"{", "not JSON"),
        ("architecture.json", b"\xff\xfe", "not a text file"),
        ("architecture.json", b'{"family":"mobile","values":{}}', "needs the key 'activation'"),
        ("input.json", b"{", "not a final's input.json"),
        ("input.json", b"[]", "not a final's input.json"),
        ("input.json", b"{}", "not a final's input.json"),
        ("input.json", b"\xff\xfe", "not a text file"),
    ],
)
def test_broken_json(folder: Path, name: str, content: bytes, reason: str) -> None:
    (folder / name).write_bytes(content)
    assert reason in refused(folder)


def test_a_final_never_brings_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdistill.models.families._USER_FAMILIES", {})
    monkeypatch.chdir(folder)
    (folder / "own.py").write_text("raise SystemExit('code of the folder was run')")
    (folder / "architecture.json").write_text('{"family":"own","values":{}}')
    message = refused(folder)
    assert "family 'own'" in message and "--import" in message


# -- weights ------------------------------------------------------------------------------------


class Trap:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    path, sprung = tmp_path / "teacher.pt", tmp_path / "sprung"
    if zipped:
        torch.save({"weight": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Trap(sprung)}, protocol=2))
    with pytest.raises(UserError, match="could run code"):
        read_weights(path)
    assert not sprung.exists()
    path.rename(tmp_path / "teacher.safetensors")
    with pytest.raises(UserError, match="not safetensors"):
        read_weights(tmp_path / "teacher.safetensors")
    assert not sprung.exists()


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_plain_tensors_are_read(tmp_path: Path, key: str | None) -> None:
    weights = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}
    torch.save(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "a.pt")
    read = read_weights(tmp_path / "a.pt")
    assert set(read) == set(weights) and torch.equal(read["weight"], weights["weight"])
    linear = nn.Linear(3, 2)
    load_weights(linear, read, "a.pt")
    assert linear(torch.ones(1, 3)).tolist() == [[4.0, 13.0]]


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    torch.save({"a": torch.zeros(100)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    for name, reason in (
        ("list", "holds no state_dict"),
        ("epoch", "holds no state_dict"),
        ("cut", "truncated"),
        ("empty", "truncated"),
        ("text", "not"),
        ("none", "no such file"),
    ):
        with pytest.raises(UserError, match=f"{name}.pt: .*{reason}"):
            read_weights(tmp_path / f"{name}.pt")


def test_nothing_is_loaded_when_anything_differs(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 4), "extra": torch.ones(1)}, tmp_path / "a.safetensors")
    linear = nn.Linear(3, 2)
    before = linear.weight.clone()
    with pytest.raises(UserError) as caught:
        load_weights(linear, read_weights(tmp_path / "a.safetensors"), "a.safetensors")
    assert str(caught.value) == (
        "a.safetensors: weights of another architecture or other classes (missing: bias; "
        "unknown: extra; other shapes: weight is (2, 4), expected (2, 3))"
    )
    assert torch.equal(linear.weight, before)


# -- export -------------------------------------------------------------------------------------


def batch_dimension(path: Path) -> str:
    shape = onnx.load(str(path)).graph.input[0].type.tensor_type.shape
    return str(shape.dim[0].dim_param)


def test_the_folders_onnx_takes_any_batch(written: Path, original: Classifier) -> None:
    path = written / "model.onnx"
    assert batch_dimension(path)
    verification = verify_onnx(original, INPUT, path, batches=(1, 2, 13))
    assert verification.ok and verification.max_abs_difference <= 1e-4
    graph = onnx.load(str(path)).graph
    assert [graph.input[0].name, graph.output[0].name] == ["images", "logits"]


@pytest.mark.parametrize("name", ["resnet", "vit", "mlp"])
def test_other_families_export(name: str, tmp_path: Path) -> None:
    input = Input(1, 17, 20)
    module = classifier(SearchSpace.load(name).random(random.Random(1)), input)
    export_onnx(module, input, tmp_path / "a.onnx")
    assert batch_dimension(tmp_path / "a.onnx")
    assert verify_onnx(module, input, tmp_path / "a.onnx").ok
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_model_of_pictures_of_little_contrast_is_exported(tmp_path: Path) -> None:
    input = Input(1, 17, 20)
    net = build(SearchSpace.load("mlp").random(random.Random(1)), input, 3)
    faint = Classifier(net, (0.2,), (1e-6,)).eval()  # magnifies what it sees a million times
    export_onnx(faint, input, tmp_path / "a.onnx")
    verification = verify_onnx(faint, input, tmp_path / "a.onnx")
    assert verification.ok and verification.allowed > 1.0
    other = Classifier(net, (0.3,), (1e-6,)).eval()
    assert not verify_onnx(other, input, tmp_path / "a.onnx").ok


def test_verification_sees_another_model(written: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = Classifier(build(mobile(), INPUT, 3), (0.5,) * 3, (0.5,) * 3)
    (tmp_path / "a.onnx").write_bytes(quick_onnx(other, INPUT))
    assert verify_onnx(other, INPUT, tmp_path / "a.onnx").ok
    verification = verify_onnx(other, INPUT, written / "model.onnx")
    assert not verification.ok and verification.max_abs_difference > 1e-4
    assert other.training


class Restless(nn.Module):
    """Gives other outputs each time it is called."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(images.mean(dim=(1, 2, 3)))[:, None]


def test_a_file_that_disagrees_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="apart; allowed is 0.0001"):
        export_onnx(Restless(), INPUT, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_exported_program_reloads(written: Path, original: Classifier, tmp_path: Path) -> None:
    export_program(original, INPUT, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 6):
        images = torch.rand(batch, 3, 16, 16)
        with torch.inference_mode():
            torch.testing.assert_close(program(images), original(images), atol=1e-4, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
