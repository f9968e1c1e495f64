"""Which of a teacher's logits stands for which of the data's classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdistill.common.class_names import are_numbers, differences, few, match_classes
from nasdistill.common.errors import UserError

FORMS = (
    "a file or a list with commas: the data's names in the order of the teacher's logits, or "
    "'teacher name = data name' for those that differ"
)


@dataclass(frozen=True)
class Assignment:
    """The place of each of the data's classes among a teacher's logits.

    Attributes:
        order: Index of the logit by label of the data; None where the teacher's order is the
            data's.
        note: What the user should know of it; empty where all is clear.
    """

    order: list[int] | None = None
    note: str = ""


def assign_classes(
    teacher: str,
    names: Sequence[str] | None,
    data: str,
    classes: Sequence[str],
    given: str | None,
) -> Assignment:
    """Finds the logit of each of the data's classes, by name or as the user says.

    Args:
        teacher: The teacher's specification, for messages.
        names: Of its classes, in the order of its logits; None where they are not known.
        data: The data's name.
        classes: Names of the data's classes, as many as there are logits.
        given: A file or a list that says which is which; see `FORMS`.

    Raises:
        UserError: If names differ and nothing is given, or what is given does not fit.
    """
    if given is not None:
        return Assignment(_unless_same(_as_given(given, names, classes)))
    if names is None:
        return Assignment()
    lacking, extra = differences(names, classes)
    if not lacking and not extra:
        labels = match_classes(names, classes)
        return Assignment(_unless_same([logit for logit in labels if logit is not None]))
    if are_numbers(names) or are_numbers(classes):
        whose = "the teacher's" if are_numbers(names) else "the data's"
        pairs = [f"{b!r} is its {a!r}" for a, b in zip(names, classes, strict=True)]
        more = " …" if len(pairs) > 3 else ""
        return Assignment(
            note=f"teacher {teacher}: {whose} classes are only numbered, so their order is taken "
            f"to be the same: {', '.join(pairs[:3])}{more}. If it is not, give --classes"
        )
    example = f"{lacking[0]} = {extra[0]}"
    raise UserError(
        f"--teacher {teacher}: its classes are not those of the data {data!r}: the teacher alone "
        f"has {few(lacking)}, the data alone {few(extra)}. If they are the same under other names, "
        f"say which is which with --classes ({FORMS}), such as --classes {example!r}. If not, take "
        "another teacher, or train one with `nasdistill teacher train`"
    )


def _unless_same(order: list[int]) -> list[int] | None:
    return None if order == list(range(len(order))) else order


def _as_given(given: str, names: Sequence[str] | None, classes: Sequence[str]) -> list[int]:
    """The logit of each class, from `FORMS`."""
    where, entries = _read(given)
    pairs = [
        entry for entry in entries if "=" in entry and match_classes(classes, [entry])[0] is None
    ]
    if pairs:
        if len(pairs) < len(entries):
            plain = next(entry for entry in entries if entry not in pairs)
            raise UserError(
                f"{where}: {pairs[0]!r} says which is which, {plain!r} does not; allowed is {FORMS}"
            )
        return _from_pairs(where, pairs, names, classes)
    labels = match_classes(entries, classes)
    if len(entries) != len(classes) or None in labels:
        unknown, missing = differences(entries, classes)
        parts = [f"{len(entries)} names for {len(classes)} classes"]
        parts += [f"no class of the data: {few(unknown)}"] if unknown else []
        parts += [f"missing: {few(missing)}"] if missing else []
        raise UserError(f"{where}: {'; '.join(parts)}. Allowed is {FORMS}")
    return [logit for logit in labels if logit is not None]


def _read(given: str) -> tuple[str, list[str]]:
    """A name for messages, and the entries of a file or a list."""
    where = f"--classes {given!r}"
    if os.path.isfile(os.path.expanduser(given)):
        try:
            text = Path(given).expanduser().read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise UserError(f"{where}: not a text file in UTF-8") from None
        parts = text.splitlines()
    elif "," in given or "=" in given:
        parts = given.split(",")
    else:
        raise UserError(f"{where}: there is no such file; allowed is {FORMS}")
    return where, [part.strip() for part in parts if part.strip()]


def _from_pairs(
    where: str, pairs: Sequence[str], names: Sequence[str] | None, classes: Sequence[str]
) -> list[int]:
    """The logit of each class, from `teacher name = data name`; other names are the same."""
    if names is None:
        raise UserError(
            f"{where}: the names of the teacher's classes are not known; list the data's names in "
            "the order of its logits"
        )
    logit_of: dict[int, int] = {}
    for pair in pairs:
        left, right = (part.strip() for part in pair.split("=", 1))
        sides = (("teacher", left, names), ("data", right, classes))
        indices = [match_classes(known, [name])[0] for _, name, known in sides]
        for (side, name, known), index in zip(sides, indices, strict=True):
            if index is None:
                raise UserError(
                    f"{where}: {pair!r}: {name!r} is no class of the {side} (there: {few(known)})"
                )
        logit, label = indices
        if label in logit_of or logit in logit_of.values():
            raise UserError(f"{where}: {pair!r}: one of the two is assigned already")
        assert label is not None and logit is not None
        logit_of[label] = logit
    labels = [label for label in range(len(classes)) if label not in logit_of]
    logits = [logit for logit in range(len(names)) if logit not in logit_of.values()]
    own, theirs = [names[logit] for logit in logits], [classes[label] for label in labels]
    lacking, extra = differences(own, theirs)
    if lacking or extra:
        raise UserError(
            f"{where}: which is which of the teacher's {few(lacking)} and the data's {few(extra)} "
            "is not said yet"
        )
    for label, index in zip(labels, match_classes(own, theirs), strict=True):
        assert index is not None
        logit_of[label] = logits[index]
    return [logit_of[label] for label in range(len(classes))]
