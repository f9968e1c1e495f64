"""Sources of examples: the shipped data, well-known ones, and the user's own."""

from __future__ import annotations

import gzip
import inspect
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.class_names import check_class_names
from nasdistill.common.errors import UserError
from nasdistill.common.events import with_signs_of_life
from nasdistill.common.files import check_utf8
from nasdistill.common.types import nearest
from nasdistill.data.folders import read_folder
from nasdistill.data.npz import read_npz
from nasdistill.data.pictures import channels_of, fit_arrays, in_8_bits, is_deep, to_array
from nasdistill.data.raw import (
    LARGEST,
    SMALL,
    SMALLEST,
    Files,
    Labels,
    Raw,
    Request,
    Shape,
    Source,
    prepare,
    refuse_mixed,
)

__all__ = [
    "DEBIAN_FASHION_MNIST",
    "SOURCES",
    "Files",
    "Raw",
    "Request",
    "Source",
    "read_idx",
    "read_source",
    "register_sources",
]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_ATTRIBUTION = "Fashion-MNIST, Copyright (c) 2017 Zalando SE, MIT licence"
NEVER_MIRRORED = ("MNIST", "EMNIST", "KMNIST", "QMNIST", "USPS", "SVHN", "GTSRB", "Omniglot")


def read_source(request: Request) -> Source:
    """Reads a source by its name; see `load_data`.

    Raises:
        UserError: If there is no such source, or its content cannot be used.
    """
    spec, size = request.spec, request.image_size
    check_utf8("--data", spec)
    name, _, argument = spec.partition(":")
    known = {**SOURCES, **_USER_SOURCES}
    if name not in known:
        allowed = "fashion-mnist-mini, fashion-mnist, folder:PATH, torchvision:NAME, npz:PATH"
        extra = "".join(f", {key}" for key in _USER_SOURCES)
        raise UserError(
            f"--data {spec!r}: no such source{nearest(name, known)} (allowed: {allowed}{extra})"
        )
    if name in ("folder", "torchvision", "npz") and not argument:
        raise UserError(f"--data {spec!r}: something must follow the colon, as in {name}:…")
    if name in ("fashion-mnist-mini", "fashion-mnist") and argument:
        raise UserError(f"--data {spec!r}: nothing may follow {name} (found {argument!r})")
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise UserError(f"image_size {size}: allowed are {SMALLEST} to {LARGEST} pixels")
    if request.channels not in (None, 1, 3):
        raise UserError(f"channels {request.channels}: allowed are 1 (grey) and 3 (RGB)")
    source = known[name](replace(request, argument=argument))
    if not isinstance(source, Source):
        kind = type(source).__name__
        raise UserError(f"--data {spec!r}: its function must give a Source, not a {kind}")
    _check(source, spec)
    return source


def _check(source: Source, spec: str) -> None:
    for size in source.shape.size:
        if not SMALLEST <= size <= LARGEST:
            raise UserError(
                f"data {spec!r}: images of {source.shape.height}x{source.shape.width} pixels; "
                f"students take {SMALLEST} to {LARGEST}; give --image-size"
            )
    if len(source.classes) < 2:
        raise UserError(f"data {spec!r}: {len(source.classes)} class; at least 2 are needed")
    check_class_names(f"data {spec!r}", source.classes)
    names = source.train_names
    if names is not None and len(names) != len(source.train):
        raise UserError(f"data {spec!r}: {len(source.train)} training images, {len(names)} name(s)")
    shapes: dict[Shape, int] = {}
    parts = {
        "train": (source.train, source.train_labels),
        "validation": (source.validation, source.validation_labels),
        "test": (source.test, source.test_labels),
    }
    held_out = source.validation is not None and source.test is not None
    for part, (images, labels) in parts.items():
        if images is None and labels is None and part != "train":
            continue
        where = f"data {spec!r}, {part}"
        check_part(where, images, labels, source.classes, may_be_empty=held_out and part == "train")
        if isinstance(images, np.ndarray):
            shapes[images.shape[1:]] = shapes.get(images.shape[1:], 0) + len(images)
    if len(shapes) > 1:
        refuse_mixed(Request(spec), shapes, {})
    for shape in shapes:
        if shape[0] != source.shape.channels:
            raise UserError(
                f"data {spec!r}: images have {shape[0]} channel(s), its shape says "
                f"{source.shape.channels}"
            )


def check_part(
    where: str, images: Any, labels: Any, classes: tuple[str, ...], *, may_be_empty: bool = False
) -> None:
    """Checks the images and labels of one split, as a user's own source may give anything.

    Args:
        where: Names the data in the message.
        images: Allowed are uint8 `[N, 1 or 3, H, W]` and `Files`.
        labels: Allowed are integers `[N]`, each the index of a class.
        classes: Names by label.
        may_be_empty: Whether there may be none.

    Raises:
        UserError: If they are of another kind, or there are none.
    """
    if isinstance(images, np.ndarray):
        allowed = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
        kind = f"{images.dtype} {images.shape}"
    else:
        allowed, kind = isinstance(images, Files), type(images).__name__
    if not allowed:
        raise UserError(f"{where}: images are {kind}; allowed are uint8 [N, 1 or 3, H, W]")
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or len(labels) != len(images):
        kind = str(getattr(labels, "shape", type(labels).__name__))
        raise UserError(f"{where}: {len(images)} images, labels are {kind}; one each is needed")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where}: labels have dtype {labels.dtype}; allowed are integers from 0")
    if not len(labels) and not may_be_empty:
        raise UserError(f"{where}: no images")
    wrong = (labels < 0) | (labels >= len(classes))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{where}: label {labels[first]} of example {first} is out of range "
            f"(allowed: 0 to {len(classes) - 1}; {int(wrong.sum())} such labels)"
        )


