"""The layout of a folder of images: its splits, its classes, and the files of each."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nasdistill.common.class_names import check_class_names, few, match_classes
from nasdistill.common.errors import UserError
from nasdistill.data.raw import Labels

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
EXPECTED = "expected train/<class>/<image>.jpg (and val/, test/), or <class>/<image>.jpg"
HELD_OUT = {"validation", "test"}
"""Splits beside which the training split may be empty or absent."""
NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF")
"""Formats that Pillow tells apart but reads with other programs alone, or not at all."""


class Listing(NamedTuple):
    """The images of one split.

    Attributes:
        paths: One per image.
        labels: int64, as long as `paths`.
    """

    paths: list[Path]
    labels: Labels


@dataclass
class LeftOut:
    """What lies in a folder and is not read.

    Attributes:
        suffixes: Number of files in class folders by suffix, in lower case.
        outside: Number of images outside of all class folders by suffix.
        circles: Number of links that lead to a folder that they lie in.
        folders: Folders beside those of the splits.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    circles: int = 0
    folders: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, a sentence each."""
        notes = []
        if self.suffixes:
            notes.append(
                f"{_files(self.suffixes)} left out, since Pillow opens no file of such a "
                f"suffix: {_counted(self.suffixes)}. Give images among them their suffix"
            )
        if self.outside:
            notes.append(
                f"{_files(self.outside)} left out, images in no class folder: "
                f"{_counted(self.outside)}"
            )
        if self.folders:
            notes.append(f"left out beside the splits' folders: {few(sorted(self.folders))}")
        if self.circles:
            notes.append(
                f"links that lead to a folder they lie in are not followed: {self.circles}"
            )
        return tuple(notes)


def _files(counts: Counter[str]) -> str:
    total = counts.total()
    return f"{total:,} file{'s are' if total > 1 else ' is'}"


def _counted(counts: Counter[str], most: int = 8) -> str:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ranked) - most} other suffixes" if len(ranked) > most else ""
    return ", ".join(f"{count:,} {ascii(suffix)[1:-1]}" for suffix, count in ranked[:most]) + more


class Layout(NamedTuple):
    """A folder's classes and images.

    Attributes:
        classes: Names by label.
        listings: Images by split; `train` is always there, without any where only validation and
            test have some.
        notes: What is left out and taken otherwise than it may be meant, a sentence each.
    """

    classes: tuple[str, ...]
    listings: dict[str, Listing]
    notes: tuple[str, ...]


def read_layout(path: Path) -> Layout:
    """Finds splits, classes and images, as torchvision's ImageFolder does, and more leniently.

    Splits are folders by their usual names in any case; without any, the folders are classes. Where
    a folder holds one folder only, that is looked into. Links are followed. Every file of a suffix
    that Pillow opens is an image. Names that begin with a dot are passed over. Beside a validation
    and a test split the training split may be empty or absent.

    Args:
        path: The folder.

    Raises:
        UserError: If there are no classes, or it cannot be told which folders are splits.
    """
    left_out, suffixes = LeftOut(), image_suffixes()
    home, splits = _find_splits(path)
    first = _first_split(splits)
    named = _inner(splits[first], ())
    classes = tuple(subfolders(named))
    if not classes:
        raise UserError(f"{named}: no class folders; {EXPECTED}")
    check_class_names(str(path), classes)
    if _are_like_splits(named, classes):
        raise UserError(
            f"{named}: the class folders are all named like splits: {few(classes)}. If they are "
            f"splits, {EXPECTED}; if they are classes, give them other names"
        )
    folders = {part: _inner(folder, classes) for part, folder in splits.items()}
    if home not in splits.values():
        used = {folder.name for folder in splits.values()}
        left_out.folders += [name for name in subfolders(home) if name not in used]
    listings = {"train": Listing([], np.array([], dtype=np.int64))}
    for part, folder in folders.items():
        _check_classes(folder, classes, first)
        may_be_empty = part == "train" and splits.keys() >= HELD_OUT
        listings[part] = _list_images(folder, classes, path, suffixes, left_out, may_be_empty)
    for folder in {path, home, *splits.values(), *folders.values()}:
        names = (entry.name for entry in _entries(folder) if os.path.isfile(entry.path))
        left_out.outside += Counter(s for s in map(_suffix, names) if s in suffixes)
        left_out.circles += sum(_is_circle(entry, folder) for entry in _entries(folder))
    deeper = (home, named) != (path, splits[first])
    deeper_notes = [f"the class folders are read from {named}"] if deeper else []
    return Layout(classes, listings, (*deeper_notes, *left_out.notes()))


def _first_split(splits: Mapping[str, Path]) -> str:
    """The split whose folders are the classes."""
    nothing_to_train_on = "train" not in splits or not _entries(splits["train"])
    return "validation" if nothing_to_train_on and splits.keys() >= HELD_OUT else "train"


def image_suffixes() -> frozenset[str]:
    """The suffixes of the formats that Pillow opens, in lower case."""
    formats = {*Image.registered_extensions().values()} & {*Image.OPEN, "MPO"}
    formats -= {*NOT_DECODED}
    return frozenset(s for s, name in Image.registered_extensions().items() if name in formats)


def split_of(name: str) -> str | None:
    """The split that a folder's name usually means: `Training`, `val`, `test_set` …."""
    stem = re.sub(r"[ _-]?(set|split|data|images)$", "", name.casefold())
    return next((part for part, names in SPLITS.items() if stem in names), None)


def _are_like_splits(folder: Path, classes: Sequence[str]) -> bool:
    """Whether all class folders are named like splits: `val`, or `seg_test` with folders inside."""
    if all(split_of(name) for name in classes):
        return True
    words = [re.split(r"[^a-z]+", name.casefold()) for name in classes]
    alike = all(any(map(split_of, some)) for some in words)
    return alike and any(subfolders(folder / name) for name in classes)


