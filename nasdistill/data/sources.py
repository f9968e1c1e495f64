"""Where examples come from."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nasdistill.errors import UserError
from nasdistill.options import Input, nearest

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_ATTRIBUTION = "Fashion-MNIST, Copyright (c) 2017 Zalando SE, MIT licence"
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SMALLEST, LARGEST = 16, 256
DEFAULT_SIDE = 224

Labels: TypeAlias = NDArray[np.int64]


class Files:
    """Images that stay in files until they are needed.

    Args:
        paths: One per example.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64]) -> Files:
        """The files at some indices."""
        return Files([self.paths[int(i)] for i in index])

    def decode(self, index: int, channels: int) -> NDArray[np.uint8]:
        """Reads one image, uint8 `[C, H, W]`."""
        return decode(self.paths[index], channels)

    def identity(self) -> bytes:
        """Names, sizes and times of the files, hashed."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            about = path.stat()
            digest.update(f"{path.parent.name}/{path.name} {about.st_size} ".encode())
        return digest.digest()


Raw: TypeAlias = "NDArray[np.uint8] | Files"


@dataclass(frozen=True)
class Source:
    """Examples as they were found.

    Attributes:
        train: Images, uint8 `[N, C, H, W]`, or files.
        train_labels: int64 `[N]`.
        classes: Names by label.
        shape: At which students see an image.
        validation, validation_labels: As `train`; None where validation is cut off the training
            examples.
        test, test_labels: As `train`; None where a test split is cut off as well.
        flip: Whether a mirrored image still shows the same class.
        attribution: Whom to thank.
    """

    train: Any
    train_labels: Labels
    classes: tuple[str, ...]
    shape: Input
    validation: Any = None
    validation_labels: Labels | None = None
    test: Any = None
    test_labels: Labels | None = None
    flip: bool = True
    attribution: str = field(default="")


@dataclass(frozen=True)
class Request:
    """What the user asked for: `name:argument`, and how to read it."""

    spec: str
    argument: str
    root: str | None
    image_size: int | None
    skip_unreadable: bool
    resident_limit: int


def read_source(
    spec: str,
    root: str | None,
    image_size: int | None,
    skip_unreadable: bool,
    resident_limit: int,
) -> Source:
    """Reads a source by its name; see `load_data`.

    Raises:
        UserError: If there is no such source, or its content cannot be used.
    """
    name, _, argument = spec.partition(":")
    known = {**SOURCES, **_USER_SOURCES}
    if name not in known:
        allowed = "fashion-mnist-mini, fashion-mnist, folder:PATH, torchvision:NAME, npz:PATH"
        extra = "".join(f", {key}" for key in _USER_SOURCES)
        raise UserError(f"--data {spec!r}: no such source{nearest(name, known)} "
                        f"(allowed: {allowed}{extra})")  # fmt: skip
    if name in ("folder", "torchvision", "npz") and not argument:
        raise UserError(f"--data {spec!r}: something must follow the colon, as in {name}:…")
    if image_size is not None and not SMALLEST <= image_size <= LARGEST:
        raise UserError(f"image_size {image_size}: allowed are {SMALLEST} to {LARGEST} pixels")
    source = known[name](Request(spec, argument, root, image_size, skip_unreadable, resident_limit))
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
    shapes: dict[tuple[int, ...], int] = {}
    for images in (source.train, source.validation, source.test):
        if isinstance(images, np.ndarray):
            _, channels, height, width = images.shape
            key = (height, width, channels)
            shapes[key] = shapes.get(key, 0) + len(images)
    if len(shapes) > 1:
        _refuse_mixed(spec, shapes)
    for labels in (source.train_labels, source.validation_labels, source.test_labels):
        if labels is None:
            continue
        bad = (labels < 0) | (labels >= len(source.classes))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"data {spec!r}: label {labels[at]} of example {at} is out of range "
                f"(allowed: 0 to {len(source.classes) - 1}; {int(bad.sum())} such labels)"
            )


# -- shipped and well-known data ------------------------------------------------------------------


def _fashion_mnist_mini(request: Request) -> Source:
    path = Path(__file__).parent.parent / "assets" / "fashion-mnist-mini.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    images = {k: v[:, None] for k, v in arrays.items() if k.endswith("images")}
    images = {k: _resized(v, request.image_size) for k, v in images.items()}
    labels = {k: v.astype(np.int64) for k, v in arrays.items() if k.endswith("labels")}
    return Source(
        images["train_images"], labels["train_labels"], FASHION_CLASSES,
        _shape_of(images["train_images"]),
        images["validation_images"], labels["validation_labels"],
        images["test_images"], labels["test_labels"], attribution=FASHION_ATTRIBUTION,
    )  # fmt: skip


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a gzipped idx file of bytes (the format of MNIST).

    Raises:
        UserError: If it is no such file.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable idx.gz file ({error})") from None
    dimensions = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    if data[:3] != b"\x00\x00\x08" or len(data) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise UserError(f"{path}: not an idx file of bytes, or truncated")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _fashion_mnist(request: Request) -> Source:
    if request.root is not None or not DEBIAN_FASHION_MNIST.is_dir():
        named = Request(
            request.spec, "FashionMNIST", request.root, request.image_size,
            request.skip_unreadable, request.resident_limit,
        )  # fmt: skip
        return _torchvision(named)
    parts = {
        name: read_idx(DEBIAN_FASHION_MNIST / f"{name}-ubyte.gz")
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3",
                     "t10k-labels-idx1")
    }  # fmt: skip
    train = _resized(parts["train-images-idx3"][:, None], request.image_size)
    test = _resized(parts["t10k-images-idx3"][:, None], request.image_size)
    return Source(
        train, parts["train-labels-idx1"].astype(np.int64), FASHION_CLASSES, _shape_of(train),
        test=test, test_labels=parts["t10k-labels-idx1"].astype(np.int64),
        attribution=FASHION_ATTRIBUTION,
    )  # fmt: skip


def _torchvision(request: Request) -> Source:
    import torchvision

    kind = getattr(torchvision.datasets, request.argument, None)
    if kind is None or not isinstance(kind, type):
        known = [name for name in dir(torchvision.datasets) if name[0].isupper()]
        raise UserError(
            f"--data {request.spec!r}: torchvision has no dataset {request.argument!r}"
            f"{nearest(request.argument, known)}"
        )
    root = request.root or "data"
    try:
        train, test = (_open_torchvision(kind, root, is_train) for is_train in (True, False))
    except (OSError, RuntimeError, TypeError) as error:
        raise UserError(f"--data {request.spec!r}: cannot load from {root}: {error}") from None
    classes = tuple(str(name) for name in getattr(train, "classes", ()))
    arrays = [_arrays_of(part, request) for part in (train, test)]
    classes = classes or tuple(str(i) for i in range(int(arrays[0][1].max()) + 1))
    return Source(
        arrays[0][0], arrays[0][1], classes, _shape_of(arrays[0][0]),
        test=arrays[1][0], test_labels=arrays[1][1],
        flip="MNIST" not in request.argument or request.argument == "FashionMNIST",
        attribution=f"torchvision.datasets.{request.argument}",
    )  # fmt: skip


def _open_torchvision(kind: Any, root: str, train: bool) -> Any:
    try:
        return kind(root, train=train, download=False)
    except TypeError:
        return kind(root, split="train" if train else "test", download=False)
    except RuntimeError:
        return kind(root, train=train, download=True)


def _arrays_of(dataset: Any, request: Request) -> tuple[NDArray[np.uint8], Labels]:
    """Every picture of a torchvision dataset as one array."""
    pictures, labels = [], []
    sides: dict[tuple[int, ...], int] = {}
    for picture, label in (dataset[i] for i in range(len(dataset))):
        array = np.asarray(picture)
        array = array[..., None] if array.ndim == 2 else array
        sides[array.shape] = sides.get(array.shape, 0) + 1
        if request.image_size is not None:
            array = _resized(array.transpose(2, 0, 1)[None], request.image_size)[0]
        else:
            array = array.transpose(2, 0, 1)
        pictures.append(array)
        labels.append(int(label))
    if len({array.shape for array in pictures}) > 1:
        _refuse_mixed(request.spec, sides)
    return np.stack(pictures), np.array(labels, dtype=np.int64)


# -- the user's own data ------------------------------------------------------------------------


def _npz(request: Request) -> Source:
    path = Path(request.argument)
    arrays = _read_npz(path)
    for name in ("images", "labels"):
        if name not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise UserError(f"{path}: no array {name!r} (found: {found})")
    train, train_labels = _pair(path, arrays, "", request)
    test = test_labels = validation = validation_labels = None
    sibling = path.with_name("test.npz")
    if "test_images" in arrays:
        test, test_labels = _pair(path, arrays, "test_", request)
    elif sibling != path and sibling.is_file() and path.name == "train.npz":
        test, test_labels = _pair(sibling, _read_npz(sibling), "", request)
    if "validation_images" in arrays:
        validation, validation_labels = _pair(path, arrays, "validation_", request)
    if "classes" in arrays:
        classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
    else:
        # Every class needs an example, so that more classes than examples are a wrong label.
        most = min(int(train_labels.max()) + 1, len(train_labels))
        classes = tuple(str(i) for i in range(most))
    return Source(
        train, train_labels, classes, _shape_of(train), validation, validation_labels,
        test, test_labels, attribution=str(path),
    )  # fmt: skip


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UserError(f"--data npz:{path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable npz of plain arrays ({reason})") from None


def _pair(
    path: Path, arrays: Mapping[str, NDArray[Any]], prefix: str, request: Request
) -> tuple[NDArray[np.uint8], Labels]:
    images, labels = arrays[prefix + "images"], arrays.get(prefix + "labels")
    where = f"{path}: array {prefix + 'images'!r}"
    if images.dtype != np.uint8:
        raise UserError(f"{where} has dtype {images.dtype}; allowed is uint8 (0 to 255)")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(
            f"{where} has shape {images.shape}; allowed are [N,H,W], [N,H,W,1] and [N,H,W,3]"
        )
    if labels is None or labels.ndim != 1 or len(labels) != len(images):
        found = "none" if labels is None else f"of shape {labels.shape}"
        raise UserError(f"{where} has {len(images)} images, labels are {found}; one each is needed")
    if len(images) == 0:
        raise UserError(f"{where} holds no images")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: labels have dtype {labels.dtype}; allowed are integers from 0")
    images = images[..., None] if images.ndim == 3 else images
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return _resized(images, request.image_size), labels.astype(np.int64)


def _folder(request: Request) -> Source:
    path = Path(request.argument).expanduser()
    if not path.is_dir():
        raise UserError(f"--data {request.spec!r}: {path} is not a folder")
    names = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
    found = {
        part: next((path / name for name in options if (path / name).is_dir()), None)
        for part, options in names.items()
    }
    train = found["train"] or path
    classes = tuple(sorted(p.name for p in train.iterdir() if p.is_dir() and p.name[0] != "."))
    if not classes:
        raise UserError(
            f"{train}: no class folders; expected {train}/<class>/<image>.jpg (torchvision's "
            "ImageFolder layout)"
        )
    parts = {
        part: _list_images(folder, classes)
        for part, folder in {**found, "train": train}.items()
        if folder is not None
    }
    shapes = _survey(parts, request)
    channels = 3 if any(mode == 3 for mode, _, _ in shapes) else 1
    if len({mode for mode, _, _ in shapes}) > 1:
        _refuse_mixed(request.spec, {(h, w, c): n for (c, h, w), n in shapes.items()})
    small = max(max(h, w) for _, h, w in shapes) <= 64
    if small and request.image_size is None and len(shapes) > 1:
        _refuse_mixed(request.spec, {(h, w, c): n for (c, h, w), n in shapes.items()})
    ((_, height, width),) = list(shapes)[:1]
    same = len(shapes) == 1 and max(height, width) <= LARGEST
    size = (request.image_size or DEFAULT_SIDE,) * 2
    if request.image_size is None and same:
        size = (height, width)
    total = sum(len(labels) for _, labels in parts.values()) * channels * size[0] * size[1]
    stay = small or (same and total <= request.resident_limit)
    read = {k: (_decode_all(f, channels, size) if stay else f, y) for k, (f, y) in parts.items()}
    train_images, train_labels = read["train"]
    validation, validation_labels = read.get("validation", (None, None))
    test, test_labels = read.get("test", (None, None))
    return Source(
        train_images, train_labels, classes, Input(channels, *size), validation, validation_labels,
        test, test_labels, attribution=str(path),
    )  # fmt: skip


def _list_images(folder: Path, classes: Sequence[str]) -> tuple[Files, Labels]:
    paths, labels = [], []
    inner = [p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."]
    strange = [name for name in inner if name not in classes]
    if strange:
        raise UserError(f"{folder}: class {sorted(strange)[0]!r} is not in the training folder")
    for label, name in enumerate(classes):
        inside = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += inside
        labels += [label] * len(inside)
    if not paths:
        raise UserError(f"{folder}: no images ({', '.join(SUFFIXES)}) in any class folder")
    return Files(paths), np.array(labels, dtype=np.int64)


def _survey(
    parts: dict[str, tuple[Files, Labels]], request: Request
) -> dict[tuple[int, int, int], int]:
    """Opens every image once; counts shapes (channels, height, width), names the unreadable."""
    shapes: dict[tuple[int, int, int], int] = {}
    unreadable: list[Path] = []
    for part, (files, labels) in parts.items():
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(_shape_in, files.paths))
        for path, shape in zip(files.paths, found, strict=True):
            if shape is None:
                unreadable.append(path)
            else:
                shapes[shape] = shapes.get(shape, 0) + 1
        good = np.flatnonzero([shape is not None for shape in found])
        parts[part] = (files[good], labels[good])
    if unreadable and not request.skip_unreadable:
        first = ", ".join(str(path) for path in unreadable[:3])
        raise UserError(
            f"{len(unreadable)} unreadable image(s): {first}{'…' if len(unreadable) > 3 else ''}. "
            "Mend or remove them, or give --skip-unreadable"
        )
    for part, (files, _) in parts.items():
        if not len(files):
            raise UserError(f"--data {request.spec!r}: no readable image in {part}")
    return shapes


def _shape_in(path: Path) -> tuple[int, int, int] | None:
    try:
        with Image.open(path) as image:
            image.load()
            return (1 if image.mode in ("1", "L", "I;16") else 3, image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def decode(path: Path, channels: int) -> NDArray[np.uint8]:
    """Reads one image file, uint8 `[C, H, W]`."""
    with Image.open(path) as image:
        array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).copy()


def _decode_all(files: Files, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    def one(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            shown = image.convert("L" if channels == 1 else "RGB")
            if shown.size != (size[1], size[0]):
                shown = shown.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            array = np.asarray(shown)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, files.paths)))


def _refuse_mixed(spec: str, shapes: Mapping[tuple[int, ...], int]) -> None:
    listed = sorted(shapes.items(), key=lambda item: -item[1])[:4]
    found = "; ".join(f"{count} of {h}x{w} with {c} channel(s)" for (h, w, c), count in listed)
    raise UserError(
        f"data {spec!r}: mixed sizes or channels ({found}). Give --image-size for one size; "
        "convert the images to one number of channels"
    )


def _shape_of(images: NDArray[np.uint8]) -> Input:
    return Input(*images.shape[1:])


def _resized(images: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    if side is None or images.shape[2:] == (side, side):
        return images
    return np.stack(list(_resize_each(images, side)))


def _resize_each(images: NDArray[np.uint8], side: int) -> Iterator[NDArray[np.uint8]]:
    for image in images:
        shown = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        array = np.asarray(shown.resize((side, side), Image.Resampling.BILINEAR))
        yield array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


SOURCES: dict[str, Callable[[Request], Source]] = {
    "fashion-mnist-mini": _fashion_mnist_mini,
    "fashion-mnist": _fashion_mnist,
    "folder": _folder,
    "torchvision": _torchvision,
    "npz": _npz,
}
_USER_SOURCES: dict[str, Callable[[Request], Source]] = {}


def register_sources(sources: Mapping[str, Callable[[Request], Source]]) -> None:
    """Adds the sources of a user's own file; each takes a `Request` and gives a `Source`."""
    _USER_SOURCES.update(sources)
