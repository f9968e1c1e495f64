"""ONNX files that prepare pictures themselves, beside `classify` and Pillow."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from data_helpers import load
from numpy.typing import NDArray
from picture_kinds import KINDS, folder_of
from PIL import Image

from nasdistill.common.errors import UserError
from nasdistill.common.events import silent
from nasdistill.data import Dataset
from nasdistill.data.pictures import Preparation, in_8_bits
from nasdistill.deployment.formats import FORMATS, with_preprocessing
from nasdistill.deployment.metadata import metadata_of
from nasdistill.deployment.preprocessing import with_preparation
from nasdistill.deployment.runtime import FreshRuntime
from nasdistill.deployment.source import Source
from nasdistill.models import Classifier, artifact, build
from nasdistill.models.artifact import ModelSpec, classify, write_final
from nasdistill.results.files import problems_of
from nasdistill.space import Architecture

RNG = np.random.default_rng(0)
GEN = Path(__file__).parents[3] / "shared" / "cases" / "gen.py"
CASES: dict[str, dict[str, Any]] = {
    "exif": {},
    "wide": {},
    "deep": {"image_size": 40},
    "alpha": {"channels": 3},
    "suffix": {"image_size": 24},
    "swap": {"channels": 1},
    "nocls": {},
    "skew": {"image_size": 20},
}
"""All kinds of gen.py; some with channels or a size that are not their own."""


def session_of(content: bytes | Path) -> onnxruntime.InferenceSession:
    source = str(content) if isinstance(content, Path) else content
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def pixels_only(preparation: Preparation, tall_first: bool = True) -> onnxruntime.InferenceSession:
    """A file that does nothing but prepare: its logits are the pixels."""
    helper, shape = onnx.helper, ["batch", preparation.channels, *preparation.size]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("images", "logits")
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["logits"])], "nothing", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = with_preparation(model.SerializeToString(), preparation, tall_first, "nothing")
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    return session_of(content)


def drawn(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation(3, (32, 32), (32, 32)),
        Preparation(1, (28, 28), (28, 28)),
        Preparation(3, (40, 40), (32, 32)),
        Preparation(1, (40, 24), (33, 50)),
    ],
)
def test_pixels_are_pillows_to_the_bit(preparation: Preparation) -> None:
    session = pixels_only(preparation)
    sizes = [(1, 1), (2, 300), (300, 2), (32, 32), (33, 31), (640, 481), (97, 303)]
    sizes += [(int(h), int(w)) for h, w in RNG.integers(1, 200, (13, 2))]
    for height, width in sizes:
        for channels in (1, 2, 3, 4):
            picture = drawn(height, width, channels)
            image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
            expected = preparation.pixels(image).astype(np.float32) / np.float32(255)
            (pixels,) = session.run(None, {"image": picture})
            assert np.array_equal(pixels[0], expected), (height, width, channels)


def test_the_order_of_passes_is_that_of_the_pillow_of_training() -> None:
    """Pillow 13 resamples tall pictures vertically first; before, the other way round."""
    preparation, tall = Preparation(1, (16, 16), (16, 16)), drawn(120, 30, 1)
    new, old = (pixels_only(preparation, tall_first) for tall_first in (True, False))
    apart = new.run(None, {"image": tall})[0] - old.run(None, {"image": tall})[0]
    assert 0 < np.abs(np.rint(apart * 255)).max() <= 1
    wide = drawn(30, 120, 1)
    assert np.array_equal(*(each.run(None, {"image": wide})[0] for each in (new, old)))


def final_of(data: Dataset, folder: Path) -> Path:
    architecture = Architecture(
        "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
    )
    torch.manual_seed(0)
    net = build(architecture, data.input, len(data.classes))
    module = Classifier(net, data.mean, data.std).eval()
    spec = ModelSpec(architecture, data.preparation, data.classes)
    write_final(folder, module=module, spec=spec, metrics={}, card="")
    return folder


def write(final: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Writes a final's file of a format without proving it."""
    says = metadata_of(artifact.read_input(final), "study", "print", "")
    shape = artifact.input_of(final)
    onnx_file = final / "model.onnx"
    source = Source(artifact.load(final), shape, onnx_file, says, None, 0.5, silent)
    format = {str(key): each for key, each in FORMATS.items()}[name]
    return final / format.file, format.write(source, final / format.file)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_classify(kind: str, tmp_path: Path) -> None:
    root = folder_of(kind, tmp_path / "data")
    check_answers(load(f"folder:{root}", **KINDS[kind]), root, tmp_path / "final")


