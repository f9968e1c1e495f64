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
from PIL import Image, UnidentifiedImageError

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, silent, with_signs_of_life
from nasdistill.common.types import Input
from nasdistill.data.pictures import (
    FULL_DEPTH,
    UNREADABLE,
    Preparation,
    Traits,
    channels_of,
    fit_arrays,
    refuse_mode,
    to_array,
    traits_of,
)

SMALL = 64
SMALLEST, LARGEST = 16, 256

Labels: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]  # (channels, height, width)


@dataclass(frozen=True)
class Files:
    """Images that stay in files until they are needed.

    Attributes:
        paths: One per example.
        digests: Of their contents, as long as `paths`.
        preparation: The way that they are decoded, as far as the size in which they are stored.
        converted: Kinds of images among them that are converted in a way that may change; see
            `Traits`.
    """

    paths: tuple[Path, ...]
    digests: tuple[bytes, ...]
    preparation: Preparation
    converted: tuple[str, ...] = ()

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
                return to_array(self.preparation.stored_image(image))
        except UNREADABLE as error:
            raise UserError(f"{path}: cannot be read any more ({error})") from None

    def decode_all(self, emit: Emit = silent) -> NDArray[np.uint8]:
        """Reads all images, uint8 `[N, C, H, W]`.

        Args:
            emit: Told how far it is, where that takes a while.
        """
        way = self.preparation
        images = np.empty((len(self), way.channels, *way.stored), np.uint8)
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self.decode, range(len(self)))
            reported_images = with_signs_of_life(
                decoded, "preparing images", "data", len(self), emit
            )
            for index, image in enumerate(reported_images):
                images[index] = image
        return images

    def identity(self) -> bytes:
        """Hash of the files' contents and of the form they are brought to."""
        way = self.preparation
        form = repr((way.channels, way.stored)).encode()
        if self.converted:  # Plain files keep the hash that they always had.
            form += repr((way.bits, self.converted)).encode()
        return hashlib.blake2b(form + b"".join(self.digests), digest_size=16).digest()


Raw: TypeAlias = "NDArray[np.uint8] | Files"


@dataclass(frozen=True)
class Source:
    """The examples of a source, in the splits that it comes with.

    Attributes:
        train: Images, uint8 `[N, C, H, W]`, or files; none of them where validation and test alone
            have some.
        train_labels: int64 `[N]`.
        classes: Names by label.
        shape: The shape at which students see an image.
        validation, validation_labels: As `train`; None where validation is cut off the training
            examples.
        test, test_labels: As `train`; None where a test split is cut off as well.
        flip: Whether a mirrored image still shows the same class.
        attribution: Credits of the data.
        train_names: Names of the training examples; None where row numbers are their names.
        bits: In use in pictures of more than 8 bits a channel; see `Preparation`.
        notes: What was done to examples or left out, a sentence each.
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
    bits: int = FULL_DEPTH
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
        preparation: The way in which other data were prepared, to be repeated here; it overrides
            `image_size` and `channels`.
        emit: Told how far the reading is, where it takes a while.
    """

    spec: str
    argument: str = ""
    root: str | None = None
    image_size: int | None = None
    channels: int | None = None
    skip_unreadable: bool = False
    resident_limit: int = 4 << 30
    preparation: Preparation | None = None
    emit: Emit = silent


class ImageInfo(NamedTuple):
    """A file that can be read.

    Attributes:
        shape: (channels, height, width) as a viewer shows it.
        digest: Hash of the file's content.
        traits: What is not plain about it.
    """

    shape: Shape
    digest: bytes
    traits: Traits


class Unreadable(NamedTuple):
    """A file that cannot be read, and why."""

    reason: str


def survey(path: Path) -> ImageInfo | Unreadable:
    """Decodes one file."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            refuse_mode(image)
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
            shape = (channels_of(image), height, width)
            digest = hashlib.blake2b(content, digest_size=16).digest()
            return ImageInfo(shape, digest, traits_of(image))
    except UnidentifiedImageError:
        return Unreadable("no image" if content else "empty")
    except UNREADABLE as error:
        return Unreadable(" ".join(str(error).split()) or type(error).__name__)


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
    if request.preparation is not None:
        preparation = request.preparation
        converted = [_converted(array, preparation.channels) for array in arrays]
        return Prepared(
            [fit_arrays(array, preparation.stored) for array in converted], preparation.input
        )
    converted = [_converted(array, request.channels) for array in arrays]
    _, channels, height, width = converted[0].shape
    if request.image_size is None:
        return Prepared(converted, Input(channels, height, width))
    size = (request.image_size, request.image_size)
    sizes = {array.shape[2:] for array in converted}
    if len(sizes) > 1 or max(max(each) for each in sizes) > SMALL:
        converted = [fit_arrays(array, size) for array in converted]
    return Prepared(converted, Input(channels, *size))


def _converted(images: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    """Grey to RGB, and RGB to grey as Pillow does it."""
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in images)
    return np.stack([to_array(picture.convert("L")) for picture in pictures])


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
