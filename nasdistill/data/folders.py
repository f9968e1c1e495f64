"""Folders of images in torchvision's ImageFolder layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data.raw import (
    LARGEST,
    SMALL,
    Files,
    Labels,
    Raw,
    Request,
    Shape,
    Source,
    refuse_mixed,
    survey,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DEFAULT_SIDE = 224
NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}

Listed: TypeAlias = tuple[list[Path], list[bytes], Labels]


def read_folder(request: Request) -> Source:
    """Reads `folder:PATH`.

    PATH holds `train/` and perhaps `val/` and `test/`, each with a folder per class, or the class
    folders themselves. Images of one size keep it up to 256 pixels. Larger ones, and mixed ones of
    more than 64 pixels, are brought to `image_size` (224 if not given): the middle, where their
    proportions differ. They are decoded at once if all fit `resident_limit`, else when needed.

    Raises:
        UserError: If the folder cannot be used; the message says why.
    """
    path = Path(request.argument).expanduser()
    if not path.is_dir():
        found = "is a file, not a folder" if path.exists() else "is not a folder"
        raise UserError(f"--data {request.spec!r}: {path} {found}")
    folders = _parts(path)
    classes = tuple(_inside(folders["train"]))
    if not classes:
        raise UserError(
            f"{folders['train']}: no class folders; expected {folders['train']}/<class>/<image>.jpg"
            " (torchvision's ImageFolder layout)"
        )
    paths = {part: _list_images(folder, classes) for part, folder in folders.items()}
    listed, shapes, examples = _survey(paths, request)
    channels = request.channels or min(shape[0] for shape in shapes)
    if request.channels is None and len({shape[0] for shape in shapes}) > 1:
        refuse_mixed(request, shapes, examples)
    held, size = _sizes(request, shapes, examples)
    read: dict[str, tuple[Raw, Labels]] = {}
    count = sum(len(labels) for _, _, labels in listed.values())
    resident = max(held) <= SMALL or count * channels * held[0] * held[1] <= request.resident_limit
    for part, (inside, digests, labels) in listed.items():
        files = Files(tuple(inside), tuple(digests), channels, held)
        read[part] = (files.decode_all() if resident else files, labels)
    train, train_labels = read["train"]
    validation, validation_labels = read.get("validation", (None, None))
    test, test_labels = read.get("test", (None, None))
    return Source(
        train,
        train_labels,
        classes,
        Input(channels, *size),
        validation,
        validation_labels,
        test,
        test_labels,
        attribution=str(path),
        train_names=tuple(each.relative_to(path).as_posix() for each in listed["train"][0]),
    )


def _sizes(
    request: Request, shapes: Mapping[Shape, int], examples: Mapping[Shape, Path]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes at which images are held, and at which students see them."""
    sizes = {(height, width) for _, height, width in shapes}
    largest = max(max(size) for size in sizes)
    own = next(iter(sizes)) if len(sizes) == 1 else None
    if request.image_size is not None:
        asked = (request.image_size, request.image_size)
        return (own if own is not None and largest <= SMALL else asked), asked
    if own is not None and largest <= LARGEST:
        return own, own
    if largest <= SMALL:
        refuse_mixed(request, shapes, examples)
    return (DEFAULT_SIDE, DEFAULT_SIDE), (DEFAULT_SIDE, DEFAULT_SIDE)


def _parts(path: Path) -> dict[str, Path]:
    """The folder of each split that is there."""
    parts = {
        part: next(path / name for name in names if (path / name).is_dir())
        for part, names in NAMES.items()
        if any((path / name).is_dir() for name in names)
    }
    if "train" in parts:
        return parts
    if parts and len(_inside(path)) == len(parts):
        found = ", ".join(f"{folder.name}/" for folder in parts.values())
        raise UserError(f"{path}: {found} but no train/; expected train/<class>/<image>.jpg")
    return {"train": path}


def _inside(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def _list_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Labels]:
    strange = [name for name in _inside(folder) if name not in classes]
    if strange:
        raise UserError(f"{folder}: class {strange[0]!r} is not in the training folder")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = (p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        inside = sorted(p for p in found if p.name[0] != ".")
        paths += inside
        labels += [label] * len(inside)
    if not paths:
        raise UserError(f"{folder}: no images ({', '.join(SUFFIXES)}) in any class folder")
    return paths, np.array(labels, dtype=np.int64)


def _survey(
    parts: Mapping[str, tuple[list[Path], Labels]], request: Request
) -> tuple[dict[str, Listed], dict[Shape, int], dict[Shape, Path]]:
    """Decodes every image once: those that can be read, the count and an example of each shape."""
    listed: dict[str, Listed] = {}
    shapes: dict[Shape, int] = {}
    examples: dict[Shape, Path] = {}
    unreadable: list[Path] = []
    for part, (paths, labels) in parts.items():
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(survey, paths))
        good: list[Path] = []
        digests: list[bytes] = []
        for path, about in zip(paths, found, strict=True):
            if about is None:
                unreadable.append(path)
                continue
            shapes[about[0]] = shapes.get(about[0], 0) + 1
            examples.setdefault(about[0], path)
            good.append(path)
            digests.append(about[1])
        kept = np.array([about is not None for about in found])
        listed[part] = (good, digests, labels[kept])
    if unreadable and not request.skip_unreadable:
        first = ", ".join(str(path) for path in unreadable[:3])
        raise UserError(
            f"{len(unreadable)} unreadable image(s): {first}{'…' if len(unreadable) > 3 else ''}. "
            "Mend or remove them, or give --skip-unreadable"
        )
    for part, (good, _, _) in listed.items():
        if not good:
            raise UserError(f"--data {request.spec!r}: no readable image in {part}")
    return listed, shapes, examples
