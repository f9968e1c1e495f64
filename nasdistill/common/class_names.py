"""Names of classes: which can be used, and which mean the same class."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from nasdistill.common.errors import UserError

_FORBIDDEN = r'/\\:*?"<>|\u2044\u2215'
"""What file systems cannot hold in a name, and the slashes that take its place."""


def check_class_names(where: str, names: Sequence[str]) -> None:
    """Checks that class names can be printed and written to files.

    Args:
        where: Names their place in the message.
        names: By label.

    Raises:
        UserError: If one holds a control character or is not UTF-8 (such a file name comes to
            Python with surrogates).
    """
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{where}: the class name {name!r} is no text")
        kinds = {unicodedata.category(character) for character in name}
        faults = {"Cs": "is not UTF-8", "Cc": "holds a control character"}
        faults |= dict.fromkeys(("Zl", "Zp"), "holds a line break")
        fault = next((text for kind, text in faults.items() if kind in kinds), None)
        if fault is not None:
            raise UserError(f"{where}: the class name {ascii(name)} {fault}; rename the class")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _spaced(name: str) -> str:
    """Separators, and what file systems cannot hold, as spaces."""
    compatible = unicodedata.normalize("NFKC", name)
    return re.sub(rf"[\s_\-{_FORBIDDEN}]+", " ", compatible).strip(" .")


def _dropped(name: str) -> str:
    """What file systems cannot hold left out."""
    return _spaced(re.sub(f"[{_FORBIDDEN}]", "", unicodedata.normalize("NFKC", name)))


_FORMS: tuple[Callable[[str], str], ...] = (
    str,
    _composed,
    _spaced,
    lambda name: _spaced(name).casefold(),
    lambda name: _dropped(name).casefold(),
)
"""Forms in which names are compared, from exact to loose."""


def match_classes(names: Sequence[str], others: Sequence[str]) -> list[int | None]:
    """Finds the same classes under two lists of names.

    Equal names are the same class; of the rest, those that are equal but for Unicode's composition,
    for what file systems cannot hold (`T-shirt/top`, `T-shirt_top`), or for case, where that leaves
    no choice.

    Args:
        names: Each of another class.
        others: Each of another class.

    Returns:
        For each of `others` its index in `names`; None where there is no such class.
    """
    if list(names) == list(others):
        return list(range(len(names)))
    matches: dict[int, int] = {}
    for form in _FORMS:
        free = [i for i in range(len(names)) if i not in matches.values()]
        ours, theirs = (
            Counter(form(name) for name in some)
            for some in (
                [names[i] for i in free],
                [name for i, name in enumerate(others) if i not in matches],
            )
        )
        index = {form(names[i]): i for i in free if ours[form(names[i])] == 1}
        for other, name in enumerate(others):
            key = form(name)
            if other not in matches and theirs[key] == 1 and key in index:
                matches[other] = index[key]
    return [matches.get(other) for other in range(len(others))]


def differences(names: Sequence[str], others: Sequence[str]) -> tuple[list[str], list[str]]:
    """The classes that only one of two lists has: of `names`, and of `others`."""
    matches = match_classes(names, others)
    ours = [name for i, name in enumerate(names) if i not in matches]
    theirs = [name for name, i in zip(others, matches, strict=True) if i is None]
    return ours, theirs


def few(names: Sequence[str], most: int = 5) -> str:
    """Some names, quoted, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def are_numbers(names: Sequence[str]) -> bool:
    """Whether names only number the classes: 0, 1, 2 …, or WordNet's ids, ascending.

    Data without names get numbers; ImageNet's folders are named by ids, in the order of its labels.
    """
    if list(names) == [str(i) for i in range(len(names))]:
        return True
    ids = all(re.fullmatch(r"n\d{8}", name) for name in names)
    return ids and list(names) == sorted(set(names))
