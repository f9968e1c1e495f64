"""The exception whose message is meant for the user, and the recognition of full disks."""

from __future__ import annotations

import errno

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_FULL = ("no space left on device", "database or disk is full", "disk quota exceeded")


class UserError(Exception):
    """An error in the user's input; the message says what is wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """


class DamagedFileError(UserError):
    """A file that cannot be read as what it should be.

    Args:
        source: The file.
        reason: What is wrong with it, and what is allowed.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


def disk_problem(error: BaseException) -> str | None:
    """Names what is wrong with the disk, if an exception came of that; SQLite has its own words.

    Args:
        error: The exception; those that caused it are looked at, too.

    Returns:
        None where the disk is not the reason.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _REFUSED:
            place = cause.filename2 or cause.filename  # of a copy: where it goes
            return f"{cause.strerror}{f': {place}' if place else ''}"
        text = str(cause).lower()
        for phrase in _FULL:
            if phrase in text:
                return phrase
        cause = cause.__cause__ or cause.__context__
    return None
