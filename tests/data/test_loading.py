"""From a source to splits: what is cut off, and what stays as it comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data_helpers import lengths, load, write_npz


def test_validation_and_test_are_cut_off_where_there_are_none(tmp_path: Path) -> None:
    # 30 images: a sixth for test, a sixth of the rest for validation, in halves, by class.
    data = load(write_npz(tmp_path / "all.npz"))
    train, score, audit, test = lengths(data)
    assert train + score + audit + test == 30 and test == 6 and score == audit == 3
    for split in (data.train, data.score, data.audit, data.test):
        assert np.bincount(split.labels.numpy(), minlength=3).min() >= 1


def test_a_test_split_of_its_own_is_left_whole(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 16, 16), dtype=np.uint8)
    spec = write_npz(tmp_path / "two.npz", test_images=images, test_labels=np.arange(9) % 3)
    data = load(spec)
    assert lengths(data)[3] == 9 and data.test.labels.tolist() == [0, 1, 2] * 3


def test_the_seed_decides_the_splits_and_nothing_else_does(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "all.npz")
    first, again, other = load(spec, seed=1), load(spec, seed=1), load(spec, seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.names == again.names != other.names
