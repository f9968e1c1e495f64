"""What a process lacks that its user can give it: memory, a home, a place for temporary files."""

from __future__ import annotations

import errno
import resource

_NO_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "can't start new thread",
    "failed to map segment",
    "bad_alloc",
)
_NO_HOME = "could not determine home directory"
_NO_TEMPORARY_FOLDER = "no usable temporary directory found"


def environment_problem(error: BaseException) -> str | None:
    """Names what a process lacks, if an exception came of that.

    Args:
        error: The exception; those that caused it are looked at, too.

    Returns:
        None where that is not the reason.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        if isinstance(cause, MemoryError) or any(phrase in text for phrase in _NO_MEMORY):
            return f"there is not enough memory{_address_space()}"
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
            return f"a path is too long: {str(cause.filename)[:60]}…"
        if _NO_TEMPORARY_FOLDER in text:
            return f"{str(cause).partition('] ')[2]}; have TMPDIR name a folder that can be written"
        if _NO_HOME in text:
            return "a path begins with '~', and this process has no home: set HOME, or write it out"
        cause = cause.__cause__ or cause.__context__
    return None


def _address_space() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    return f": the address space is limited to {limit / 1e9:.1f} GB (see `ulimit -v`)"
