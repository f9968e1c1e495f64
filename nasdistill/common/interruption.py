"""The end of a process by Ctrl-C, SIGTERM or SIGHUP: at any moment, at once, and in order.

Python's own handler raises an exception wherever the main thread is. Within an import, a destructor
or a callback from C++ that ends in a traceback or an abort, or is lost. Here a thread hears of the
signal and ends the process, whatever the main thread is at. That loses nothing: files and storage
are whole at any moment, because a process may be killed at any moment, too.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from nasdistill.common.processes import descendants

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0
"""Time that the actions before an exit may take."""
_ACTIONS_ENDED = 0
"""Stands in the pipe, among the numbers of signals, for the end of the actions."""

_actions: list[Callable[[], object]] = []
_exit_message: Callable[[], str] = str


def handle_signals(exit_message: Callable[[], str] = str) -> None:
    """Has the signals of `ENDING` end this process, with status 128 + the signal's number.

    A signal that the process was started to ignore (`nohup`, `&` in a script) stays ignored. A
    second one does not wait for the actions of `before_exit`. Processes that this one started, and
    those that they started, are killed.

    Args:
        exit_message: Gives what is said on stderr; nothing where it is empty.
    """
    set_exit_message(exit_message)
    handled = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in handled:
        signal.signal(number, _left_to_the_thread)
    os.register_at_fork(after_in_child=lambda: _restore_defaults(handled))
    threading.Thread(target=_wait, args=(read_end, write_end, handled), daemon=True).start()


def set_exit_message(exit_message: Callable[[], str]) -> None:
    """Replaces what is said on stderr at the end by a signal."""
    global _exit_message
    _exit_message = exit_message


@contextmanager
def before_exit(action: Callable[[], object]) -> Iterator[None]:
    """Has something done before a signal ends this process, while the body runs.

    Args:
        action: Called in another thread while the main one goes on; those of inner bodies first.
            After a second signal, or `GRACE_SECONDS`, it may be cut off, or not be called.
    """
    _actions.append(action)
    try:
        yield
    finally:
        _actions.remove(action)


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Handles a signal in the main thread, of which the pipe has told already.

    On a busy machine the other thread may be slow: the main one must not begin anything meanwhile.
    Where there are actions, these may need what it holds.
    """
    if not _actions:
        time.sleep(GRACE_SECONDS)


def _restore_defaults(handled: list[signal.Signals]) -> None:
    """Takes the handlers from a forked process: the pipe is its parent's."""
    signal.set_wakeup_fd(-1)
    for number in handled:
        signal.signal(number, signal.SIG_DFL)


def _wait(read_end: int, write_end: int, handled: list[signal.Signals]) -> None:
    """Waits for a signal, and ends the process."""
    while (number := os.read(read_end, 1)[0]) not in handled:
        pass
    threading.Thread(target=_act, args=(write_end,), daemon=True).start()
    cut_off = (_ACTIONS_ENDED, *handled)
    while select.select([read_end], [], [], GRACE_SECONDS)[0]:
        if os.read(read_end, 1)[0] in cut_off:
            break
    _end(number)


def _act(write_end: int) -> None:
    for action in reversed(tuple(_actions)):
        with suppress(Exception):  # the others are still to come, and nobody is there to be told
            action()
    os.write(write_end, bytes([_ACTIONS_ENDED]))


def _end(number: int) -> None:
    """Ends this process and all below it."""
    for _ in range(3):  # one may start another just now
        for process in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
    with suppress(Exception):  # the exit must come
        text = _exit_message()
        shown_cursor = "\x1b[?25h" if os.isatty(2) else ""
        if text:
            os.write(2, f"{shown_cursor}\n{text}\n".encode(errors="replace"))
    os._exit(128 + number)
