"""Processes of our own that are started, and what Linux tells of others; elsewhere nothing is."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2): the signal that a process gets when its parent ends."""


class ProcessStatus(NamedTuple):
    """Some of /proc/PID/stat.

    Attributes:
        state: One letter: `Z` is dead and not yet reaped, `T` and `t` are stopped.
        parent: The number of the process that started it.
        start: When it started, in the kernel's ticks since the machine did.
    """

    state: str
    parent: int
    start: str


def process_status(pid: int) -> ProcessStatus | None:
    """Reads what the kernel tells of a process; None if there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            about = file.read().rsplit(b")", 1)[1].decode().split()
    except OSError:
        return None
    return ProcessStatus(about[0], int(about[1]), about[19])


def is_stopped(pid: int) -> bool:
    """Whether a process stands still until a signal has it go on (SIGSTOP, Ctrl-Z)."""
    status = process_status(pid)
    return status is not None and status.state in "Tt"


def descendants(ancestor: int) -> list[int]:
    """Living processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        status = process_status(int(name)) if name.isdigit() else None
        if status is not None and status.state not in "ZX":
            children.setdefault(status.parent, []).append(int(name))
    processes, left = list[int](), [ancestor]
    while left:
        below = children.get(left.pop(), [])
        processes += below
        left += below
    return processes


def start_module(
    module: str,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[str]:
    """Starts a module of this package: in a session of its own, for Ctrl-C is this process's.

    Args:
        module: Its name, as `python -m` takes it. It reads standard input, and writes lines.
        folder: Where it works; by default where this process does.
        environment: Variables beside those of this process.
        stderr: As for `Popen`.
    """
    home, paths = Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")
    if home.name not in ("site-packages", "dist-packages"):  # else it is found anyway
        paths = os.pathsep.join(filter(None, (str(home), paths)))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=folder,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
    )


def die_with_parent() -> None:
    """Has the kernel end this process with its parent, if it is stopped then, too. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_session(process: subprocess.Popen[str]) -> None:
    """Kills a process that `start_module` started, with those that it started, and waits."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cause_of(status: int) -> str:
    """The status with which a process ended, in words."""
    return f"by signal {-status}" if status < 0 else f"with status {status}"
