"""The loading of a source of examples, and its division into the splits of a study."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, silent
from nasdistill.data.checks import check_contrast, notes_of
from nasdistill.data.dataset import Dataset, Origins, Parts, fingerprint_of
from nasdistill.data.pictures import Preparation
from nasdistill.data.raw import SMALL, Files, Request, Source
from nasdistill.data.sources import read_source
from nasdistill.data.splits import ResidentSplit, Split, StreamingSplit, stratified
from nasdistill.data.views import Views

RESIDENT_LIMIT = 4 << 30
VALIDATION_SHARE = 1 / 6
TEST_SHARE = 1 / 6
ENOUGH = 100
"""Examples up to which a split that is cut off gets more than its share: up to a quarter of them
all for the test, to a third of the rest for validation. Fewer say too little of a student."""


def load_data(
    spec: str,
    *,
    device: torch.device,
    seed: int = 0,
    image_size: int | None = None,
    channels: int | None = None,
    root: str | None = None,
    skip_unreadable: bool = False,
    resident_limit: int = RESIDENT_LIMIT,
    preparation: Preparation | None = None,
    emit: Emit = silent,
    may_lack_training: bool = False,
) -> Dataset:
    """Loads a source and splits it.

    Args:
        spec: `fashion-mnist-mini`, `fashion-mnist`, `folder:PATH`, `torchvision:NAME`, `npz:PATH`,
            or a name registered by the user's own file.
        device: The device of examples and labels.
        seed: Of the splits and the views.
        image_size: Side in pixels at which students see an image; by default its own size, or 224
            for folders of large images.
        channels: 1 or 3, to which images are converted; by default they stay as they are.
        root: Folder of a torchvision dataset.
        skip_unreadable: Whether unreadable images are left out instead of being an error.
        resident_limit: Bytes up to which images are kept on the device; of more, files are streamed
            and arrays stay in the host's memory.
        preparation: That of other data, to be repeated here in the place of `image_size` and
            `channels`.
        emit: Told how far the reading is, where it takes a while.
        may_lack_training: Whether data without training images are allowed; their `train` is empty.

    Returns:
        The splits.

    Raises:
        UserError: If the data cannot be used; the message says why.
    """
    source = read_source(
        Request(
            spec,
            root=root,
            image_size=image_size,
            channels=channels,
            skip_unreadable=skip_unreadable,
            resident_limit=resident_limit,
            preparation=preparation,
            emit=emit,
        )
    )
    if not len(source.train) and not may_lack_training:
        raise UserError(no_training(spec))
    parts, rows = _divide(source, seed, spec)
    train = parts["train"][0]
    stored = train.preparation.stored if isinstance(train, Files) else train.shape[2:]
    views = Views("crop" if max(stored) > SMALL else "shift", seed, source.flip)
    splits = _splits_of(parts, views, device, resident_limit)
    split = splits["train"] if len(train) else splits["score"]
    mean, std = split.moments(emit)
    names = None if source.train_names is None else [source.train_names[row] for row in rows]
    if len(train):
        check_contrast(spec, train, std, names)
    notes = (*source.notes, *notes_of(parts, source.classes, std, names))
    return Dataset(
        name=spec,
        classes=source.classes,
        input=source.shape,
        train=splits["train"],
        score=splits["score"],
        audit=splits["audit"],
        test=splits["test"],
        mean=mean,
        std=std,
        views=views,
        fingerprint=fingerprint_of(parts, source.classes, views),
        attribution=source.attribution,
        origins=Origins(rows, source.train_names),
        bits=source.bits,
        notes=notes,
        has_own_splits=source.validation is not None or source.test is not None,
    )


def no_training(spec: str) -> str:
    """The message that some data have no training images, and what can be done."""
    return (
        f"data {spec!r}: no train split. Put images into train/<class>/, or search with "
        "--synthetic IMAGES, such as --synthetic 2560: students then learn from images made from "
        "the teacher alone"
    )


def _splits_of(
    parts: Parts, views: Views, device: torch.device, resident_limit: int
) -> dict[str, Split]:
    total = sum(raw.nbytes for raw, _ in parts.values() if isinstance(raw, np.ndarray))
    home = device if total <= resident_limit else torch.device("cpu")
    splits: dict[str, Split] = {}
    for name, (raw, labels) in parts.items():
        if isinstance(raw, np.ndarray):
            splits[name] = ResidentSplit(torch.from_numpy(raw), labels, views, device, home)
        else:
            splits[name] = StreamingSplit(raw, labels, views, device)
    return splits


class _Division(NamedTuple):
    """A source's examples by split.

    Attributes:
        parts: Images and labels by the name of their split.
        rows: int64, row numbers of the training split among the source's training examples.
    """

    parts: Parts
    rows: NDArray[np.int64]


def _divide(source: Source, seed: int, spec: str) -> _Division:
    """Cuts validation (and test, where there is none) off the training examples."""
    train, train_labels = source.train, source.train_labels
    test, test_labels = source.test, source.test_labels
    validation, validation_labels = source.validation, source.validation_labels
    rows = np.arange(len(train_labels), dtype=np.int64)
    _check_counts(source, spec)
    enough = ENOUGH // len(source.classes)
    if test is None or test_labels is None:
        rest, cut = stratified(train_labels, TEST_SHARE, seed, spec, enough=enough)
        test, test_labels = train[cut], train_labels[cut]
        train, train_labels, rows = train[rest], train_labels[rest], rows[rest]
    if validation is None or validation_labels is None:
        rest, cut = stratified(
            train_labels, VALIDATION_SHARE, seed + 1, spec, least=2, enough=enough, part=3
        )
        validation, validation_labels = train[cut], train_labels[cut]
        train, train_labels, rows = train[rest], train_labels[rest], rows[rest]
    # The only example of a class goes to the score half.
    score, audit = stratified(validation_labels, 0.5, seed + 2, spec, least=0)
    parts: Parts = {
        "train": (train, train_labels),
        "score": (validation[score], validation_labels[score]),
        "audit": (validation[audit], validation_labels[audit]),
        "test": (test, test_labels),
    }
    return _Division(parts, rows)


def _check_counts(source: Source, spec: str) -> None:
    """Checks that each class has an example for each split that is cut off, and one to train on.

    Where there are no training images at all, nothing is cut off, and none is needed.

    Raises:
        UserError: With the classes that have too few.
    """
    cut = {"validation": 2 * (source.validation is None), "test": int(source.test is None)}
    needed, labels = {}, {"train": source.train_labels}
    if len(source.train_labels):
        needed["train"] = {"training": 1} | {part: n for part, n in cut.items() if n}
    own = source.validation_labels
    if own is not None and np.bincount(own).max() < 2:
        needed["validation"] = {"score half": 1, "audit half": 1}
        labels["validation"] = own
    for part, uses in needed.items():
        counts = np.bincount(labels[part], minlength=len(source.classes))
        least = sum(uses.values())
        # A class may be absent from a validation split of the user's own.
        short = [i for i, n in enumerate(counts) if n < least and (n or part == "train")]
        if short:
            listed = ", ".join(f"{source.classes[i]!r} has {counts[i]}" for i in short[:5])
            more = f" and {len(short) - 5} more classes" if len(short) > 5 else ""
            use = ", ".join(f"{n} {name}" for name, n in uses.items())
            notes = "".join(f". {note}" for note in source.notes)
            raise UserError(
                f"data {spec!r}: too few {part} examples: {listed}{more}; each class needs at "
                f"least {least} ({use}){notes}"
            )
