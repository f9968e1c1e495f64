"""The C++ program in docs/devices, compiled and run on files of a final."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from nasdistill.common.events import silent
from nasdistill.data.pictures import Preparation
from nasdistill.deployment.calibration import Calibration
from nasdistill.deployment.formats import FORMATS
from nasdistill.deployment.metadata import metadata_of
from nasdistill.deployment.source import Source
from nasdistill.models import Classifier, artifact, build
from nasdistill.models.artifact import ModelSpec, classify, write_final
from nasdistill.space import Architecture

CODE = Path(__file__).parents[2] / "docs" / "devices" / "classify.cpp"
HEADER = "onnxruntime_cxx_api.h"
FOLDERS = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/local/include")
LIBRARIES = Path(onnxruntime.__file__).parent / "capi"
CLASSES = ('a "quoted" boot', "back\\slash", "Tür\tneben", "\x01 control", "coat")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program, linked with the library that Python's package brings."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine: the C++ program was not compiled")
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), *FOLDERS]
    headers = next((folder for folder in folders if Path(folder, HEADER).is_file()), None)
    libraries = sorted(LIBRARIES.glob("libonnxruntime.so.*"))
    if headers is None or not libraries:
        pytest.skip(
            f"no {HEADER} in ONNXRUNTIME_INCLUDE or {', '.join(FOLDERS)}, or no libonnxruntime in "
            "Python's onnxruntime: the C++ program was not compiled"
        )
    folder = tmp_path_factory.mktemp("compiled")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", headers]
    link = [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    command = [compiler, *options, str(CODE), *link, "-o", str(folder / "classify")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "classify"


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "rgb"])
def final(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A final that tells pictures apart, with files of three formats beside its fp32 one."""
    preparation = Preparation(request.param, (12, 16), (12, 16))
    torch.manual_seed(0)
    layers = {"type": "one", "widths": [8]}
    architecture = Architecture("mlp", {"activation": "relu", "dropout": 0.0, "layers": layers})
    net = build(architecture, preparation.input, len(CLASSES))
    module = Classifier(net, (0.5,) * request.param, (0.25,) * request.param)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("study") / "1"
    spec = ModelSpec(architecture, preparation, CLASSES)
    write_final(folder, module=module.eval(), spec=spec, metrics={}, card="")
    pictures = RNG.integers(0, 256, (64, request.param, 12, 16), dtype=np.uint8)
    labels = torch.arange(64) % len(CLASSES)
    calibration = Calibration(pictures, "64 random pictures", pictures, labels, "accuracy")
    says = metadata_of(artifact.read_input(folder), "study", "print", "")
    shape, onnx = preparation.input, folder / "model.onnx"
    source = Source(artifact.load(folder), shape, onnx, says, calibration, 100.0, silent)
    for name in ("onnx", "onnx-int8", "onnx-with-preprocessing", "onnx-int8-with-preprocessing"):
        FORMATS[name].write(source, folder / FORMATS[name].file)  # type: ignore[index]
    return folder


def run(program: Path, model: Path, picture: Path) -> dict[str, float]:
    """What the program prints: probabilities by name, the likeliest first."""
    command = [program, model, picture]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return {name: float(share) for share, _, name in lines}


def saved(path: Path, height: int, width: int, channels: int) -> Path:
    """A picture of coarse blocks, as PGM or PPM."""
    blocks = RNG.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels), dtype=np.uint8)
    pixels = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)
    return path


def models_for(final: Path, name: str, channels: int) -> list[Path]:
    """Files that take a picture of the final's size: the one that prepares, and the plain one."""
    plain = [final / f"{name}.onnx"] * (channels == artifact.input_of(final).channels)
    return [final / f"{name}-with-preprocessing.onnx", *plain]


@pytest.mark.parametrize("channels", [1, 3])
def test_answers_are_those_of_classify(
    program: Path, final: Path, tmp_path: Path, channels: int
) -> None:
    likeliest = set()
    for height, width in ((12, 16), (40, 37), (9, 80), (131, 60), (3, 3)):
        picture = saved(tmp_path / f"{height}.ppm", height, width, channels)
        expected = dict(classify(final, picture))
        for model in models_for(final, "model", channels)[: 2 if height == 12 else 1]:
            printed = run(program, model, picture)
            assert list(printed) == list(expected), (model, height)
            assert printed == pytest.approx(expected, abs=1e-4)
        likeliest.add(next(iter(expected)))
    assert len(likeliest) > 1  # else any answer would do


@pytest.mark.parametrize("channels", [1, 3])
def test_int8_answers_are_those_of_the_same_file_in_python(
    program: Path, final: Path, tmp_path: Path, channels: int
) -> None:
    picture = saved(tmp_path / "picture.ppm", 12, 16, channels)
    with Image.open(picture) as image:
        pixels = artifact.preparation_of(final).pixels(image)[None].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(str(final / "model-int8.onnx"))
    logits = torch.from_numpy(session.run(None, {"images": pixels})[0][0])
    expected = dict(zip(CLASSES, logits.softmax(0).tolist(), strict=True))
    for model in models_for(final, "model-int8", channels):
        assert run(program, model, picture) == pytest.approx(expected, abs=1e-4)


def test_what_it_cannot_use_is_told(program: Path, final: Path, tmp_path: Path) -> None:
    small = saved(tmp_path / "small.ppm", 8, 10, 3)
    commented = tmp_path / "commented.pgm"
    commented.write_bytes(b"P5\n# made by hand\n16 12\n255\n" + bytes(192))
    (tmp_path / "cut.pgm").write_bytes(b"P5 16 12 255\n" + bytes(191))
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 12 65535\n" + bytes(384))
    Image.new("L", (16, 12)).save(tmp_path / "picture.png")
    prepared = final / "model-with-preprocessing.onnx"
    assert run(program, prepared, commented) == pytest.approx(
        dict(classify(final, commented)), abs=1e-4
    )
    for model, picture, message in (
        ("model.onnx", small, "the picture has 10 x 8 pixels of 3 channel(s), the file takes 16 x"),
        ("model.onnx", tmp_path / "cut.pgm", "cut.pgm: ends before its last pixel"),
        ("model.onnx", tmp_path / "deep.pgm", "deep.pgm: allowed are 1 to 65535 pixels a side"),
        ("model.onnx", tmp_path / "picture.png", "picture.png: no binary PGM (P5) or PPM (P6)"),
        ("model.onnx", tmp_path / "none.pgm", "none.pgm: cannot be read"),
        ("model.safetensors", small, "model.safetensors failed"),
    ):
        command = [program, final / model, picture]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert done.stdout == ""
