"""Sources: the shipped data, torchvision's, the user's own, and their errors."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import lengths, load, pixels, refused, write_npz
from PIL import Image

from nasdistill.assets import make_fashion_mnist_mini
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import Dataset, Request, ResidentSplit, Source
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
    with np.load(made) as built, np.load(shipped / "fashion-mnist-mini.npz") as stored:
        assert set(built.files) == set(stored.files)
        assert all(np.array_equal(built[name], stored[name]) for name in built.files)


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
    ("images", "labels", "reason"),
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
    monkeypatch: pytest.MonkeyPatch, images: Any, labels: Any, reason: str
) -> None:
    source = Source(images, labels, ("a", "b"), Input(1, 16, 16))
    monkeypatch.setattr(data_sources, "_USER_SOURCES", {"own": lambda request: source})
    assert reason in refused("own")
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
    image = Image.new(mode, (width, height))
    image.paste("white", (0, 0, width // 2, height))
    return image


def test_torchvision_downloads_only_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stand_in(
        monkeypatch,
        "SVHN",
        [picture(32, 32), picture(32, 32).rotate(90)] * 6,
        classes=["even", "odd"],
    )
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


@pytest.mark.parametrize("name", ["b\udcff", "b\nb", "b\u2028"])
def test_class_names_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    spec = write_npz(tmp_path / "it.npz", classes=np.array(["a", name, "c"]))
    assert f"data {spec!r}: the class name {ascii(name)}" in refused(spec)


def test_data_whose_place_is_not_utf8(tmp_path: Path) -> None:
    assert "is not UTF-8; rename it" in refused(f"folder:{tmp_path}/b\udcff")
