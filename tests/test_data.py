"""Sources, splits and views of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nasdistill.data import Dataset, Files, ResidentSplit, Source, StreamingSplit, load_data, views
from nasdistill.data import sources as data_sources
from nasdistill.data.splits import Split, stratified
from nasdistill.data.views import Views
from nasdistill.errors import UserError
from nasdistill.options import Input

CPU = torch.device("cpu")


def load(spec: str, **more: Any) -> Dataset:
    return load_data(spec, device=CPU, **more)


def refused(spec: str, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(spec, **more)
    return str(caught.value)


def fill(folder: Path, count: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> None:
    """Writes noise images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(folder)))
    shape = (*size, 3) if mode == "RGB" else size
    for index in range(count):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{mode}{size[0]}x{size[1]}_{index}.png")


def write_npz(path: Path, **changes: Any) -> str:
    """An npz of 30 grey images in three classes, with some arrays replaced or (None) left out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.integers(0, 256, (30, 16, 16), dtype=np.uint8),
        "labels": np.arange(30) % 3,
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return f"npz:{path}"


def lengths(data: Dataset) -> list[int]:
    return [len(part) for part in (data.train, data.score, data.audit, data.test)]


def pixels(split: Split, ids: list[int], view: int | None, size: tuple[int, int]) -> torch.Tensor:
    (batch,) = split.batches([(torch.tensor(ids), view)], size)
    assert batch.images.dtype == torch.uint8 and batch.view == view
    assert batch.ids.tolist() == batch.ids_host.tolist() == ids
    assert torch.equal(batch.labels, split.labels[batch.ids])
    return batch.images


# -- shipped ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini() -> Dataset:
    return load("fashion-mnist-mini")


def test_mini_counts_and_balance(mini: Dataset) -> None:
    assert lengths(mini) == [10_000, 1_000, 1_000, 5_000]
    for part, each in ((mini.train, 1000), (mini.score, 100), (mini.audit, 100), (mini.test, 500)):
        assert torch.bincount(part.labels).tolist() == [each] * 10
    assert mini.input == Input(1, 28, 28) and len(mini.classes) == 10
    assert "Zalando" in mini.attribution and "MIT" in mini.attribution
    assert mini.mean[0] == pytest.approx(0.286, abs=0.01)
    assert mini.std[0] == pytest.approx(0.353, abs=0.01)


def test_mini_splits_share_no_image(mini: Dataset) -> None:
    seen: list[bytes] = []
    for part in (mini.train, mini.score, mini.audit, mini.test):
        assert isinstance(part, ResidentSplit)
        seen += list({image.numpy().tobytes() for image in part.images})
    assert len(set(seen)) == len(seen) > 16_900


# -- splits -------------------------------------------------------------------------------------


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


# -- views --------------------------------------------------------------------------------------


def pair_of_splits(folder: Path, kind: Any, size: tuple[int, int]) -> tuple[Split, Split]:
    """The same images on the device and in files."""
    fill(folder, 12, size)
    files = Files(sorted(folder.iterdir()))
    images = torch.stack([torch.from_numpy(files.decode(i, 3)) for i in range(12)])
    labels, drawn = np.arange(12) % 2, Views(kind, seed=5)
    shape = Input(3, *size)
    return (
        ResidentSplit(images, labels, drawn, CPU),
        StreamingSplit(files, labels, drawn, CPU, shape, workers=1),
    )


@pytest.mark.parametrize("size", [(80, 80), (96, 72)])
def test_same_view_same_pixels_whatever_the_batch(tmp_path: Path, size: tuple[int, int]) -> None:
    resident, streaming = pair_of_splits(tmp_path / "a", "crop", size)
    for view in (None, 0, 7, 10**6):
        whole = pixels(resident, list(range(12)), view, size)
        alone = torch.cat([pixels(resident, [i], view, size) for i in range(12)])
        backwards = pixels(resident, list(range(11, -1, -1)), view, size).flip(0)
        streamed = pixels(streaming, list(range(12)), view, size)
        for other in (alone, backwards, streamed):
            assert torch.equal(whole, other)


def test_workers_stream_what_the_process_itself_does(tmp_path: Path) -> None:
    resident, streaming = pair_of_splits(tmp_path / "a", "crop", (70, 70))
    plan = [(torch.tensor([i, 11 - i]), i) for i in range(4)]
    pairs = zip(resident.batches(plan, (32, 32)), streaming.batches(plan, (32, 32)), strict=True)
    for ours, theirs in pairs:
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)


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
    assert views.resize(images, (128, 128)) is images


# -- folders ------------------------------------------------------------------------------------


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 12)
        fill(tmp_path / "test" / name, 3)
    data = load(f"folder:{tmp_path}")
    assert lengths(data) == [20, 2, 2, 6]
    assert data.classes == ("cat", "dog") and data.input == Input(3, 20, 20)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folder_with_all_three(tmp_path: Path, name: str) -> None:
    for label in ("cat", "dog"):
        for part, count in (("train", 6), (name, 4), ("test", 3)):
            fill(tmp_path / part / label, count, mode="L")
    data = load(f"folder:{tmp_path}")
    assert lengths(data) == [12, 4, 4, 6] and data.input == Input(1, 20, 20)


def test_flat_folder_is_split_and_stratified(tmp_path: Path) -> None:
    for name in ("cat", "dog", "owl"):
        fill(tmp_path / name, 36)
    (tmp_path / ".cache").mkdir()
    data = load(f"folder:{tmp_path}", image_size=24)
    assert lengths(data) == [75, 9, 6, 18]
    for part in (data.train, data.score, data.audit, data.test):
        counts = torch.bincount(part.labels, minlength=3)
        assert len(set(counts.tolist())) == 1
    assert data.input == Input(3, 24, 24)


def test_large_folder_resident_and_streaming_alike(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 8, (72, 80))
    kept, streamed = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", resident_limit=1)
    assert isinstance(kept.train, ResidentSplit) and isinstance(streamed.train, StreamingSplit)
    assert kept.views == streamed.views and kept.views.kind == "crop"
    assert kept.mean == streamed.mean and kept.std == streamed.std
    for view in (None, 4):
        shown = [pixels(data.train, [0, 3, 1], view, (72, 80)) for data in (kept, streamed)]
        assert torch.equal(*shown)


def test_bad_folders(tmp_path: Path) -> None:
    assert "is not a folder" in refused(f"folder:{tmp_path / 'none'}")
    assert "no class folders" in refused(f"folder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    assert "no images (.jpg" in refused(f"folder:{tmp_path}")
    fill(tmp_path / "cat", 8)
    assert "1 class; at least 2 are needed" in refused(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    assert "no training example of dog" in refused(f"folder:{tmp_path}")
    fill(tmp_path / "dog", 1)
    assert "class 1 has 1 example(s)" in refused(f"folder:{tmp_path}")


def test_class_that_training_lacks(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 6)
    fill(tmp_path / "test" / "owl", 2)
    assert "class 'owl' is not in the training folder" in refused(f"folder:{tmp_path}")


def test_unreadable_images_are_named_counted_and_skipped_on_request(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 9)
    whole = next(iter((tmp_path / "dog").iterdir())).read_bytes()
    (tmp_path / "cat" / "broken.png").write_bytes(b"not an image")
    (tmp_path / "dog" / "short.png").write_bytes(whole[: len(whole) // 2])
    message = refused(f"folder:{tmp_path}")
    assert message.startswith("2 unreadable image(s)") and "--skip-unreadable" in message
    assert "broken.png" in message and "short.png" in message
    assert sum(lengths(load(f"folder:{tmp_path}", skip_unreadable=True))) == 18


def test_split_whose_every_image_is_unreadable(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 6)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "broken.png").write_bytes(b"")
    assert "no readable image in test" in refused(f"folder:{tmp_path}", skip_unreadable=True)


def test_mixed_sizes_and_channels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 9)
    fill(tmp_path / "dog", 2, (24, 20))
    message = refused(f"folder:{tmp_path}")
    assert "mixed sizes" in message and "18 of 20x20" in message and "2 of 24x20" in message
    assert load(f"folder:{tmp_path}", image_size=20).input == Input(3, 20, 20)
    fill(tmp_path / "cat", 3, mode="L")
    message = refused(f"folder:{tmp_path}", image_size=20)
    assert "3 of 20x20 with 1 channel(s)" in message


# -- npz ----------------------------------------------------------------------------------------


def test_npz_is_split_or_brings_its_splits(tmp_path: Path) -> None:
    data = load(write_npz(tmp_path / "a.npz"))
    assert sum(lengths(data)) == 30 and data.classes == ("0", "1", "2")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    data = load(write_npz(
        tmp_path / "b.npz", images=np.tile(colour, (5, 1, 1, 1)), test_images=colour,
        test_labels=np.arange(6) % 3, validation_images=colour, validation_labels=np.arange(6) % 3,
        classes=np.array(["red", "green", "blue"]),
    ))  # fmt: skip
    assert lengths(data) == [30, 3, 3, 6] and data.classes == ("red", "green", "blue")
    assert data.input == Input(3, 16, 16)
    assert isinstance(data.test, ResidentSplit)
    assert torch.equal(data.test.images, torch.from_numpy(colour).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("changes", "told"),
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
        ({"labels": np.array([0, 2] * 15)}, "no training example of 1"),
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
def test_bad_npz(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(write_npz(tmp_path / "bad.npz", **changes))


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


# -- names --------------------------------------------------------------------------------------


def test_unknown_sources_and_sizes(tmp_path: Path) -> None:
    message = refused("fashion-mnst-mini")
    assert "did you mean 'fashion-mnist-mini'" in message and "folder:PATH" in message
    assert "something must follow the colon" in refused("npz:")
    assert "did you mean 'CIFAR10'" in refused("torchvision:CIFAR_10")
    assert "allowed are 16 to 256" in refused("fashion-mnist-mini", image_size=8)


def test_a_users_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {})

    def stripes(request: data_sources.Request) -> Source:
        images = np.zeros((40, 1, 16, 16), np.uint8)
        images[::2, :, ::2] = 255
        return Source(images, np.arange(40) % 2, ("striped", "plain"), Input(1, 16, 16))

    data_sources.register_sources({"stripes": stripes})
    data = load("stripes:now")
    assert data.classes == ("striped", "plain") and sum(lengths(data)) == 40
