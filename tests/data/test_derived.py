"""Data sets made from others, names of examples, and what must never change."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, fill, lengths, load, pixels, refused, write_npz

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import (
    Batch,
    Files,
    Mixing,
    RandAugment,
    ResidentSplit,
    Split,
    StreamingSplit,
    Views,
)
from nasdistill.data import sources as data_sources
from nasdistill.data.pictures import Preparation

MIXUP, CUTMIX = Mixing("mixup", 1.0), Mixing("cutmix", 1.0)


def shown(split: Split, ids: list[int], view: int | None, *sizes: tuple[int, int]) -> Batch:
    (batch,) = split.batches([(torch.tensor(ids), view)], sizes[0], sizes[1:])
    return batch


def test_default_views_and_fingerprints_are_what_they_always_were(tmp_path: Path) -> None:
    """Values of version 0.1.0 before views could be mixed: caches of answers depend on them."""
    data = load(write_npz(tmp_path / "a.npz"))
    assert data.fingerprint == "62db11937e9f1353eb28ece0156269f4"
    assert repr(data.views) == "Views(kind='shift', seed=0, flip=True)"
    for view, checksum in ((3, 0xF7782CA9), (0, 0x1AE9B6B9)):
        images = pixels(data.train, list(range(len(data.train))), view, (16, 16))
        assert zlib.crc32(images.numpy().tobytes()) == checksum
    assert load("fashion-mnist-mini").fingerprint == "69f390d28b06130fe0db5d856c2d424d"
    crop = Views("crop", 1).boxes(torch.arange(3), 2, 100, 80)
    assert crop.top.tolist() == pytest.approx([19.2054, 31.9762, 8.4954], abs=1e-3)
    assert crop.width.tolist() == pytest.approx([70.4976, 68.0510, 80.0], abs=1e-3)


def test_with_views_shares_the_data_and_changes_the_fingerprint(tmp_path: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz"))
    assert data.with_views(data.views) is data
    mixed = data.with_views(replace(data.views, mixing=MIXUP))
    again = data.with_views(replace(data.views, mixing=MIXUP))
    others = [
        data.with_views(replace(data.views, **{name: value}))
        for name, value in [
            ("mixing", CUTMIX),
            ("mixing", Mixing("mixup", 0.2)),
            ("seed", 1),
            ("rand_augment", RandAugment()),
            ("rand_augment", RandAugment(1)),
            ("cut_out", 0.3),
            ("cut_out", 0.4),
        ]
    ]
    marks = [each.fingerprint for each in (data, mixed, *others)]
    assert len(set(marks)) == 9 and again.fingerprint == mixed.fingerprint
    assert isinstance(data.train, ResidentSplit) and isinstance(mixed.train, ResidentSplit)
    assert mixed.train.images.data_ptr() == data.train.images.data_ptr()
    assert mixed.score is data.score and mixed.test is data.test and mixed.mean == data.mean
    assert mixed.names == data.names and lengths(mixed) == lengths(data)
    assert shown(mixed.train, [0, 1], 0, (16, 16)).partners is not None
    assert shown(data.train, [0, 1], 0, (16, 16)).partners is None


@pytest.mark.parametrize(("first", "then"), [("shift", "crop"), ("crop", "shift")])
def test_views_of_another_kind_have_their_margin(first: Any, then: Any) -> None:
    images = torch.randint(0, 256, (12, 3, 20, 16), dtype=torch.uint8)
    one, other = (
        ResidentSplit(images, np.arange(12), Views(kind, 3), CPU) for kind in (first, then)
    )
    for view in (None, 1):
        expected = pixels(other, [0, 5], view, (20, 16))
        assert torch.equal(pixels(one.with_views(Views(then, 3)), [0, 5], view, (20, 16)), expected)


def test_with_views_of_files(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 8, (72, 80))
    kept, streamed = (load(f"folder:{tmp_path}", resident_limit=limit) for limit in (1 << 30, 1))
    views = replace(kept.views, mixing=CUTMIX)
    assert isinstance(streamed.train, StreamingSplit)
    pair = [shown(data.with_views(views).train, [3, 0], 1, (40, 40)) for data in (kept, streamed)]
    assert torch.equal(pair[0].images, pair[1].images)


# -- names


def test_names_are_rows_of_the_original_array(tmp_path: Path) -> None:
    images = np.arange(30, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    data = load(write_npz(tmp_path / "a.npz", images=images))
    assert isinstance(data.train, ResidentSplit) and len(data.names) == len(data.train) == 18
    assert list(data.names) == [str(int(image[0, 0, 0])) for image in data.train.images]
    own = {
        f"{part}_{what}": array
        for part in ("test", "validation")
        for what, array in (("images", images), ("labels", np.arange(30) % 3))
    }
    whole = load(write_npz(tmp_path / "b.npz", images=images, **own))
    assert whole.names == tuple(str(i) for i in range(30))
    assert load("fashion-mnist-mini").names[9_999] == "9999"


@pytest.mark.parametrize("limit", [1 << 30, 1])
@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_names_of_files_are_their_paths(tmp_path: Path, limit: int, parts: Any) -> None:
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            fill(tmp_path / part / name, 9, (72, 70 + label))
            (tmp_path / part / name / "broken.png").write_bytes(b"")
    data = load(f"folder:{tmp_path}", resident_limit=limit, skip_unreadable=True, image_size=80)
    assert len(set(data.names)) == len(data.train) == len(data.names)
    prefix = "train/" if "train" in parts else ""
    assert all(name.startswith((f"{prefix}cat/", f"{prefix}dog/")) for name in data.names)
    for index in (0, 5, len(data.train) - 1):
        path = tmp_path / data.names[index]
        alone = Files((path,), (b"",), Preparation.of(Input(3, 80, 80))).decode(0)
        plain = pixels(data.train, [index], None, (80, 80))[0]
        assert torch.equal(torch.from_numpy(alone), plain)
        assert ("cat", "dog")[int(data.train.labels[index])] == path.parent.name


def test_a_users_source_may_name_its_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    source = data_sources.Source(
        np.random.default_rng(0).integers(0, 256, (12, 1, 16, 16), dtype=np.uint8),
        np.arange(12) % 2,
        ("a", "b"),
        load("fashion-mnist-mini", image_size=16).input,
        train_names=tuple("abcdefghijkl"),
    )
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {"own": lambda request: source})
    data = load("own")
    assert data.origins is not None
    assert "".join(data.names) == "".join("abcdefghijkl"[row] for row in data.origins.rows)
    short = replace(source, train_names=("a",))
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {"own": lambda request: short})
    assert "12 training images, 1 name(s)" in refused("own")


# -- other images to learn from


def test_with_training_changes_the_training_split_alone(tmp_path: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz"))
    images = torch.zeros(7, 1, 16, 16, dtype=torch.uint8)
    images[:, :, :8] = 255
    labels = np.array([0, 1, 2, 0, 1, 2, 2])
    made = data.with_training(images, labels, "dreams")
    assert made.name == "dreams" and made.mean == (0.5,) and made.std == (0.5,)
    assert isinstance(made.train, ResidentSplit) and torch.equal(made.train.images, images)
    assert made.train.labels.tolist() == labels.tolist() and made.names == tuple("0123456")
    assert made.score is data.score and made.audit is data.audit and made.test is data.test
    assert made.views == data.views and made.classes == data.classes
    other = images.clone()
    other[0, 0, 0, 0] -= 1
    marks = {
        data.fingerprint,
        made.fingerprint,
        data.with_training(other, labels, "dreams").fingerprint,
        data.with_training(images, labels[::-1].copy(), "dreams").fingerprint,
        load(write_npz(tmp_path / "a.npz"), seed=1).with_training(images, labels, "x").fingerprint,
    }
    assert len(marks) == 5
    assert data.with_training(images, labels, "dreams").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "reason"),
    [
        ((4, 16, 16), torch.uint8, [0, 1, 2, 0], "images are uint8 (4, 16, 16)"),
        ((4, 1, 16, 16), torch.float32, [0, 1, 2, 0], "images are float32"),
        ((4, 3, 16, 16), torch.uint8, [0, 1, 2, 0], "have 3 channel(s)"),
        ((4, 1, 16, 16), torch.uint8, [0, 1, 3, 0], "label 3 of example 2 is out of range"),
        ((4, 1, 16, 16), torch.uint8, [0, 1], "4 images, labels are (2,)"),
        ((0, 1, 16, 16), torch.uint8, [], "no images"),
    ],
)
def test_training_images_that_do_not_fit(
    tmp_path: Path, shape: Any, dtype: Any, labels: Any, reason: str
) -> None:
    data = load(write_npz(tmp_path / "a.npz"))
    with pytest.raises(UserError) as caught:
        data.with_training(torch.zeros(shape, dtype=dtype), np.array(labels, np.int64), "dreams")
    assert reason in str(caught.value) and "'dreams'" in str(caught.value)
