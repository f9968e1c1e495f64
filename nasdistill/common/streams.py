"""Standard streams that are closed, or whose reader is gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class OutputLost(Exception):  # noqa: N818 - says what happened
    """Standard output took no more; the message is the system's reason."""


class Output(io.TextIOWrapper):
    """Standard output: what a user asked for, and whose loss must be told."""

    def write(self, text: str) -> int:
        """Writes as a text file does, or raises `OutputLost`."""
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLost(error.strerror) from None

    def flush(self) -> None:
        """Flushes as a text file does, or raises `OutputLost`."""
        try:
            super().flush()
        except OSError as error:
            raise OutputLost(error.strerror) from None


class Messages(io.TextIOWrapper):
    """Standard error: messages and progress, for want of which no work ends."""

    def write(self, text: str) -> int:
        """Writes as a text file does; nowhere once that fails."""
        try:
            return super().write(text)
        except OSError:
            discard_from_now_on(2)
            return len(text)

    def flush(self) -> None:
        """Flushes as a text file does; nowhere once that fails."""
        try:
            super().flush()
        except OSError:
            discard_from_now_on(2)


def prepare_streams() -> None:
    """Opens what is closed of the standard streams, and replaces Python's objects for two of them.

    Otherwise the next file that is opened would take a stream's number, and be written into by all
    who print.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except (
            OSError
        ):  # the lowest free number is taken; of 1 it shows that nothing can be written
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdout = _replaced(sys.stdout, 1, Output)
    sys.stderr = _replaced(sys.stderr, 2, Messages)


def discard_from_now_on(descriptor: int) -> None:
    """Has a stream written into nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _replaced(stream: TextIO | None, descriptor: int, kind: type[io.TextIOWrapper]) -> TextIO:
    if isinstance(stream, io.TextIOWrapper):
        encoding, errors, by_line = stream.encoding, stream.errors, stream.line_buffering
        binary = stream.detach()
    else:
        encoding, errors, by_line = "utf-8", "replace", descriptor == 2
        binary = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - lives as long as the process
    return kind(binary, encoding=encoding, errors=errors, line_buffering=by_line)


@contextlib.contextmanager
def quiet_descriptors() -> Iterator[None]:
    """Drops what libraries that are not Python's say on standard error, for a moment.

    What other threads say meanwhile is dropped with it.
    """
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
