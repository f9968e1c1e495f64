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
OF_A_LEASE = ("worker", "host", "pid", "started", "generation", "until")
"""What tells a lease from the same one renewed."""
MOST_SEEN = 1000
"""Leases that are remembered before those of long ago are forgotten."""
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


class Watch:
    """Tells which leases have lapsed, by this process's own clock alone.

    Clocks of hosts differ, and are set back: of a process elsewhere only that counts whether it
    renews what it holds while this one looks on.

    Args:
        worker: This process's name.
        clock: Seconds that never go back, and stand while this machine sleeps.
    """

    def __init__(self, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._seen: dict[tuple[Any, ...], tuple[float, float]] = {}

    def abandoned(self, lease: Mapping[str, Any]) -> bool:
        """Whether this worker may take up what a lease holds.

        Its own; on this machine that of a dead process, whatever the clock says (a machine that
        slept has only living processes with leases that ended), and one that was not renewed for
        the time of a lease if its process is stopped; from elsewhere one that was not renewed for
        that time.
        """
        if lease["worker"] == self._worker or lease["started"] == GIVEN_BACK:
            return True
        lapsed = self._seconds_unchanged(lease) >= LEASE_SECONDS
        if is_of_this_host(lease):
            dead = _process_start(lease["pid"]) != lease["started"]
            return dead or (lapsed and is_stopped(lease["pid"]))
        return lapsed

    def begin_anew(self) -> None:
        """Forgets what was seen: while the storage was away nobody could renew anything."""
        self._seen.clear()

    def _seconds_unchanged(self, lease: Mapping[str, Any]) -> float:
        """How long ago this process saw the lease as it is for the first time."""
        now, key = self._clock(), tuple(lease.get(name) for name in OF_A_LEASE)
        first, _ = self._seen.get(key, (now, now))
        self._seen[key] = first, now
        if len(self._seen) > MOST_SEEN:
            ago = now - 2 * LEASE_SECONDS
            self._seen = {k: seen for k, seen in self._seen.items() if seen[1] >= ago}
        return now - first


def is_of_this_host(lease: Mapping[str, Any]) -> bool:
    """Whether a lease is of a process on this machine."""
    return bool(lease["host"] == socket.gethostname())


def deaths_of(trial: FrozenTrial, worker: str) -> dict[str, int]:
    """How often a trial's process died since its last rung, once a worker has taken it up.

    Args:
        trial: As it was before that.
        worker: The name of who took it up.

    Returns:
        Rungs so far, and the count; 0 where the process lives on, or ended in order.
    """
    attributes, lease = trial.user_attrs, lease_in(trial)
    rungs = len(keys.RUNG.among(attributes))
    if lease["worker"] == worker or lease["started"] == GIVEN_BACK:
        return {"rungs": rungs, "count": 0}
    before = attributes.get(keys.DEATHS.name, {"rungs": rungs, "count": 0})
    return {"rungs": rungs, "count": 1 + (before["count"] if before["rungs"] == rungs else 0)}


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
