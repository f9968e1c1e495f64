"""Folders of images in torchvision's ImageFolder layout."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nasdistill.common.errors import UserError
from nasdistill.common.events import with_signs_of_life
from nasdistill.data.layout import Listing, read_layout
from nasdistill.data.pictures import Preparation, Traits, bits_in_use, notes_on
from nasdistill.data.raw import (
    LARGEST,
    SMALL,
    Files,
    ImageInfo,
    Raw,
    Request,
    Shape,
    Source,
    Unreadable,
    refuse_mixed,
    survey,
)

DEFAULT_SIDE = 224


@dataclass
class _Survey:
    """The images of a folder that can be read.

    Attributes:
        listings: By split.
        digests: Of the images' contents, by split, in the order of its listing.
        shapes: Number of images of each shape.
        examples: An image of each shape.
        traits: Of all images.
    """

    listings: dict[str, Listing] = field(default_factory=dict)
    digests: dict[str, list[bytes]] = field(default_factory=dict)
    shapes: dict[Shape, int] = field(default_factory=dict)
    examples: dict[Shape, Path] = field(default_factory=dict)
    traits: list[Traits] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of images."""
        return sum(len(listing.paths) for listing in self.listings.values())


def read_folder(request: Request) -> Source:
    """Reads `folder:PATH`.

    PATH holds `train/` and perhaps `val/` and `test/`, or these two alone, each with a folder per
    class; or the class folders themselves; see `layout.read_layout`. Images of one size keep it up
    to 256 pixels. Larger ones, and mixed ones of more than 64 pixels, are brought to `image_size`
    (224 by default): the middle, where their proportions differ. They are decoded at once if all
    fit `resident_limit`, else when needed.

    Raises:
        UserError: If the folder cannot be used; the message says why.
    """
    path = Path(request.argument).expanduser()
    if not path.is_dir():
        reason = "is a file, not a folder" if path.exists() else "is not a folder"
        raise UserError(f"--data {request.spec!r}: {path} {reason}")
    layout = read_layout(path)
    images = _survey_images(layout.listings, request)
    way = request.preparation or _choose_preparation(request, images)
    channels, (height, width) = way.channels, way.stored
    resident = max(way.stored) <= SMALL
    resident = resident or len(images) * channels * height * width <= request.resident_limit
    converted = tuple(sorted({kind for traits in images.traits for kind in traits.all_kinds}))
    raw: dict[str, Raw] = {}
    for part, listing in images.listings.items():
        paths, digests = tuple(listing.paths), tuple(images.digests[part])
        files = Files(paths, digests, way, converted)
        raw[part] = files.decode_all(request.emit) if resident else files
    labels = {part: listing.labels for part, listing in images.listings.items()}
    train_paths = images.listings["train"].paths
    skipped = sum(len(listing.paths) for listing in layout.listings.values()) - len(images)
    skips = [f"unreadable images are left out: {skipped:,}"] if skipped else []
    return Source(
        raw["train"],
        labels["train"],
        layout.classes,
        way.input,
        raw.get("validation"),
        labels.get("validation"),
        raw.get("test"),
        labels.get("test"),
        attribution=str(path),
        train_names=tuple(each.relative_to(path).as_posix() for each in train_paths),
        bits=way.bits,
        notes=(*layout.notes, *skips, *notes_on(images.traits)),
    )


def _choose_preparation(request: Request, images: _Survey) -> Preparation:
    if request.channels is None and len({shape[0] for shape in images.shapes}) > 1:
        refuse_mixed(request, images.shapes, images.examples)
    channels = request.channels or min(shape[0] for shape in images.shapes)
    bits = bits_in_use(images.traits)
    sizes = {(height, width) for _, height, width in images.shapes}
    largest = max(max(size) for size in sizes)
    own = next(iter(sizes)) if len(sizes) == 1 else None
    if request.image_size is not None:
        shown_size = (request.image_size, request.image_size)
        stored = own if own is not None and largest <= SMALL else shown_size
        return Preparation(channels, shown_size, stored, bits)
    if own is not None and largest <= LARGEST:
        return Preparation(channels, own, own, bits)
    if largest <= SMALL:
        refuse_mixed(request, images.shapes, images.examples)
    default = (DEFAULT_SIDE, DEFAULT_SIDE)
    return Preparation(channels, default, default, bits)


def _survey_images(listings: Mapping[str, Listing], request: Request) -> _Survey:
    """Decodes every image once; those that cannot be read are left out where the user allows it."""
    result = _Survey()
    unreadable: list[tuple[Path, str]] = []
    emit = request.emit
    for part, (paths, labels) in listings.items():
        with ThreadPoolExecutor() as pool:
            surveyed = pool.map(survey, paths)
            infos = list(with_signs_of_life(surveyed, "reading images", "data", len(paths), emit))
        readable: list[Path] = []
        digests: list[bytes] = []
        for path, info in zip(paths, infos, strict=True):
            if isinstance(info, Unreadable):
                unreadable.append((path, info.reason))
                continue
            result.traits.append(info.traits)
            result.shapes[info.shape] = result.shapes.get(info.shape, 0) + 1
            result.examples.setdefault(info.shape, path)
            readable.append(path)
            digests.append(info.digest)
        kept = np.array([isinstance(info, ImageInfo) for info in infos], dtype=bool)
        result.listings[part] = Listing(readable, labels[kept])
        result.digests[part] = digests
    if unreadable and not request.skip_unreadable:
        first = ", ".join(f"{path} ({reason})" for path, reason in unreadable[:3])
        raise UserError(
            f"{len(unreadable)} unreadable image(s): {first}{'…' if len(unreadable) > 3 else ''}. "
            "Mend or remove them, or give --skip-unreadable"
        )
    for part, listing in result.listings.items():
        if listings[part].paths and not listing.paths:
            raise UserError(f"--data {request.spec!r}: no readable image in {part}")
    return result
