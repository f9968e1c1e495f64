"""What Linux tells of other processes; elsewhere nothing is known."""

from __future__ import annotations

import os
from typing import NamedTuple


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
