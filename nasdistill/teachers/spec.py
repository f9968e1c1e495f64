"""The language of `--teacher`: `kind:name,weights=PATH,size=PIXELS`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nasdistill.common.errors import UserError
from nasdistill.common.types import nearest


@dataclass(frozen=True)
class Spec:
    """A teacher's specification, parsed.

    Attributes:
        text: The part before the options.
        kind: The part before the colon; empty without one.
        name: The part after it, or the whole.
        weights: File of weights.
        size: Pixels along each side.
        flag: The flag that it was given with.
    """

    text: str
    kind: str
    name: str
    weights: Path | None
    size: int | None
    flag: str = "--teacher"


def parse(text: str, weights: str | Path | None, flag: str = "--teacher") -> Spec:
    """Parses `kind:name,weights=PATH,size=PIXELS`.

    Args:
        text: The specification.
        weights: A file named elsewhere; must not contradict the specification.
        flag: The flag that it was given with.

    Raises:
        UserError: If an option is unknown, given twice differently, or the size is no number.
    """
    head, *pairs = re.split(r",(?=\w+=)", text.strip())
    kind, colon, name = head.partition(":")
    if not colon:
        kind, name = "", head
    options: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in ("weights", "size"):
            hint = nearest(key, ("weights", "size"))
            raise UserError(f"{flag} {text}: unknown option {key!r}{hint}; known: weights, size")
        options[key] = value
    size = options.get("size")
    if size is not None and not (size.isdecimal() and int(size) >= 8):
        raise UserError(f"{flag} {text}: size must be at least 8 pixels, but is {size!r}")
    option = options.get("weights")
    if option and weights is not None and Path(option) != Path(weights):
        raise UserError(f"{flag} {text}: other weights are given too: {weights}")
    path = option or weights
    return Spec(head, kind, name, Path(path) if path else None, int(size) if size else None, flag)
