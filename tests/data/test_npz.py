"""Arrays in an npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import lengths, load, refused, write_npz

from nasdistill.common.types import Input
from nasdistill.data import ResidentSplit


def test_npz_is_split_or_brings_its_splits(tmp_path: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz"))
    assert sum(lengths(data)) == 30 and data.classes == ("0", "1", "2")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    data = load(
        write_npz(
            tmp_path / "b.npz",
            images=np.tile(colour, (5, 1, 1, 1)),
            test_images=colour,
            test_labels=np.arange(6) % 3,
            validation_images=colour,
            validation_labels=np.arange(6) % 3,
            classes=np.array(["red", "green", "blue"]),
        )
    )
    assert lengths(data) == [30, 3, 3, 6] and data.classes == ("red", "green", "blue")
    assert data.input == Input(3, 16, 16)
    assert isinstance(data.test, ResidentSplit)
    assert torch.equal(data.test.images, torch.from_numpy(colour).permute(0, 3, 1, 2))


def test_npz_with_a_test_file_beside_it(tmp_path: Path) -> None:
    write_npz(
        tmp_path / "test.npz", images=np.full((9, 16, 16), 7, np.uint8), labels=np.arange(9) % 3
    )
    data = load(write_npz(tmp_path / "train.npz"))
    assert isinstance(data.test, ResidentSplit)
    assert len(data.test) == 9 and data.test.images.unique().tolist() == [7]
    assert lengths(load(write_npz(tmp_path / "other.npz")))[3] == 6


def test_npz_of_large_images_is_resized_and_of_small_ones_when_shown(tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(0, 256, (30, 80, 120), dtype=np.uint8)
    data = load(write_npz(tmp_path / "large.npz", images=large), image_size=72)
    assert isinstance(data.train, ResidentSplit) and data.views.kind == "crop"
    assert data.train.images.shape[1:] == data.train.images.shape[1:2] + (72, 72)
    data = load(write_npz(tmp_path / "small.npz"), image_size=128)
    assert isinstance(data.train, ResidentSplit) and data.views.kind == "shift"
    assert data.input == Input(1, 128, 128) and data.train.images.shape[1:] == (1, 16, 16)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": None}, "no array 'labels' (found: images)"),
        ({"images": None}, "no array 'images' (found: labels)"),
        ({"images": np.zeros((30, 16, 16))}, "dtype float64; allowed is uint8"),
        ({"images": np.zeros((30, 16), np.uint8)}, "shape (30, 16)"),
        ({"images": np.zeros((30, 16, 16, 4), np.uint8)}, "shape (30, 16, 16, 4)"),
        ({"images": np.zeros((0, 16, 16), np.uint8), "labels": np.zeros(0, int)}, "no images"),
        ({"images": np.zeros((30, 8, 8), np.uint8)}, "8x8 pixels"),
        ({"labels": np.zeros(29, int)}, "labels are of shape (29,)"),
        ({"labels": np.zeros(30)}, "labels have dtype float64"),
        ({"labels": np.zeros(30, int)}, "1 class; at least 2"),
        ({"labels": np.arange(30) % 3 - 1}, "label -1 of example 0 is out of range"),
        ({"labels": np.full(30, -1)}, "at least 2 are needed"),
        ({"labels": np.array([0, 1] * 14 + [0, 10**12])}, "label 1000000000000 of example 29"),
        ({"labels": np.array([0, 2] * 15)}, "too few train examples: '1' has 0"),
        ({"classes": np.array(["a", "b"])}, "label 2 of example 2 is out of range (allowed: 0 to"),
        ({"classes": np.array("a")}, "1 class; at least 2"),
        ({"images": np.array([None] * 30, object)}, "not a readable npz of plain arrays"),
        (
            {"test_images": np.zeros((3, 16, 16), np.uint8), "test_labels": np.array([0, 1, 5])},
            "label 5 of example 2 is out of range",
        ),
        (
            {"test_images": np.zeros((3, 16, 18), np.uint8), "test_labels": np.arange(3)},
            "mixed sizes or channels",
        ),
        (
            {"test_images": np.zeros((3, 16, 16, 3), np.uint8), "test_labels": np.arange(3)},
            "mixed sizes or channels",
        ),
    ],
)
def test_bad_npz(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert reason in refused(write_npz(tmp_path / "bad.npz", **changes))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    assert "there is no such file" in refused(f"npz:{tmp_path / 'none.npz'}")
    (tmp_path / "text.npz").write_text("hello")
    assert "not a readable npz" in refused(f"npz:{tmp_path / 'text.npz'}")
    spec = write_npz(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "not a readable npz" in refused(spec)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    assert "not a readable npz" in refused(f"npz:{tmp_path / 'one.npz'}")
