"""Leases: who works on what, and whether that process is still there."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0


def lease_of(worker: str, generation: int) -> dict[str, Any]:
    """A fresh lease of this process.

    Args:
        worker: Its name.
        generation: How often the trial was taken up from another.
    """
    return {
        "worker": worker,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "generation": generation,
        "until": time.time() + LEASE_SECONDS,
    }


def abandoned(lease: Mapping[str, Any], worker: str) -> bool:
    """Whether a worker may take up what a lease holds.

    Its own; on this machine that of a dead process, whatever the clock says (a machine that slept
    has only living processes with leases that ended); from elsewhere one that has ended.
    """
    if lease["worker"] == worker:
        return True
    if lease["host"] == socket.gethostname():
        return bool(_process_start(lease["pid"]) != lease["started"])
    return bool(lease["until"] < time.time())


@contextmanager
def renewing(renew: Callable[[], None]) -> Iterator[None]:
    """Calls a function every `RENEW_SECONDS` in the background."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(RENEW_SECONDS):
            # A storage that is away for a moment must not end the thread.
            with suppress(Exception):
                renew()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it is dead. Linux; else the pid."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if about[0] == "Z" else about[19]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return str(pid)