# -- shipped and well-known data ------------------------------------------------------------------


def _fashion_mnist_mini(request: Request) -> Source:
    path = Path(__file__).parent.parent / "assets" / "fashion-mnist-mini.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    parts = ("train", "validation", "test")
    images, shape = prepare([arrays[f"{part}_images"][:, None] for part in parts], request)
    labels = [arrays[f"{part}_labels"].astype(np.int64) for part in parts]
    return Source(
        images[0],
        labels[0],
        FASHION_CLASSES,
        shape,
        images[1],
        labels[1],
        images[2],
        labels[2],
        attribution=FASHION_ATTRIBUTION,
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a gzipped idx file of bytes (the format of MNIST).

    Raises:
        UserError: If it is no such file.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a readable idx.gz file ({error})") from None
    dimensions = data[3] if len(data) > 3 else 0
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    if data[:3] != b"\x00\x00\x08" or len(data) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise UserError(f"{path}: not an idx file of bytes, or truncated")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _fashion_mnist(request: Request) -> Source:
    folder = DEBIAN_FASHION_MNIST
    if request.root is not None or not folder.is_dir():
        return _torchvision(replace(request, argument="FashionMNIST"))
    arrays = [read_idx(folder / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    labels = [read_idx(folder / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")]
    images, shape = prepare([array[:, None] for array in arrays], request)
    return Source(
        images[0],
        labels[0].astype(np.int64),
        FASHION_CLASSES,
        shape,
        test=images[1],
        test_labels=labels[1].astype(np.int64),
        attribution=FASHION_ATTRIBUTION,
    )


def _torchvision(request: Request) -> Source:
    import torchvision

    name = request.argument
    kind = getattr(torchvision.datasets, name, None)
    if kind is None or not isinstance(kind, type):
        known = [name for name in dir(torchvision.datasets) if name[0].isupper()]
        raise UserError(
            f"--data {request.spec!r}: torchvision has no dataset {name!r}{nearest(name, known)}"
        )
    root = request.root or "data"
    try:
        train, test = (_open_torchvision(kind, root, part) for part in ("train", "test"))
    except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--data {request.spec!r}: cannot load from {root}: {reason}") from None
    classes = tuple(str(name) for name in getattr(train, "classes", ()))
    arrays = [_arrays_of(dataset, request) for dataset in (train, test)]
    images, shape = prepare([array.images for array in arrays], request)
    labels, test_labels = (array.labels for array in arrays)
    classes = classes or tuple(str(i) for i in range(int(labels.max()) + 1))
    return Source(
        images[0],
        labels,
        classes,
        shape,
        test=images[1],
        test_labels=test_labels,
        flip=name not in NEVER_MIRRORED,
        attribution=f"torchvision.datasets.{name}",
    )


def _open_torchvision(kind: Any, root: str, part: str) -> Any:
    """Opens one split, and downloads it only if it is not there."""
    parameters = inspect.signature(kind).parameters
    if "train" not in parameters and "split" not in parameters:
        raise TypeError(f"{kind.__name__} has no training and test split")
    selection = {"train": part == "train"} if "train" in parameters else {"split": part}
    if "download" not in parameters:
        return kind(root, **selection)
    try:
        return kind(root, **selection, download=False)
    except RuntimeError:
        return kind(root, **selection, download=True)


class _Arrays(NamedTuple):
    """Images, uint8 `[N, C, H, W]`, and their labels, int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: Labels


def _arrays_of(dataset: Any, request: Request) -> _Arrays:
    """Every picture of a torchvision dataset as one array."""
    from PIL import Image

    side, pictures, labels = request.image_size, [], []
    shapes: dict[Shape, int] = {}
    examples, total = (dataset[i] for i in range(len(dataset))), len(dataset)
    reported_examples = with_signs_of_life(examples, "reading images", "data", total, request.emit)
    for picture, label in reported_examples:
        if not isinstance(picture, Image.Image) or not isinstance(label, int | np.integer):
            raise UserError(f"--data {request.spec!r}: not images with one label each")
        if is_deep(picture):
            raise UserError(
                f"--data {request.spec!r}: pictures of 16 bits are read from folders alone, where "
                "the bits in use are known beforehand"
            )
        array = to_array(in_8_bits(picture, request.channels or channels_of(picture)))
        shapes[array.shape] = shapes.get(array.shape, 0) + 1
        if len({shape[0] for shape in shapes}) > 1 or (side is None and len(shapes) > 1):
            refuse_mixed(request, shapes, {})
        if side is not None and max(array.shape[1:]) > SMALL:
            array = fit_arrays(array[None], (side, side))[0]
        pictures.append(array)
        labels.append(int(label))
    if side is not None and len({array.shape for array in pictures}) > 1:
        pictures = [fit_arrays(array[None], (side, side))[0] for array in pictures]
    return _Arrays(np.stack(pictures), np.array(labels, dtype=np.int64))


SOURCES: dict[str, Callable[[Request], Source]] = {
    "fashion-mnist-mini": _fashion_mnist_mini,
    "fashion-mnist": _fashion_mnist,
    "folder": read_folder,
    "torchvision": _torchvision,
    "npz": read_npz,
}
_USER_SOURCES: dict[str, Callable[[Request], Source]] = {}


def register_sources(sources: Mapping[str, Callable[[Request], Source]]) -> None:
    """Adds the sources of a user's own file; each takes a `Request` and gives a `Source`."""
    _USER_SOURCES.update(sources)
