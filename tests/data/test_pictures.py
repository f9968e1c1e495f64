"""Pictures of all kinds: training, evaluation, a final and its card see the same pixels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from data_helpers import fill, load, pixels, refused, surveyed
from picture_kinds import COUNT, KINDS, RNG, bar, folder_of
from PIL import Image

from nasdistill.common.types import Input
from nasdistill.data import Dataset
from nasdistill.data.pictures import Preparation
from nasdistill.models import Classifier, build
from nasdistill.models.artifact import ModelSpec, classify, preparation_of, write_final
from nasdistill.space import Architecture

NET = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_sees_what_was_trained(kind: str, tmp_path: Path) -> None:
    root = folder_of(kind, tmp_path / "data")
    data = load(f"folder:{root}", **KINDS[kind])
    folder = shipped(data, tmp_path / "final")
    (cell,) = re.findall(r"```python\n(import numpy.*?)```", card_of(data), re.DOTALL)
    assert len([line for line in cell.splitlines() if line]) <= 16
    way = preparation_of(folder)
    assert way == data.preparation
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    module = torch.nn.Sequential(net_of(data), torch.nn.Softmax(1)).eval()
    seen = set()
    for index in (0, 1, len(data.train) - 2, len(data.train) - 1):
        path = root / data.names[index]
        trained = pixels(data.train, [index], None, data.input.size)
        with Image.open(path) as image:
            assert np.array_equal(trained[0].numpy(), way.pixels(image))
        scope: dict[str, Any] = {}
        exec(cell.replace("picture.jpg", str(path)), scope)
        assert scope["pixels"].dtype == np.float32
        assert np.array_equal(scope["pixels"], trained.numpy().astype(np.float32) / 255)
        with torch.inference_mode():
            expected = module(trained)[0]
        ranked = dict(classify(folder, path))
        assert [ranked[name] for name in data.classes] == expected.tolist()
        (logits,) = session.run(None, {"images": scope["pixels"]})
        assert np.argmax(logits) == int(expected.argmax())
        seen.add(trained.numpy().tobytes())
    assert len(seen) > 1


def net_of(data: Dataset) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build(NET, data.input, 2), data.mean, data.std).eval()


def shipped(data: Dataset, folder: Path) -> Path:
    spec = ModelSpec(NET, data.preparation, data.classes)
    write_final(folder, module=net_of(data), spec=spec, metrics={}, card="")
    return folder


def card_of(data: Dataset) -> str:
    return f"```python\n{data.preparation.recipe()}```"


def test_a_rule_in_the_middle_is_found_by_whoever_cuts_it_out(tmp_path: Path) -> None:
    """Squeezed instead of cut, the ends of a wide picture would say the other class."""
    for label, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for number in range(COUNT):
            wide = np.zeros((64, 192), np.uint8)
            wide[:, 64 + 32 * label : 96 + 32 * label] = 230
            wide[:, slice(128, 192) if label == 0 else slice(0, 64)] = 230
            Image.fromarray(wide if number % 2 else wide[:, 16:-16]).save(
                tmp_path / name / f"{number}.png"
            )
    data = load(f"folder:{tmp_path}", image_size=64)
    for path in sorted(tmp_path.glob("*/*.png")):
        with Image.open(path) as image:
            shown = data.preparation.pixels(image)[0].astype(int)
        left, right = shown[:, :32].mean(), shown[:, 32:].mean()
        assert (left > right) == (path.parent.name == "a")


def test_12_bits_in_16_are_spread_over_the_whole_range(tmp_path: Path) -> None:
    data = load(f"folder:{folder_of('16 bits, turned', tmp_path)}")
    assert data.bits == 12 and data.input == Input(1, 32, 32)
    shown = pixels(data.train, list(range(len(data.train))), None, (32, 32))
    assert shown.amax() == 230 and shown.amin() < 10
    columns = shown[:, 0].float().mean(dim=1)
    brightest = columns.argmax(dim=1) // 16  # All upright: the bar is where the class says.
    assert brightest.tolist() == data.train.labels.tolist()
    assert data.notes[0] == (
        "20 picture(s) of 16 bits whose largest value is 3,680: read as 12 bits, of which the "
        "upper 8 are kept"
    )


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    data = load(f"folder:{folder_of('black on transparent', tmp_path)}")
    shown = pixels(data.train, [0, len(data.train) - 1], None, (32, 32))
    assert shown.amax() > 190 and shown.amin() == 25  # 255 less an opacity of 230.
    assert data.notes[0] == "20 picture(s) transparent in part: laid over white"


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    plain, layered = tmp_path / "plain", tmp_path / "layered"
    for label, name in enumerate("ab"):
        for root in (plain, layered):
            (root / name).mkdir(parents=True)
        for number in range(COUNT):
            image = Image.fromarray(np.dstack([bar(label)] * 3))
            image.save(plain / name / f"{number}.png")
            image.convert("RGBA").save(layered / name / f"{number}.png")
    first, second = load(f"folder:{plain}"), load(f"folder:{layered}")
    shown = [pixels(data.train, [0, 5], None, (32, 32)) for data in (first, second)]
    assert torch.equal(*shown) and first.notes == second.notes


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("cmyk", "20 picture(s) in CMYK: converted to RGB without their colour profile"),
        ("animated", "20 picture(s) of several frames: the first is taken"),
    ],
)
def test_what_was_done_is_said_once(kind: str, note: str, tmp_path: Path) -> None:
    assert load(f"folder:{folder_of(kind, tmp_path)}").notes[0] == note


def save_floats(path: Path) -> None:
    Image.fromarray(np.full((16, 16), 0.5, np.float32)).save(path)


def save_wide_integers(path: Path) -> None:
    Image.fromarray(np.full((16, 16), 70_000, np.int32)).save(path)


def save_lab(path: Path) -> None:
    Image.new("LAB", (16, 16)).save(path)


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (save_floats, "float pixels have no known range; save 8 or 16 bits"),
        (save_wide_integers, "values from 70000 to 70000; save 8 or 16 bits"),
        (save_lab, "mode LAB is not converted; save grey or RGB"),
    ],
)
def test_values_of_unknown_range_are_refused_by_name(
    save: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    root = folder_of("bilevel", tmp_path)
    save(root / "a" / "odd.tif")
    message = refused(f"folder:{root}")
    assert "1 unreadable image(s)" in message and f"odd.tif ({reason})" in message


@pytest.mark.parametrize("kind", ["16 bits, turned", "wide"])
def test_streamed_files_are_prepared_alike(kind: str, tmp_path: Path) -> None:
    root = folder_of(kind, tmp_path)
    kept, streamed = (
        load(f"folder:{root}", image_size=96, resident_limit=limit) for limit in (1 << 30, 1)
    )
    shown = [pixels(data.train, [0, 3, 1], None, (96, 96)) for data in (kept, streamed)]
    assert torch.equal(*shown)


def test_other_data_are_prepared_as_those_of_the_study(tmp_path: Path) -> None:
    own = load(f"folder:{folder_of('16 bits, turned', tmp_path / 'own')}", image_size=40)
    assert own.preparation == Preparation(1, (40, 40), (32, 32), bits=12)
    dim = tmp_path / "dim"
    for name in "ab":
        (dim / name).mkdir(parents=True)
        for number in range(COUNT):
            deep = RNG.integers(0, 1000, (50, 70)).astype(np.uint16)  # 10 bits by themselves
            Image.fromarray(deep).save(dim / name / f"{number}.png")
    alone = load(f"folder:{dim}", image_size=40)
    other = load(f"folder:{dim}", preparation=own.preparation)
    assert alone.bits == 10 and other.preparation == own.preparation
    name = other.names[0]
    with Image.open(dim / name) as image:
        expected = own.preparation.pixels(image)
    assert np.array_equal(pixels(other.train, [0], None, (40, 40))[0].numpy(), expected)


def test_the_bits_in_use_enter_the_fingerprint_of_streamed_files(tmp_path: Path) -> None:
    root = folder_of("16 bits, turned", tmp_path)
    first = load(f"folder:{root}", image_size=96, resident_limit=1)
    way = Preparation(1, (96, 96), (96, 96), bits=16)
    other = load(f"folder:{root}", preparation=way, resident_limit=1)
    assert first.fingerprint != other.fingerprint


def test_files_are_decoded_as_they_are_stored_and_keep_their_identity(tmp_path: Path) -> None:
    fill(tmp_path, 2, (80, 60))
    files = replace(surveyed(tmp_path, (40, 30)), preparation=Preparation(3, (70, 70), (40, 30)))
    assert files.decode_all().shape == (2, 3, 40, 30)
    form = b"(3, (40, 30))" + b"".join(files.digests)
    assert files.identity() == hashlib.blake2b(form, digest_size=16).digest()
