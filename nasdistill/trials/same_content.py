"""Data and teachers held against those that a study was made with, wherever they lie now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasdistill.common import formats
from nasdistill.common.errors import UserError
from nasdistill.data import Dataset
from nasdistill.teachers import Teacher

SPLITS = ("train", "score", "audit", "test")


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """A dataset in JSON values, as a study stores them."""
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "input": [dataset.input.channels, *dataset.input.size],
        "examples": {split: len(getattr(dataset, split)) for split in SPLITS},
        "fingerprint": dataset.fingerprint,
        "attribution": dataset.attribution,
        "notes": list(dataset.notes),
    }


def check_same_data(study: str, stored: Mapping[str, Any], dataset: Dataset) -> None:
    """Holds data against those that a study was made with; their content decides.

    Args:
        study: The study's name.
        stored: What `describe_data` gave when it was made.
        dataset: The data now.

    Raises:
        UserError: If they are others; the message says what has changed.
    """
    if stored.get("fingerprint") == dataset.fingerprint:
        return
    now = describe_data(dataset)
    changes = _changed_names("classes", stored.get("classes") or (), now["classes"])
    if stored.get("input") != now["input"]:
        changes.append(f"images of {_shape(now['input'])}, were {_shape(stored.get('input'))}")
    before = stored.get("examples") or {}
    for split, count in now["examples"].items():
        if before.get(split) != count:
            changes.append(
                f"{split}: {formats.counted(count, 'example')}, were {before.get(split, 0):,}"
            )
    same = "as many examples of the same classes, but other pixels, labels or file names"
    raise UserError(
        f"study {study!r}: the data {dataset.name!r} are not those it was made with: "
        + ("; ".join(changes) or same)
    )


def check_same_teacher(study: str, card: Mapping[str, Any], teacher: Teacher) -> None:
    """Holds a teacher against the one that a study was made with; its weights decide.

    Args:
        study: The study's name.
        card: The teacher's when the study was made.
        teacher: The teacher now.

    Raises:
        UserError: If it is another; the message says what has changed.
    """
    if card.get("weights_hash") == teacher.weights_hash:
        return
    start = f"study {study!r}: the teacher {teacher.name!r}"
    if not teacher.runs:
        raise UserError(f"{start} holds other recorded answers than the one it was made with")
    params = sum(parameter.numel() for parameter in teacher.module.parameters())
    changes: list[str] = []
    if card.get("params") != params:
        changes.append(f"parameters: {params:,}, were {card.get('params') or 0:,}")
    if card.get("input") != teacher.card.get("input"):
        now_input, old_input = _shape(teacher.card.get("input")), _shape(card.get("input"))
        changes.append(f"images of {now_input}, were {old_input}")
    names = card.get("class_names") or (), teacher.card.get("class_names") or ()
    changes += _changed_names("classes", *names)
    same = "the same shape, but other values"
    raise UserError(
        f"{start} has other weights than the one it was made with: {'; '.join(changes) or same}"
    )


def _changed_names(what: str, before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The difference of two lists of names in words; empty if they are equal."""
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    parts = [f"{verb} {_few(names)}" for verb, names in (("without", gone), ("with", new)) if names]
    if not parts and list(before) != list(now):
        parts = ["in another order"]
    return [f"{what} {' and '.join(parts)}"] if parts else []


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _shape(sides: Sequence[int] | None) -> str:
    return "x".join(map(str, sides)) if sides else "unknown shape"