@pytest.mark.skipif(not GEN.is_file(), reason="the generator of untidy data is not at hand")
@pytest.mark.parametrize("kind", CASES)
def test_answers_on_generated_data_are_those_of_classify(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    monkeypatch.setattr(sys, "argv", ["gen.py", kind, str(root)])
    runpy.run_path(str(GEN), run_name="__main__")
    data = load(f"folder:{root}", **CASES[kind])
    check_answers(data, root / "train" if kind == "nocls" else root, tmp_path / "final")


def check_answers(data: Dataset, root: Path, folder: Path) -> None:
    """Holds the file's answers against `classify` on a dozen of the pictures."""
    final = final_of(data, folder)
    path, _ = write(final, "onnx-with-preprocessing")
    session, preparation = session_of(path), data.preparation
    files = [file for file in sorted(root.glob("*/*")) if file.is_file()]
    for file in files[:: -(-len(files) // 12)]:
        with Image.open(file) as image:
            (logits,) = session.run(None, {"image": decoded(image, preparation)})
        odds = np.exp(logits[0] - logits[0].max())
        ranked = dict(classify(final, file))
        expected = [ranked[name] for name in data.classes]
        np.testing.assert_allclose(odds / odds.sum(), expected, rtol=1e-5, atol=1e-7)


def decoded(image: Image.Image, preparation: Preparation) -> NDArray[np.uint8]:
    """What a decoder hands over: upright, of 8 bits, with its alpha where it has one."""
    image.draft(None, (2 * max(preparation.stored),) * 2)
    if image.mode not in ("RGBA", "LA"):
        image = in_8_bits(image, 1 if image.mode.startswith(("I", "L")) else 3, preparation.bits)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def test_the_file_says_what_it_takes(tmp_path: Path) -> None:
    final = final_of(load("fashion-mnist-mini"), tmp_path / "final")
    path, remarks = write(final, "onnx-with-preprocessing")
    assert path.name == "model-with-preprocessing.onnx" and remarks["around"] == "model.onnx"
    session = session_of(path)
    says = session.get_modelmeta().custom_metadata_map
    assert "uint8 [height, width, channels] of any size" in says["takes"]
    assert len(json.loads(says["classes"])) == 10
    [image_input] = session.get_inputs()
    assert (image_input.name, image_input.type) == ("image", "tensor(uint8)")
    with FreshRuntime(path, "onnx-with-preprocessing", 1) as runtime:
        pictures = RNG.integers(0, 256, (3, 4, 57, 33), dtype=np.uint8)
        assert runtime.answers(pictures).shape == (3, 10)


def test_only_onnx_files_prepare(tmp_path: Path) -> None:
    assert with_preprocessing("onnx-int8") == "onnx-int8-with-preprocessing"
    assert with_preprocessing("onnx-with-preprocessing") == "onnx-with-preprocessing"
    with pytest.raises(UserError, match="torch-export takes prepared pictures; allowed is onnx, "):
        with_preprocessing("torch-export")
    final = final_of(load("fashion-mnist-mini"), tmp_path / "final")
    about = json.loads((final / "input.json").read_text())
    (final / "input.json").write_text(json.dumps({**about, "resize": "lanczos"}))
    with pytest.raises(UserError, match="resize: found 'lanczos', allowed: 'bilinear'"):
        write(final, "onnx-with-preprocessing")
    old = onnx.load(final / "model.onnx")
    old.opset_import[0].version = 12
    with pytest.raises(UserError, match="opset 12; preparation needs 13 or later"):
        with_preparation(old.SerializeToString(), Preparation(1, (28, 28), (28, 28)), True, "f")


def test_another_preparation_is_a_problem() -> None:
    prepared = {"pictures": 28, "apart": 3, "largest_difference": 0.1, "pillow": "13.0.0"}
    figures = {"limits": {}, "largest_difference": 0.0, "preparation": prepared}
    assert problems_of(figures, 0.5) == ["prepares 3 of 28 pictures otherwise than Pillow 13.0.0"]