def _find_splits(path: Path) -> tuple[Path, dict[str, Path]]:
    """The folder that holds the splits, and each of them; without any it is `train` itself."""
    home, seen = path, set[str]()
    while True:
        names = subfolders(home)
        named = {name: part for part in SPLITS for name in names if split_of(name) == part}
        if any(subfolders(home / name) for name in named):
            return home, _distinct_splits(home, names, named)
        if names and len(named) == len(names):
            raise UserError(
                f"{home}: no class folders in {_slashed(names)}. If these are splits, "
                f"{EXPECTED}; if they are classes, give them other names"
            )
        inner = home / names[0] if len(names) == 1 else None
        seen.add(os.path.realpath(home))
        if inner is None or os.path.realpath(inner) in seen or not subfolders(inner):
            return home, {"train": home}
        home = inner


def _distinct_splits(home: Path, names: Sequence[str], named: Mapping[str, str]) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    for name, part in named.items():
        if part in splits:
            raise UserError(
                f"{home}: {splits[part].name}/ and {name}/ both mean the {part} split; join them, "
                "or move one away"
            )
        splits[part] = home / name
    others = [name for name in names if name not in named]
    if "train" in splits or (splits.keys() >= HELD_OUT and not others):
        return splits
    if others:
        raise UserError(
            f"{home}: {_slashed(list(named))} beside {_slashed(others)}, which name no split; "
            f"{EXPECTED}"
        )
    raise UserError(
        f"{home}: {_slashed(list(named))} but no train/; {EXPECTED}. Without anything to train on, "
        "both val/ and test/ are needed"
    )


def _slashed(names: Sequence[str]) -> str:
    listed = ", ".join(f"{name}/" for name in names[:5])
    return listed + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _inner(folder: Path, classes: Sequence[str]) -> Path:
    """The folder that holds the class folders: the only one inside, if that is no class itself."""
    names = subfolders(folder)
    alone = len(names) == 1 and match_classes(classes, names) == [None]
    return folder / names[0] if alone and subfolders(folder / names[0]) else folder


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; with links to folders, but for circles."""
    return [
        entry.name
        for entry in _entries(folder)
        if _is_folder(entry) and not _is_circle(entry, folder)
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or links to one; asks the disk about links alone."""
    if entry.is_symlink():
        return os.path.isdir(entry.path)
    return entry.is_dir()


def _is_circle(entry: os.DirEntry[str], *inside: Path) -> bool:
    """Whether an entry links to one of some folders, or to a folder above it."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return any(Path(os.path.realpath(folder)).is_relative_to(target) for folder in inside)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if e.name[0] != "." and e.name != "__MACOSX"]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    return sorted(visible, key=lambda entry: entry.name)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower() or "(none)"


def _check_classes(folder: Path, classes: Sequence[str], first: str) -> None:
    """Refuses a class folder that the first split, which names the classes, lacks."""
    names = subfolders(folder)
    unknown = [
        n for n, label in zip(names, match_classes(classes, names), strict=True) if label is None
    ]
    if not unknown:
        return
    if first == "train":
        raise UserError(f"{folder}: class {unknown[0]!r} is not in the training folder")
    raise UserError(
        f"{folder}: class {unknown[0]!r} is not in the validation folder, whose folders are the "
        "classes where there is no train/; an empty folder of that name will do"
    )


def _list_images(
    folder: Path,
    classes: Sequence[str],
    root: Path,
    suffixes: frozenset[str],
    left_out: LeftOut,
    may_be_empty: bool,
) -> Listing:
    names = subfolders(folder)
    labels = match_classes(classes, names)
    own_left_out = LeftOut()
    by_label: list[list[Path]] = [[] for _ in classes]
    for name, label in zip(names, labels, strict=True):
        assert label is not None
        files = _walk(folder / name, root, own_left_out)
        for path in files:
            suffix = _suffix(path.name)
            if suffix in suffixes:
                by_label[label].append(path)
            else:
                own_left_out.suffixes[suffix] += 1
    left_out.suffixes += own_left_out.suffixes
    left_out.circles += own_left_out.circles
    paths = [path for some in by_label for path in sorted(some)]
    if not paths and not (may_be_empty and not own_left_out.suffixes):
        common = ".jpg, .png or another suffix that Pillow opens"
        notes = "".join(f"; {note}" for note in own_left_out.notes())
        raise UserError(f"{folder}: no images ({common}) in any class folder{notes}")
    labels = [label for label, some in enumerate(by_label) for _ in some]
    return Listing(paths, np.array(labels, dtype=np.int64))


def _walk(folder: Path, root: Path, left_out: LeftOut) -> Iterator[Path]:
    """All files below a folder; links are followed, each folder is entered once.

    Folders come before links to folders, so that a path leads through links only where it must. A
    link to a folder above itself, or above the data, would bring other classes' images in.
    """
    pending, entered = deque([folder]), set[str]()
    while pending:
        here = pending.popleft()
        real = os.path.realpath(here)
        if real in entered:
            continue
        entered.add(real)
        for entry in _entries(here):
            path = Path(entry.path)
            if _is_folder(entry):
                if _is_circle(entry, here, root):
                    left_out.circles += 1
                elif entry.is_symlink():
                    pending.append(path)
                else:
                    pending.appendleft(path)
            elif entry.is_file(follow_symlinks=False) or _may_be_file(path):
                yield path
            else:  # a pipe would hold its reader up for ever
                left_out.suffixes["(no regular file)"] += 1


def _may_be_file(path: Path) -> bool:
    """Whether a path leads to a file, or nowhere: a broken link is named as unreadable later."""
    return os.path.isfile(path) or not os.path.exists(path)
