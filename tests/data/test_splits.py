"""Splits: cutting, and examples on the device or streamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import CPU, fill, lengths, load, pixels, refused, surveyed, write_npz
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.common.errors import UserError
from nasdistill.data import ResidentSplit, StreamingSplit, Views
from nasdistill.data.splits import stratified


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
)
def test_stratified(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels + [0, 1, 2, 3, 4] * 3)
    first, second = stratified(array, share, seed, "x")
    assert sorted([*first, *second]) == list(range(len(array)))
    for label in range(5):
        whole = int((array == label).sum())
        held = int((array[second] == label).sum())
        assert held == max(1, round(whole * share))
    again = stratified(array, share, seed, "x")
    assert np.array_equal(again[0], first) and np.array_equal(again[1], second)


def test_stratified_holds_the_least_of_small_classes() -> None:
    labels = np.repeat([0, 1], [3, 40])
    _, second = stratified(labels, 1 / 6, 0, "x", least=2)
    assert np.bincount(labels[second]).tolist() == [2, 7]
    with pytest.raises(UserError, match=r"'x': class 0 has 3 .* needs at least 4"):
        stratified(labels, 1 / 6, 0, "x", least=3)


def test_splits_depend_on_the_seed(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "a.npz")
    one, same, other = load(spec), load(spec), load(spec, seed=1)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert isinstance(one.train, ResidentSplit) and isinstance(other.train, ResidentSplit)
    assert not torch.equal(one.train.images, other.train.images)


def test_splits_are_disjoint_stratified_and_whole(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [60, 36, 24])
    images = np.arange(120, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    data = load(write_npz(tmp_path / "a.npz", images=images, labels=labels))
    seen: list[int] = []
    for part in (data.train, data.score, data.audit, data.test):
        assert isinstance(part, ResidentSplit)
        numbers = part.images[:, 0, 0, 0].tolist()
        assert part.labels.tolist() == labels[numbers].tolist()
        seen += numbers
    assert sorted(seen) == list(range(120))
    counts = [torch.bincount(part.labels).tolist() for part in (data.train, data.score, data.test)]
    assert counts == [[30, 18, 12], [7, 5, 3], [15, 9, 6]]


def test_too_few_examples_are_counted(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [25, 3, 2])
    message = refused(write_npz(tmp_path / "a.npz", labels=labels))
    assert "'1' has 3, '2' has 2; each class needs at least 4" in message
    assert "(1 training, 2 validation, 1 test)" in message
    more = {"test_images": np.zeros((3, 16, 16), np.uint8), "test_labels": np.arange(3)}
    message = refused(write_npz(tmp_path / "b.npz", labels=labels, **more))
    assert "'2' has 2; each class needs at least 3 (1 training, 2 validation)" in message
    own = {"validation_images": more["test_images"], "validation_labels": np.arange(3)}
    message = refused(write_npz(tmp_path / "c.npz", **own, **more))
    assert "too few validation examples: '0' has 1, '1' has 1, '2' has 1; each class" in message


def test_moments_by_hand_and_by_streaming(tmp_path: Path) -> None:
    images = torch.zeros(2500, 1, 16, 16, dtype=torch.uint8)
    images[::2] = 255
    split = ResidentSplit(images, np.zeros(2500, np.int64), Views("shift", 0), CPU)
    assert split.moments() == ((0.5,), (0.5,))
    fill(tmp_path / "a", 10, (70, 66))
    files = surveyed(tmp_path / "a", (70, 66))
    streamed = StreamingSplit(files, np.zeros(10, np.int64), Views("crop", 0), CPU, workers=0)
    kept = ResidentSplit(
        torch.from_numpy(files.decode_all()), np.zeros(10, np.int64), Views("crop", 0), CPU
    )
    assert streamed.moments() == kept.moments()


def test_streaming_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    fill(tmp_path / "a", 4, (70, 70))
    files = surveyed(tmp_path / "a", (70, 70))
    split = StreamingSplit(files, np.zeros(4, np.int64), Views("crop", 0), CPU, workers=1)
    before = torch.get_rng_state()
    list(split.batches([(torch.tensor([i]), i) for i in range(4)], (32, 32)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named(tmp_path: Path, workers: int) -> None:
    fill(tmp_path / "a", 4, (70, 70))
    files = surveyed(tmp_path / "a", (70, 70))
    split = StreamingSplit(files, np.zeros(4, np.int64), Views("crop", 0), CPU, workers=workers)
    files.paths[2].unlink()
    with pytest.raises(UserError, match="cannot be read any more") as caught:
        list(split.batches([(torch.tensor([i]), 0) for i in range(4)], (32, 32)))
    assert str(caught.value).startswith(str(files.paths[2]))
    assert "Traceback" not in str(caught.value)


def test_arrays_over_the_limit_stay_with_the_host(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "a.npz")
    kept, host = load(spec), load(spec, resident_limit=1)
    for view in (None, 3):
        shown = [pixels(data.train, [4, 0, 9], view, (16, 16)) for data in (kept, host)]
        assert torch.equal(*shown)
    assert kept.fingerprint == host.fingerprint and lengths(kept) == lengths(host)


@pytest.mark.parametrize("limit", [1 << 30, 1])
def test_everything_is_the_examples_of_all_splits(tmp_path: Path, limit: int) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, 12, (70, 66))
    data = load(f"folder:{tmp_path}", resident_limit=limit)
    parts, whole = (data.train, data.score, data.audit, data.test), data.everything
    assert type(whole) is type(data.test) and not data.has_own_splits
    assert whole.labels.tolist() == [label for part in parts for label in part.labels.tolist()]
    shown = [pixels(part, list(range(len(part))), None, (70, 66)) for part in parts]
    assert torch.equal(pixels(whole, list(range(24)), None, (70, 66)), torch.cat(shown))
