"""Folders by default, and files that are either old or new, never half."""

from __future__ import annotations

import os
from pathlib import Path

from nasdistill.common.errors import UserError

STUDIES = Path("studies")
REPORTS = Path("reports")


def check_utf8(where: str, text: str) -> None:
    """Checks that a text, such as a path, can be written to files and shown.

    Args:
        where: Names its place in the message.
        text: One that came from the file system or the command line may hold surrogates.

    Raises:
        UserError: If it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {ascii(text)} is not UTF-8; rename it") from None


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file beside its place and moves it there: a kill or a full disk spoils nothing.

    Args:
        path: The file; one that exists is replaced.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: If there is no room, or no permission; the old file is then as it was, and nothing
            is left beside it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # text that is not UTF-8, Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def write_private(path: Path, text: str) -> None:
    """Writes a file that nobody else may read: a URL may hold a password."""
    content = text.encode()
    with open(path, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(content)


def set_aside(path: Path) -> Path:
    """Gives a damaged file or folder another name beside it, so that its own one is free.

    Args:
        path: The file or folder.

    Returns:
        Its new path: the old one with `.damaged`, and a number from 2 where that is taken.
    """
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    return aside
