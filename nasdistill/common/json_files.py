"""JSON files, read and checked: whatever is wrong with one is said with its name.

A file may be cut, made by somebody else, or made to do harm. What may be read is therefore bounded
before memory is taken: see the constants. No torch.
"""

from __future__ import annotations

import json
import math
import reprlib
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nasdistill.common.errors import DamagedFileError
from nasdistill.common.files import set_aside

MOST_BYTES = 64 << 20
"""Largest JSON file that is read."""
DEEPEST = 64
"""Most objects and lists within each other."""
MOST_DIGITS = 100
"""Digits of the largest whole number, a minus sign included."""


def read_json(path: Path, form: TypeAdapter[Any] | None = None, *, finite: bool = False) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        form: The form that its content must have; none is checked where it is None.
        finite: Whether `NaN` and `Infinity`, which JSON does not know but Python writes, are
            refused.

    Returns:
        The content as it stands there, in plain values.

    Raises:
        DamagedFileError: Naming the file and what is wrong with it.
    """
    content = parse_json(read_text(path), str(path), finite=finite)
    if form is not None:
        check_form(content, form, str(path))
    return content


def read_or_set_aside(
    path: Path, form: TypeAdapter[Any], warn: Callable[[str], None], lost: str
) -> Any:
    """Reads a JSON file that this command goes on with; a damaged one is set aside.

    Args:
        path: The file.
        form: See `read_json`.
        warn: Told what is wrong with it, its new name, and `lost`.
        lost: What is lost with it, and what happens now.

    Returns:
        The content; None where there is no such file, or it was set aside.
    """
    if not path.exists():
        return None
    try:
        return read_json(path, form)
    except DamagedFileError as error:
        warn(f"{error}; it was put aside as {set_aside(path).name}: {lost}")
        return None


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Reads a text file in UTF-8.

    Args:
        path: The file.
        most_bytes: Its largest size.

    Raises:
        DamagedFileError: If it is missing, no regular file, too large, or no UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedFileError(str(path), "not a file")
        if status.st_size > most_bytes:
            reason = f"{status.st_size:,} bytes; allowed are at most {most_bytes:,}"
            raise DamagedFileError(str(path), reason)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DamagedFileError(str(path), error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise DamagedFileError(str(path), "not a text file in UTF-8") from None


def parse_json(text: str, source: str, *, finite: bool = False) -> Any:
    """Parses JSON within limits; see the constants.

    Args:
        text: The document.
        source: What messages call it.
        finite: See `read_json`.

    Raises:
        DamagedFileError: If it is not JSON, nested too deeply, or has a number that is too long.
    """
    if not text.strip():
        raise DamagedFileError(source, "empty")
    try:
        content = json.loads(text, parse_int=_whole, parse_float=_real)
        _check_nesting(content, finite)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DamagedFileError(
            source, f"not JSON, or cut off ({error.msg}, line {error.lineno})"
        ) from None
    except RecursionError:
        raise DamagedFileError(source, f"nested more than {DEEPEST} deep") from None
    except UnicodeEncodeError:
        raise DamagedFileError(source, "text with half a character (a lone surrogate)") from None
    except ValueError as error:
        raise DamagedFileError(source, str(error)) from None
    return content


def check_form(content: Any, form: TypeAdapter[Any], source: str) -> None:
    """Checks parsed JSON against a form, strictly: a number in quotes is no number.

    Args:
        content: Plain values.
        form: Of a pydantic model or type.
        source: What messages call it.

    Raises:
        DamagedFileError: Naming the first key that is missing or of the wrong kind.
    """
    try:
        form.validate_python(content, strict=True)
    except ValidationError as error:
        raise DamagedFileError(source, reason_of(error)) from None


def reason_of(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in a few words."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"the key {where!r} is missing"
    value = reprlib.repr(first["input"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where + ': ' if where else ''}{message[0].lower()}{message[1:]}, found {value}"


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits; at most {MOST_DIGITS} are read")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _check_nesting(content: Any, finite: bool) -> None:
    """Walks through parsed JSON level by level, so that no depth exhausts the stack.

    Raises:
        ValueError: If it is too deep, or has a number that is not finite where all must be.
    """
    level: Sequence[Any] = [content]
    for _ in range(DEEPEST + 1):
        if finite and any(isinstance(v, float) and not math.isfinite(v) for v in level):
            raise ValueError("a number that is not finite (NaN or Infinity)")
        level = [
            item
            for value in level
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} deep")
