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

import optuna
from optuna.trial import FrozenTrial

from nasdistill.common.interruption import before_exit
from nasdistill.common.processes import is_stopped, process_status
from nasdistill.results import keys

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
GIVEN_BACK = "given back"
"""Stands in the lease of a trial whose process lives on, or ended in order."""


class TrialEnded(Exception):  # noqa: N818 - says what happened
    """Another worker has ended the trial."""


@contextmanager
def ended_elsewhere(number: int) -> Iterator[None]:
    """Turns Optuna's error for a trial that is ended already into `TrialEnded`."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        raise TrialEnded(number) from None


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


def lease_in(trial: FrozenTrial) -> dict[str, Any]:
    """The lease that is stored with a trial."""
    lease: dict[str, Any] = trial.user_attrs[keys.LEASE.name]
    return lease


def given_back(lease: Mapping[str, Any]) -> dict[str, Any]:
    """A lease of this process as it gives it back: anyone may take up what it held."""
    return {**lease, "started": GIVEN_BACK, "until": 0}


def abandoned(lease: Mapping[str, Any], worker: str) -> bool:
    """Whether a worker may take up what a lease holds.

    Its own; on this machine that of a dead process, whatever the clock says (a machine that slept
    has only living processes with leases that ended), and one that has ended if its process is
    stopped; from elsewhere one that has ended.
    """
    if lease["worker"] == worker:
        return True
    ended = bool(lease["until"] < time.time())
    if lease["host"] == socket.gethostname():
        dead = _process_start(lease["pid"]) != lease["started"]
        return dead or (ended and is_stopped(lease["pid"]))
    return ended


@contextmanager
def renewing(renew: Callable[[], None], give_back: Callable[[], None]) -> Iterator[None]:
    """Keeps a lease while the body runs.

    Args:
        renew: Called every `RENEW_SECONDS` in the background.
        give_back: Called if a signal ends the process in the meantime.
    """
    done = threading.Event()

    def keep() -> None:
        while not done.wait(RENEW_SECONDS):
            # A storage that is away for a moment must not end the thread.
            with suppress(Exception):
                renew()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        with before_exit(give_back):
            yield
    finally:
        done.set()
        thread.join()


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it is dead. Linux; else the pid."""
    about = process_status(pid)
    if about is not None:
        return None if about.state == "Z" else about.start
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return str(pid)
