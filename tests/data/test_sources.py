"""Sources: what is shipped, folders, arrays, and everything that may be wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import fill, lengths, load, pixels, refused, write_npz
from PIL import Image

from nasdistill.assets import make_fashion_mnist_mini
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import Dataset, Request, ResidentSplit, Source, StreamingSplit
from nasdistill.data import sources as data_sources


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


def test_mini_is_what_its_script_draws(tmp_path: Path) -> None:
    if not data_sources.DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    made, shipped = tmp_path / "made.npz", Path(make_fashion_mnist_mini.__file__).parent
    make_fashion_mnist_mini.main(made)
    with np.load(made) as ours, np.load(shipped / "fashion-mnist-mini.npz") as theirs:
        assert set(ours.files) == set(theirs.files)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours.files)


def test_mini_at_another_size_and_in_colour(mini: Dataset) -> None:
    data = load("fashion-mnist-mini", image_size=32, channels=3)
    assert data.input == Input(3, 32, 32) and data.views.kind == "shift"
    (grey, colour) = (pixels(each.train, [5, 8], 1, (28, 28)) for each in (mini, data))
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))
    assert pixels(data.train, [5, 8], 1, (32, 32)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    "content",
    [
        b"plain text",
        gzip.compress(b""),
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09short"),
        gzip.compress(bytes(1000))[:-9],
        gzip.compress(bytes(1000))[:12] + b"\xff" * 12,
    ],
)
def test_idx_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.gz: not a"):
        data_sources.read_idx(tmp_path / "x.gz")


# -- folders


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


@pytest.mark.parametrize("image_size", [None, 48, 100])
def test_large_folder_resident_and_streaming_alike(tmp_path: Path, image_size: int | None) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 8, (72, 80))
    kept, streamed = (
        load(f"folder:{tmp_path}", image_size=image_size, resident_limit=limit)
        for limit in (1 << 30, 1)
    )
    resident = image_size == 48  # Small ones always are.
    assert isinstance(kept.train, ResidentSplit)
    assert isinstance(streamed.train, ResidentSplit if resident else StreamingSplit)
    assert kept.views == streamed.views and kept.views.kind == ("shift" if resident else "crop")
    assert kept.mean == streamed.mean and kept.std == streamed.std
    size = kept.input.size
    assert size == streamed.input.size == ((72, 80) if image_size is None else (image_size,) * 2)
    for view in (None, 4):
        shown = [pixels(data.train, [0, 3, 1], view, size) for data in (kept, streamed)]
        assert torch.equal(*shown)


def test_photos_of_mixed_sizes_come_to_224_and_stay_if_they_fit(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 3, (90, 130))
        fill(tmp_path / name, 3, (300, 70))
    kept, streamed = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", resident_limit=1)
    assert kept.input == streamed.input == Input(3, 224, 224) and kept.views.kind == "crop"
    assert isinstance(kept.train, ResidentSplit) and isinstance(streamed.train, StreamingSplit)
    for view in (None, 2):
        shown = [pixels(data.train, [0, 5, 1], view, (224, 224)) for data in (kept, streamed)]
        assert torch.equal(*shown)


def test_a_photo_is_turned_upright_and_its_middle_is_kept(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(6):
            wide = np.zeros((80, 160, 3), np.uint8)
            wide[:, 40:120] = 60 if name == "cat" else 180
            photo, exif = Image.fromarray(wide), Image.Exif()
            if index % 2:
                photo, exif[0x0112] = photo.transpose(Image.Transpose.ROTATE_90), 6
            photo.save(tmp_path / name / f"{index}.png", exif=exif)
    data = load(f"folder:{tmp_path}")
    assert data.input == Input(3, 80, 160)
    data = load(f"folder:{tmp_path}", image_size=80)
    shown = pixels(data.train, list(range(len(data.train))), None, (80, 80))
    assert [image.unique().tolist() for image in shown] == [
        [60] if label == 0 else [180] for label in data.train.labels.tolist()
    ]


def test_deep_grey_images_keep_their_high_bits(tmp_path: Path) -> None:
    for name, value in (("dark", 0x2100), ("light", 0xF0FF)):
        (tmp_path / name).mkdir()
        for index in range(4):
            deep = np.full((16, 16), value, np.uint16)
            Image.fromarray(deep).save(tmp_path / name / f"{index}.png")
    data = load(f"folder:{tmp_path}")
    assert data.input == Input(1, 16, 16)
    assert pixels(data.train, [0, 1], None, (16, 16)).unique().tolist() == [0x21, 0xF0]


@pytest.mark.parametrize("limit", [1 << 30, 1])
def test_fingerprint_follows_the_content(tmp_path: Path, limit: int) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 5, (72, 72))
    first, again = (load(f"folder:{tmp_path}", resident_limit=limit) for _ in range(2))
    path = tmp_path / "dog" / "RGB72x72_0.png"
    pixel = np.asarray(Image.open(path)).copy()
    pixel[0, 0, 0] ^= 1
    Image.fromarray(pixel).save(path)
    changed = load(f"folder:{tmp_path}", resident_limit=limit)
    assert first.fingerprint == again.fingerprint != changed.fingerprint


def test_bad_folders(tmp_path: Path) -> None:
    assert "is not a folder" in refused(f"folder:{tmp_path / 'none'}")
    assert "no class folders" in refused(f"folder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    assert "no images (.jpg" in refused(f"folder:{tmp_path}")
    fill(tmp_path / "cat", 8)
    assert "1 class; at least 2 are needed" in refused(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    assert "too few train examples: 'dog' has 0" in refused(f"folder:{tmp_path}")
    fill(tmp_path / "dog", 1)
    assert "'dog' has 1; each class needs at least 4" in refused(f"folder:{tmp_path}")
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refused(f"folder:{tmp_path / 'file'}")


def test_test_without_train(tmp_path: Path) -> None:
    for part in ("val", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 4)
    assert "val/, test/ but no train/" in refused(f"folder:{tmp_path}")


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, 4)
        (tmp_path / name / "._0.png").write_bytes(b"junk of a file manager")
    assert sum(lengths(load(f"folder:{tmp_path}"))) == 8


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
    assert "3 of 20x20 with 1 channel(s), e.g. " in message and "--channels 3" in message
    assert str(tmp_path / "cat" / "L20x20_0.png") in message and "image-size" not in message
    for channels in (1, 3):
        data = load(f"folder:{tmp_path}", image_size=20, channels=channels)
        assert data.input == Input(channels, 20, 20) and sum(lengths(data)) == 23
    assert "allowed are 1 (grey) and 3 (RGB)" in refused(f"folder:{tmp_path}", channels=4)


# -- npz


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
    large = np.full((30, 80, 120), 90, np.uint8)
    data = load(write_npz(tmp_path / "large.npz", images=large), image_size=72)
    assert isinstance(data.train, ResidentSplit) and data.views.kind == "crop"
    assert data.train.images.shape[1:] == data.train.images.shape[1:2] + (72, 72)
    data = load(write_npz(tmp_path / "small.npz"), image_size=128)
    assert isinstance(data.train, ResidentSplit) and data.views.kind == "shift"
    assert data.input == Input(1, 128, 128) and data.train.images.shape[1:] == (1, 16, 16)


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


# -- names


def test_unknown_sources_and_sizes(tmp_path: Path) -> None:
    message = refused("fashion-mnst-mini")
    assert "did you mean 'fashion-mnist-mini'" in message and "folder:PATH" in message
    assert "something must follow the colon" in refused("npz:")
    assert "did you mean 'CIFAR10'" in refused("torchvision:CIFAR_10")
    assert "allowed are 16 to 256" in refused("fashion-mnist-mini", image_size=8)


def test_a_users_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {})

    def stripes(request: Request) -> Source:
        images = np.zeros((40, 1, 16, 16), np.uint8)
        images[::2, :, ::2] = 255
        return Source(images, np.arange(40) % 2, ("striped", "plain"), Input(1, 16, 16))

    data_sources.register_sources({"stripes": stripes})
    data = load("stripes:now")
    assert data.classes == ("striped", "plain") and sum(lengths(data)) == 40


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (np.zeros((8, 16, 16), np.uint8), np.arange(8) % 2, "images are uint8 (8, 16, 16)"),
        (np.zeros((8, 1, 16, 16)), np.arange(8) % 2, "images are float64"),
        ([1, 2], np.arange(2), "images are list"),
        (np.zeros((8, 1, 16, 16), np.uint8), np.arange(7) % 2, "8 images, labels are (7,)"),
        (np.zeros((8, 1, 16, 16), np.uint8), [0, 1] * 4, "8 images, labels are list"),
        (np.zeros((8, 1, 16, 16), np.uint8), np.zeros(8), "labels have dtype float64"),
        (np.zeros((8, 3, 16, 16), np.uint8), np.arange(8) % 2, "3 channel(s), its shape says 1"),
    ],
)
def test_a_users_source_that_gives_something_else(
    monkeypatch: pytest.MonkeyPatch, images: Any, labels: Any, told: str
) -> None:
    source = Source(images, labels, ("a", "b"), Input(1, 16, 16))
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {"own": lambda request: source})
    assert told in refused("own")
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {"own": lambda request: images})
    assert "must give a Source, not a" in refused("own")


# -- torchvision ----------------------------------------------------------------------------------


def stand_in(
    monkeypatch: pytest.MonkeyPatch, name: str, pictures: Any, **members: Any
) -> list[Any]:
    """Puts a dataset of our own under a torchvision name; gives the list of how it was opened."""
    import torchvision

    opened: list[Any] = []

    class Fake:
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            opened.append((root, split, download))
            if not download:
                raise RuntimeError("not found")

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> Any:
            return pictures[index], index % 2

    for key, value in members.items():
        setattr(Fake, key, value)
    monkeypatch.setattr(torchvision.datasets, name, Fake)
    return opened


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height))


def test_torchvision_downloads_only_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stand_in(monkeypatch, "SVHN", [picture(32, 32)] * 12, classes=["even", "odd"])
    data = load("torchvision:SVHN", root="here")
    assert opened == [("here", part, flag) for part in ("train", "test") for flag in (False, True)]
    assert data.classes == ("even", "odd") and lengths(data) == [8, 2, 2, 12]
    assert data.input == Input(3, 32, 32) and not data.views.flip


def test_torchvision_pictures_of_mixed_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [picture(32, 32), picture(80, 100)] * 6
    stand_in(monkeypatch, "STL10", mixed)
    assert "1 of 32x32 with 3 channel(s)" in refused("torchvision:STL10")
    data = load("torchvision:STL10", image_size=40)
    assert data.input == Input(3, 40, 40) and data.views.flip
    stand_in(monkeypatch, "STL10", [*mixed, picture(32, 32, "L")])
    assert "1 of 32x32 with 1 channel(s)" in refused("torchvision:STL10", image_size=40)
    assert load("torchvision:STL10", image_size=40, channels=1).input == Input(1, 40, 40)


def test_torchvision_datasets_that_are_none_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "STL10", ["text"] * 8)
    assert "not images with one label each" in refused("torchvision:STL10")
    assert "has no training and test split" in refused("torchvision:FakeData")
