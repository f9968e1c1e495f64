"""Views: the same picture whoever asks, and another one for every example and view."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, fill, load, pixels, surveyed

from nasdistill.data import Dataset, ResidentSplit, Split, StreamingSplit, Views
from nasdistill.data.views import cover


@pytest.fixture(scope="module")
def mini() -> Dataset:
    return load("fashion-mnist-mini")


def pair_of_splits(
    folder: Path, kind: Any, stored: tuple[int, int], own: tuple[int, int] | None = None
) -> tuple[Split, Split]:
    """The same images on the device and in files."""
    fill(folder, 12, own or stored)
    files, labels, views = surveyed(folder, stored), np.arange(12) % 2, Views(kind, seed=5)
    return (
        ResidentSplit(torch.from_numpy(files.decode_all()), labels, views, CPU),
        StreamingSplit(files, labels, views, CPU, workers=1),
    )


@pytest.mark.parametrize(
    ("kind", "stored", "own", "size"),
    [
        ("crop", (80, 80), (80, 80), (80, 80)),
        ("crop", (96, 72), (96, 72), (64, 64)),
        ("crop", (70, 70), (90, 120), (48, 48)),
        ("shift", (48, 48), (90, 120), (48, 48)),
        ("shift", (28, 28), (28, 28), (40, 40)),
        ("none", (28, 28), (28, 28), (20, 28)),
    ],
)
def test_same_view_same_pixels_whatever_the_batch(
    tmp_path: Path, kind: Any, stored: Any, own: Any, size: Any
) -> None:
    resident, streaming = pair_of_splits(tmp_path / "a", kind, stored, own)
    for view in (None, 0, 7, 10**6):
        whole = pixels(resident, list(range(12)), view, size)
        assert whole.shape == (12, 3, *size)
        alone = torch.cat([pixels(resident, [i], view, size) for i in range(12)])
        backwards = pixels(resident, list(range(11, -1, -1)), view, size).flip(0)
        streamed = pixels(streaming, list(range(12)), view, size)
        for other in (alone, backwards, streamed):
            assert torch.equal(whole, other)


def test_workers_stream_what_the_process_itself_does(tmp_path: Path) -> None:
    resident, streaming = pair_of_splits(tmp_path / "a", "crop", (70, 70))
    plan = [(torch.tensor([i, 11 - i]), i) for i in range(4)]
    pairs = zip(resident.batches(plan, (32, 32)), streaming.batches(plan, (32, 32)), strict=True)
    for kept, decoded in pairs:
        assert torch.equal(kept.images, decoded.images) and torch.equal(kept.labels, decoded.labels)


def test_shifted_views_of_small_images(mini: Dataset) -> None:
    ids = list(range(40))
    whole = pixels(mini.train, ids, 3, (28, 28))
    assert torch.equal(whole[7:8], pixels(mini.train, [7], 3, (28, 28)))
    assert isinstance(mini.train, ResidentSplit)
    assert torch.equal(pixels(mini.train, ids, None, (28, 28)), mini.train.images[:40])
    boxes = mini.views.boxes(torch.tensor(ids), 3, 28, 28)
    for image, shown, top, left, flip in zip(
        mini.train.images[:40], whole, boxes.top, boxes.left, boxes.flip, strict=True
    ):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        top, left = int(top) + 2, int(left) + 2
        expected = padded[:, top : top + 28, left : left + 28]
        assert torch.equal(shown, expected.flip(2) if flip else expected)


@pytest.mark.parametrize("kind", ["shift", "crop"])
def test_views_differ_and_cover_their_range(kind: Any) -> None:
    ids = torch.arange(4000)
    first = Views(kind, 0).boxes(ids, 0, 100, 100)
    for other in (Views(kind, 0).boxes(ids, 1, 100, 100), Views(kind, 1).boxes(ids, 0, 100, 100)):
        assert (first.left != other.left).float().mean() > 0.7
        assert abs(float((first.flip ^ other.flip).float().mean()) - 0.5) < 0.05
    assert abs(float(first.flip.float().mean()) - 0.5) < 0.05
    assert not Views(kind, 0, flip=False).boxes(ids, 0, 100, 100).flip.any()
    if kind == "shift":
        assert set(first.top.tolist()) == set(first.left.tolist()) == {-2, -1, 0, 1, 2}
    else:
        area = first.height * first.width / 100**2
        assert 0.3 < area.min() < 0.4 and 0.95 < area.max() <= 1
        assert (first.top >= 0).all() and (first.top + first.height <= 100.001).all()


def test_same_crop_at_another_size() -> None:
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    images = torch.stack([rows + 20, columns + 60, (rows + columns) / 2]).byte()[None]
    split = ResidentSplit(images, np.zeros(1, np.int64), Views("crop", 2), CPU)
    for view in range(6):
        large = pixels(split, [0], view, (64, 64)).float()
        small = pixels(split, [0], view, (32, 32)).float()
        averaged = torch.nn.functional.avg_pool2d(large, 2)
        assert (averaged - small).abs().max() <= 1.5


def test_boxes_are_in_source_pixels_whatever_is_shown() -> None:
    ids = torch.arange(50)
    views = Views("crop", 3)
    one, twice = views.boxes(ids, 4, 100, 80), views.boxes(ids, 4, 200, 160)
    for name in ("top", "left", "height", "width"):
        assert torch.allclose(getattr(one, name) * 2, getattr(twice, name), atol=1e-3)
    assert torch.equal(one.flip, twice.flip)
    assert (one.left + one.width <= 80.001).all() and (one.height <= 100).all()


def test_draws_do_not_depend_on_the_machine() -> None:
    shift = Views("shift", 1).boxes(torch.arange(8), 2, 28, 28)
    assert shift.top.tolist() == [0, -1, 2, 0, 0, 1, 2, -1]
    assert shift.left.tolist() == [0, 0, 1, 2, 0, -1, 1, 1]
    assert shift.flip.tolist() == [False, False, True, False, True, True, False, True]


def test_plain_images_keep_their_proportions() -> None:
    images = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    images[..., 20:60] = 200  # The middle square.
    assert (cover(images, (40, 40)) == 200).all()
    assert (cover(images, (20, 20)) == 200).all()
    assert cover(images, (40, 80)) is images
    assert cover(images, (20, 40))[0, 0, 0].tolist()[0] == 0


# -- cut-out


@pytest.mark.parametrize("kind", ["shift", "crop", "none"])
def test_cut_out_blackens_one_square_of_the_view_that_would_be_there(kind: Any) -> None:
    images = torch.full((200, 1, 20, 20), 255, dtype=torch.uint8)
    labels = np.zeros(200, dtype=np.int64)
    plain = Views(kind, 5)
    whole = ResidentSplit(images, labels, plain, CPU)
    cut = ResidentSplit(images, labels, replace(plain, cut_out=0.25), CPU)
    ids = list(range(200))
    before, after = pixels(whole, ids, 3, (20, 20)), pixels(cut, ids, 3, (20, 20))
    changed = (before != after)[:, 0]
    assert (after[:, 0][changed] == 0).all()
    tall = changed.any(2).sum(1)
    assert tall.max() == 5, "a quarter of 20 pixels"
    assert (changed.sum((1, 2)) > 0).float().mean() > 0.95
    for one in range(200):  # what is black is one rectangle
        rows, columns = changed[one].any(1), changed[one].any(0)
        assert torch.equal(changed[one], rows[:, None] & columns[None, :])
    middles = [float(changed[i].any(1).float().argmax()) for i in range(200) if tall[i] == 5]
    assert len(set(middles)) == 16, "every place is met"
    assert torch.equal(pixels(cut, ids, None, (20, 20)), images), "the plain picture is whole"


def test_cut_out_is_the_same_in_every_batch_and_at_every_size() -> None:
    images = torch.full((8, 3, 32, 32), 200, dtype=torch.uint8)
    views = Views("none", 1, cut_out=0.5)
    split = ResidentSplit(images, np.zeros(8, dtype=np.int64), views, CPU)
    (batch,) = split.batches([(torch.arange(8), 2)], (32, 32), [(16, 16)])
    small = batch.images_at((16, 16))
    black = torch.nn.functional.avg_pool2d((batch.images == 0).float(), 2)
    assert 0.1 < black.mean() < 0.3 and float((black - (small == 0).float()).abs().mean()) < 0.03
    alone = torch.cat([pixels(split, [i], 2, (32, 32)) for i in range(8)])
    assert torch.equal(alone, batch.images)
