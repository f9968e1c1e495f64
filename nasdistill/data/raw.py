"""Examples of a source as arrays or files, and the request that a source is read by."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input

SMALL = 64
SMALLEST, LARGEST = 16, 256

Labels: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]  # (channels, height, width)
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Files:
    """Images that stay in files until they are needed.

    Attributes:
        paths: One per example.
        digests: Of their contents, as long as `paths`.
        channels: Of the decoded images: 1 (grey) or 3 (RGB).
        size: `(height, width)` to which every image is brought, in pixels: its middle is cut out
            where the proportions differ.
    """

    paths: tuple[Path, ...]
    digests: tuple[bytes, ...]
    channels: int
    size: tuple[int, int]

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64]) -> Files:
        """The files at some indices."""
        return replace(
            self,
            paths=tuple(self.paths[int(i)] for i in index),
            digests=tuple(self.digests[int(i)] for i in index),
        )

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Reads one image, uint8 `[C, H, W]`.

        Raises:
            UserError: If the file is gone or has changed since it was surveyed.
        """
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                image.draft(None, (2 * max(self.size),) * 2)  # JPEG: skips unneeded detail.
                return to_array(fit(upright(image, self.channels), self.size))
        except UNREADABLE as error:
            raise UserError(f"{path}: cannot be read any more ({error})") from None

    def decode_all(self) -> NDArray[np.uint8]:
        """Reads all images, uint8 `[N, C, H, W]`."""
        images = np.empty((len(self), self.channels, *self.size), np.uint8)
        with ThreadPoolExecutor() as pool:
            for index, image in enumerate(pool.map(self.decode, range(len(self)))):
                images[index] = image
        return images

    def identity(self) -> bytes:
        """Hash of the files' contents and of the form they are brought to."""
        form = repr((self.channels, self.size)).encode()
        return hashlib.blake2b(form + b"".join(self.digests), digest_size=16).digest()


Raw: TypeAlias = "NDArray[np.uint8] | Files"


@dataclass(frozen=True)
class Source:
    """The examples of a source, in the splits that it comes with.

    Attributes:
        train: Images, uint8 `[N, C, H, W]`, or files.
        train_labels: int64 `[N]`.
        classes: Names by label.
        shape: The shape at which students see an image.
        validation, validation_labels: As `train`; None where validation is cut off the training
            examples.
        test, test_labels: As `train`; None where a test split is cut off as well.
        flip: Whether a mirrored image still shows the same class.
        attribution: Credits of the data.
        train_names: Names of the training examples; None where row numbers are their names.
        notes: What the user should know of how they were read.
    """

    train: Raw
    train_labels: Labels
    classes: tuple[str, ...]
    shape: Input
    validation: Raw | None = None
    validation_labels: Labels | None = None
    test: Raw | None = None
    test_labels: Labels | None = None
    flip: bool = True
    attribution: str = ""
    train_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """The data that the user chose.

    Attributes:
        spec: Name and argument, `name:argument`.
        argument: The part behind the colon, or an empty string.
        root: Folder of a torchvision dataset.
        image_size: Side in pixels at which students see an image.
        channels: 1 or 3, to which images are converted; None to leave them as they are.
        skip_unreadable: Whether unreadable images are left out instead of being an error.
        resident_limit: Bytes up to which images are decoded at once.
    """

    spec: str
    argument: str = ""
    root: str | None = None
    image_size: int | None = None
    channels: int | None = None
    skip_unreadable: bool = False
    resident_limit: int = 4 << 30


def channels_of(image: Image.Image) -> int:
    """1 for a grey image of any depth, else 3."""
    return 1 if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I") else 3


def upright(image: Image.Image, channels: int) -> Image.Image:
    """Turns an image as its camera was held, and into `channels` channels of 8 bits."""
    if image.mode.startswith("I"):
        high = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(high.clip(0, 255).astype(np.uint8))
    turned = ImageOps.exif_transpose(image)
    return turned.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Brings an image to `(height, width)`: its middle, where the proportions differ."""
    target = (size[1], size[0])
    if image.size == target:
        return image
    return ImageOps.fit(image, target, method=Image.Resampling.BILINEAR)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Grey or RGB image as uint8 `[C, H, W]`."""
    array = np.asarray(image)
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).copy()


class ImageInfo(NamedTuple):
    """The shape of an image, (channels, height, width), and the hash of its file's content."""

    shape: Shape
    digest: bytes


def survey(path: Path) -> ImageInfo | None:
    """Decodes one file; None if it cannot be read as an image."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if image.mode == "F":
                return None
            image.load()
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
            channels = channels_of(image)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        return ImageInfo((channels, height, width), digest)
    except UNREADABLE:
        return None


class Prepared(NamedTuple):
    """Arrays uint8 `[N, C, H, W]`, and the shape at which students see an image."""

    arrays: list[NDArray[np.uint8]]
    shape: Input


def prepare(arrays: Iterable[NDArray[np.uint8]], request: Request) -> Prepared:
    """Brings arrays to the channels and size that the user chose.

    Small images of one size stay as they are and are resized when shown; others are resized here.

    Args:
        arrays: uint8 `[N, C, H, W]` each.
        request: The user's choice.
    """
    converted = [_converted(array, request.channels) for array in arrays]
    _, channels, height, width = converted[0].shape
    if request.image_size is None:
        return Prepared(converted, Input(channels, height, width))
    size = (request.image_size, request.image_size)
    sizes = {array.shape[2:] for array in converted}
    if len(sizes) > 1 or max(max(each) for each in sizes) > SMALL:
        converted = [fitted(array, size) for array in converted]
    return Prepared(converted, Input(channels, *size))


def _converted(images: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    weights = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL does.
    grey = [np.tensordot(weights, image, 1).round().astype(np.uint8) for image in images]
    return np.stack(grey)[:, None]


def fitted(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Brings images `[N, C, H, W]` to `(height, width)`; see `fit`."""
    out = np.empty((*images.shape[:2], *size), np.uint8)
    for index, image in enumerate(images):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        out[index] = to_array(fit(picture, size))
    return out


def refuse_mixed(
    request: Request, shapes: Mapping[Shape, int], examples: Mapping[Shape, Path]
) -> None:
    """Refuses images of several shapes, and says how to bring them to one.

    Args:
        request: The user's choice.
        shapes: Count by (channels, height, width).
        examples: A file of each shape, where there are files.

    Raises:
        UserError: Always.
    """
    listed = sorted(shapes.items(), key=lambda item: -item[1])
    text = "; ".join(
        f"{count} of {h}x{w} with {c} channel(s)"
        + (f", e.g. {examples[c, h, w]}" if (c, h, w) in examples else "")
        for (c, h, w), count in listed[:4]
    )
    rest = f"; and {len(listed) - 4} other shapes" if len(listed) > 4 else ""
    remedies = []
    if request.image_size is None and len({shape[1:] for shape in shapes}) > 1:
        remedies.append("give --image-size for one size")
    if len({shape[0] for shape in shapes}) > 1:
        remedies.append("give --channels 1 (grey) or --channels 3 (RGB)")
    raise UserError(
        f"data {request.spec!r}: mixed sizes or channels ({text}{rest}). "
        f"To mend it: {'; '.join(remedies)}"
    )
