"""The exception whose message is meant for the person at the keyboard, and what disks say."""

from __future__ import annotations

import errno

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_FULL = ("no space left on device", "database or disk is full", "disk quota exceeded")


class UserError(Exception):
    """Something the user gave is wrong; the message says what, where, and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """


def disk_problem(error: BaseException) -> str | None:
    """What is wrong with the disk, if that is what an exception says; SQLite says it its own way.

    Args:
        error: The exception; those that caused it are looked at, too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _REFUSED:
            return f"{seen.strerror}{f': {seen.filename}' if seen.filename else ''}"
        text = str(seen).lower()
        for phrase in _FULL:
            if phrase in text:
                return phrase
        seen = seen.__cause__ or seen.__context__
    return None
