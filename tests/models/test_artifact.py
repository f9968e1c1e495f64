"""A final's folder: written whole, loaded without code, exported and verified."""

from __future__ import annotations

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

from nasdistill import models
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import Classifier, build
from nasdistill.models.artifact import classify, load, write_final
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
        architecture=mobile(),
        input=INPUT,
        classes=CLASSES,
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
    again = load(written)
    assert not again.training
    ours, theirs = original.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(original(images), again(images))


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
    about = json.loads((written / "input.json").read_text())
    assert about["classes"] == list(CLASSES) and about["range"] == [0, 1]
    assert (about["channels"], about["height"], about["width"]) == (3, 16, 16)
    assert about["mean"] == pytest.approx([0.25, 0.5, 0.75])
    assert json.loads((written / "metrics.json").read_text()) == {"test_accuracy": 0.9}
    assert (written / "README.md").read_text() == "# A card\n"


def test_leftovers_of_a_killed_write_are_replaced(original: Classifier, tmp_path: Path) -> None:
    (tmp_path / "2.tmp").mkdir()
    (tmp_path / "2.tmp" / "junk").write_text("half")
    (tmp_path / "ready.onnx").write_bytes(b"exported before")
    write_final(
        tmp_path / "2",
        module=original,
        architecture=mobile(),
        input=INPUT,
        classes=CLASSES,
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
        architecture=mobile(),
        input=INPUT,
        classes=CLASSES,
        metrics={},
        card="",
        onnx=tmp_path / "any.onnx",
        half=True,
    )
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    again, ours = load(tmp_path / "half").state_dict(), original.state_dict()
    assert all(again[key].dtype == ours[key].dtype for key in ours)
    assert all(torch.equal(again[k], ours[k].half().to(ours[k].dtype)) for k in ours)


def test_a_png_is_classified_from_the_folder_alone(
    written: Path, original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(written, tmp_path / "elsewhere"))
    (moved / "model.onnx").unlink()
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("own.png")
    found = classify("elsewhere", "own.png")
    with torch.inference_mode():
        logits = original(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    expected = dict(zip(CLASSES, logits.softmax(1)[0].tolist(), strict=True))
    assert dict(found) == pytest.approx(expected, abs=1e-6)
    assert [share for _, share in found] == sorted(expected.values(), reverse=True)
    assert sum(share for _, share in found) == pytest.approx(1, abs=1e-5)
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
    about = json.loads((folder / "input.json").read_text())
    about["classes"].append("fox")
    (folder / "input.json").write_text(json.dumps(about))
    message = refused(folder)
    assert "net.head.bias is (3,), expected (4,)" in message


@pytest.mark.parametrize(
    ("name", "content", "told"),
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
def test_broken_json(folder: Path, name: str, content: bytes, told: str) -> None:
    (folder / name).write_bytes(content)
    assert told in refused(folder)


def test_a_final_never_brings_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_USER_FAMILIES", {})
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
    found = read_weights(tmp_path / "a.pt")
    assert set(found) == set(weights) and torch.equal(found["weight"], weights["weight"])
    linear = nn.Linear(3, 2)
    load_weights(linear, found, "a.pt")
    assert linear(torch.ones(1, 3)).tolist() == [[4.0, 13.0]]


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    torch.save({"a": torch.zeros(100)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    for name, told in (
        ("list", "holds no state_dict"),
        ("epoch", "holds no state_dict"),
        ("cut", "truncated"),
        ("empty", "truncated"),
        ("text", "not"),
        ("none", "no such file"),
    ):
        with pytest.raises(UserError, match=f"{name}.pt: .*{told}"):
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
    found = verify_onnx(original, INPUT, path, batches=(1, 2, 13))
    assert found.ok and found.max_abs_difference <= 1e-4
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


def test_verification_sees_another_model(written: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = Classifier(build(mobile(), INPUT, 3), (0.5,) * 3, (0.5,) * 3)
    (tmp_path / "a.onnx").write_bytes(quick_onnx(other, INPUT))
    assert verify_onnx(other, INPUT, tmp_path / "a.onnx").ok
    found = verify_onnx(other, INPUT, written / "model.onnx")
    assert not found.ok and found.max_abs_difference > 1e-4
    assert other.training


class Restless(nn.Module):
    """TeacherTargets anew each time it is asked."""

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
