"""Small types and text helpers that several packages share and that have no package of their own.

Imports neither torch nor Optuna.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Cost = Literal["latency", "params", "macs", "bytes"]
COSTS: tuple[Cost, ...] = ("latency", "params", "macs", "bytes")
ScoreName = Literal["accuracy", "balanced-accuracy"]
Sampling = Literal["uniform", "balanced"]
Begin = Literal["fresh", "teacher", "pretrained"]
"""Where students get their first weights: drawn at random, from the teacher that they are cut from,
or their own pretrained ones."""
FormatName = Literal[
    "onnx",
    "onnx-int8",
    "onnx-fp16",
    "torch-export",
    "openvino",
    "executorch",
    "litert",
    "onnx-with-preprocessing",
    "onnx-int8-with-preprocessing",
    "onnx-fp16-with-preprocessing",
]
"""Formats of a final's files; see `deployment.formats`."""
Importance = Literal["magnitude", "taylor", "activation"]
"""How channels are judged, of which the best are kept; see `models.importance`."""


@dataclass(frozen=True)
class Input:
    """The shape of one image as a model takes it.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Rows, in pixels.
        width: Columns, in pixels.
    """

    channels: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return (self.height, self.width)


class Closed(BaseModel):
    """Base of every configuration object: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


_COUNT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?)\s*(i?[bB])?\s*$")
_TIME = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|µs|ms|s|m|min|h)?\s*$")
_COUNT_FACTOR = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_count(value: str | int | float) -> int:
    """Reads a number of parameters, MACs, bytes or images: `250k`, `1.5M`, `2G`, `800000`.

    Args:
        value: The text or number. `k`, `M` and `G` are powers of 1000; a trailing `B` is allowed.

    Raises:
        ValueError: If the text is not such a number or the number is not positive.
    """
    match = _COUNT.match(str(value))
    if match is None or match.group(3) in ("ib", "iB"):
        raise ValueError(f"{value!r} is not a count; write e.g. 250k, 1.5M or 800000")
    number = round(float(match.group(1)) * _COUNT_FACTOR[match.group(2).lower()])
    if number <= 0:
        raise ValueError(f"{value!r} must be greater than zero")
    return number


def parse_duration(value: str | int | float, unit: Literal["s", "ms"]) -> float:
    """Reads a duration such as `5ms`, `90s`, `10m` or `1.5h`.

    Args:
        value: The text or number; a bare number is in `unit`.
        unit: The unit of the result, and of a bare number.

    Returns:
        The duration in `unit`.

    Raises:
        ValueError: If the text is not a duration or the duration is not positive.
    """
    match = _TIME.match(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write e.g. 5ms, 90s, 10m or 1.5h")
    seconds = float(match.group(1)) * _SECONDS[match.group(2) or unit]
    if seconds <= 0:
        raise ValueError(f"{value!r} must be greater than zero")
    return seconds / _SECONDS[unit]


_TOKEN = re.compile(r"""(?:'[^']*'|"[^"]*"|\S)+""")
"""A word as a shell reads it: quotes hold blanks."""
_AUTHORITY = re.compile(r"(//[^:/]*:).*@", re.DOTALL)
_BARE_AUTHORITY = re.compile(r"^(?!journal:)((?:[\w.+-]+:/?)?[^:/@]*:).*@", re.DOTALL)
_FIELD = re.compile(r"((?:password|passwd|passphrase|pwd)\s*=\s*)[^&;,\s'\"]+", re.IGNORECASE)


def without_password(text: str) -> str:
    """Hides the passwords of all URLs in a text, and of a text that is one, malformed or not.

    A password may hold `@`, `/` and blanks that should have been encoded, stand in the query, or
    follow no `//`: rather too much is hidden than too little.
    """
    if re.match(r"[\w.+-]*:?//", text):
        text = _AUTHORITY.sub(r"\1***@", text)
    elif "//" not in text and _TOKEN.fullmatch(text):
        text = _BARE_AUTHORITY.sub(r"\1***@", text)
    else:
        text = _TOKEN.sub(lambda word: _AUTHORITY.sub(r"\1***@", word[0]), text)
    return _FIELD.sub(r"\1***", text)


MOST_NAME_BYTES = 200
"""Of a study's name: a file's may have 255, and some are the study's with something added."""


def is_study_name(name: str) -> bool:
    """Whether a name can be that of a folder below `studies`, and of that folder alone."""
    if not name.isprintable() or name.startswith(".") or "/" in name:
        return False
    return 0 < len(name.encode()) <= MOST_NAME_BYTES


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
