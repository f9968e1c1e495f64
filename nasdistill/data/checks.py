"""What a user should know of their data before anything is trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.common.intervals import wilson
from nasdistill.data.raw import Files, Labels, Raw
from nasdistill.data.splits import FLAT, ResidentSplit, Split, StreamingSplit

UNEVEN = 3
"""How many times as many examples the largest class has from which on classes are uneven."""
FEW = 40
"""Examples of a split below which the user is told how little they say."""


def check_contrast(spec: str, raw: Raw, std: Sequence[float], names: Sequence[str] | None) -> None:
    """Refuses training pictures that are all alike.

    Args:
        spec: The user's name of the data.
        raw: The training pictures.
        std: Their deviation by channel.
        names: Of the pictures; None where they have none.

    Raises:
        UserError: If nothing tells them apart.
    """
    flat = all(each == FLAT for each in std)
    if not flat and len(set(_digests(raw))) > 1:
        return
    alike = "have the same value in every pixel" if flat else "are the same picture"
    first = "" if names is None else f", the first is {names[0]}"
    raise UserError(
        f"data {spec!r}: all {len(raw):,} training pictures {alike}{first}: nothing can be learned "
        "from them. Look at one of them as it is read: what only transparency, more than 8 bits or "
        "floating point show may be lost; if so, convert the pictures to 8-bit grey or RGB"
    )


def notes_of(
    parts: Mapping[str, tuple[Raw, Labels]],
    classes: Sequence[str],
    std: Sequence[float],
    names: Sequence[str] | None,
) -> list[str]:
    """Collects what makes figures of these data say less, or something else, than they seem to.

    Args:
        parts: Pictures and labels of `train`, `score`, `audit` and `test`.
        classes: Names by label.
        std: Deviation of the training pictures by channel.
        names: Of the training pictures; None where row numbers are their names.
    """
    labels = {part: labels for part, (_, labels) in parts.items()}
    return [
        *(_uneven(labels, classes) if len(labels["train"]) else ()),
        *_without_examples(labels, classes),
        *_repeated({part: _digests(raw) for part, (raw, _) in parts.items()}, names),
        *_few(labels),
        *(_without_contrast(parts["train"][0], std, names) if len(labels["train"]) else ()),
    ]


def _uneven(labels: Mapping[str, Labels], classes: Sequence[str]) -> list[str]:
    counts, scored, tested = (
        np.bincount(labels[part], minlength=len(classes)) for part in ("train", "score", "test")
    )
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < UNEVEN * counts[least]:
        return []
    return [
        f"classes are uneven: of {counts.sum():,} training examples {classes[most]!r} has "
        f"{counts[most]:,} ({counts[most] / counts.sum():.1%}), {classes[least]!r} "
        f"{counts[least]:,} ({counts[least] / counts.sum():.1%}; {scored[least]} to score by). "
        f"Always answering {classes[most]!r} is right on {tested[most] / tested.sum():.1%} of the "
        "test split, so look at balanced accuracy. --score balanced-accuracy makes it the score, "
        "--sampling balanced shows all classes equally often"
    ]


def _without_examples(labels: Mapping[str, Labels], classes: Sequence[str]) -> list[str]:
    places = {"score": "score half of validation", "audit": "audit half of validation"}
    notes = []
    for part in ("score", "audit", "test"):
        counts = np.bincount(labels[part], minlength=len(classes))
        absent = [repr(name) for name, n in zip(classes, counts, strict=True) if n == 0]
        if absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(
                f"the {places.get(part, 'test split')} has no examples of "
                f"{', '.join(absent[:5])}{more}: its figures say nothing of them"
            )
    return notes


def _repeated(digests: Mapping[str, list[bytes]], names: Sequence[str] | None) -> list[str]:
    """Pictures of validation and test that are in the training split, too; test in validation."""
    train = {digest: row for row, digest in reversed(list(enumerate(digests["train"])))}
    validation = [*digests["score"], *digests["audit"]]
    notes = []
    for part, pictures in (("validation", validation), ("test", digests["test"])):
        shared = [train[digest] for digest in pictures if digest in train]
        if shared:
            name = str(shared[0]) if names is None else names[shared[0]]
            notes.append(
                f"{len(shared):,} of {len(pictures):,} {part} pictures are in the training split, "
                f"too (the first is {name} there): on them a model is right by heart. Remove them "
                "from one of the two"
            )
    held = set(validation)
    both = sum(digest in held for digest in digests["test"])
    if both:
        notes.append(
            f"{both:,} of {len(digests['test']):,} test pictures are in the validation split, too: "
            "it chooses among students, so that the test is not of unseen pictures alone"
        )
    return notes


def _few(labels: Mapping[str, Labels]) -> list[str]:
    score, audit, test = (len(labels[part]) for part in ("score", "audit", "test"))
    least = min(score, audit, test)
    if least >= FEW:
        return []
    low, high = wilson(round(0.9 * least), least)
    learned = f"{len(labels['train']):,}" if len(labels["train"]) else "none"
    return [
        f"few pictures: {learned} to learn from, {score} to score students by, "
        f"{audit} to choose the recommended final by, {test} to test on. {round(0.9 * least)} "
        f"right of {least} has a 95 % interval from {low:.0%} to {high:.0%}: students within it "
        "are not told apart"
    ]


def _without_contrast(raw: Raw, std: Sequence[float], names: Sequence[str] | None) -> list[str]:
    notes = [
        f"channel {number} of {len(std)} has one value in all training pictures: it says nothing, "
        "and is not scaled"
        for number, each in enumerate(std, start=1)
        if each == FLAT
    ]
    if isinstance(raw, np.ndarray):
        pixels = raw.reshape(*raw.shape[:2], -1)
        blank = np.flatnonzero((pixels.max(axis=2) == pixels.min(axis=2)).all(axis=1))
        if len(blank):
            first = str(blank[0]) if names is None else names[int(blank[0])]
            notes.append(
                f"{len(blank):,} of {len(raw):,} training pictures are of one colour throughout "
                f"(the first is {first})"
            )
    return notes


def shared_pictures(examples: Split, others: Split) -> int:
    """The number of pictures that are among others, too; 0 where one of both is streamed."""
    digests = []
    for split in (examples, others):
        if isinstance(split, StreamingSplit):
            digests.append(_digests(split.files))
        else:
            assert isinstance(split, ResidentSplit)
            digests.append(_digests(split.images.cpu().numpy()))
    known = set(digests[1])
    return sum(digest in known for digest in digests[0])


def _digests(raw: Raw) -> list[bytes]:
    """Hashes of the pictures: of their files, or of their pixels."""
    if isinstance(raw, Files):
        return list(raw.digests)
    images: NDArray[np.uint8] = np.ascontiguousarray(raw)
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
