"""Leases of real processes: at work, stopped, dead."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

import pytest

from nasdistill.common.processes import is_stopped, process_status
from nasdistill.study.leases import LEASE_SECONDS, RENEW_SECONDS, Watch, given_back, lease_of


class Clock:
    """A clock of one host, set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def lease_held_by(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """A lease of another process."""
    status = process_status(process.pid)
    assert status is not None
    return {**lease_of("another", 0), "pid": process.pid, "started": status.start}


def elsewhere(now: float, **changed: Any) -> dict[str, Any]:
    """A lease of a worker on another host, by the clock there."""
    lease = {"host": "another host", "until": now + LEASE_SECONDS}
    return {**lease_of("another", 0), **lease, **changed}


def test_a_stopped_process_keeps_what_it_holds_for_the_time_of_its_lease() -> None:
    process, clock = subprocess.Popen(["sleep", "60"]), Clock(1000.0)
    watch = Watch("me", clock)
    try:
        lease = lease_held_by(process)
        assert not watch.abandoned(lease)
        clock.now += LEASE_SECONDS + 1
        assert not watch.abandoned(lease), "a machine that slept has such leases"
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 10
        while not is_stopped(process.pid):
            assert time.monotonic() < until
        assert watch.abandoned(lease) and not Watch("me", clock).abandoned(lease)
    finally:
        process.kill()
        process.wait()
    assert Watch("me", clock).abandoned(lease), "it is dead"


def test_what_is_given_back_is_free_while_its_process_lives() -> None:
    own = lease_of("one", 0)
    assert not Watch("another").abandoned(own) and Watch("one").abandoned(own)
    assert Watch("another").abandoned(given_back(own))
    assert Watch("another").abandoned({**given_back(own), "host": "another host"})


@pytest.mark.parametrize("skew", [-120.0, 0.0, 120.0])
def test_a_living_worker_elsewhere_keeps_its_trial_whatever_its_clock_says(skew: float) -> None:
    clock = Clock(5000.0)
    watch, wall = Watch("me", clock), time.time() + skew
    for minute in range(40):
        assert not watch.abandoned(elsewhere(wall + minute * RENEW_SECONDS)), minute
        clock.now += RENEW_SECONDS


@pytest.mark.parametrize("skew", [-120.0, 0.0, 120.0])
def test_a_dead_worker_elsewhere_loses_its_trial_whatever_its_clock_said(skew: float) -> None:
    clock, lease = Clock(5000.0), elsewhere(time.time() + skew)
    watch = Watch("me", clock)
    assert not watch.abandoned(lease)
    clock.now += LEASE_SECONDS - 1
    assert not watch.abandoned(lease)
    clock.now += 2
    assert watch.abandoned(lease)


def test_a_clock_that_is_set_back_neither_frees_a_trial_nor_keeps_it() -> None:
    clock, wall = Clock(5000.0), time.time()
    watch = Watch("me", clock)
    assert not watch.abandoned(elsewhere(wall))
    clock.now += LEASE_SECONDS - 1
    assert not watch.abandoned(elsewhere(wall - 3600)), "renewed, by a clock set back by an hour"
    clock.now += LEASE_SECONDS - 1
    assert not watch.abandoned(elsewhere(wall - 3600))
    clock.now += 2
    assert watch.abandoned(elsewhere(wall - 3600)), "it is not renewed any more"


def test_after_the_storage_was_away_everybody_has_the_time_of_a_lease() -> None:
    clock, lease = Clock(5000.0), elsewhere(time.time())
    watch = Watch("me", clock)
    assert not watch.abandoned(lease)
    clock.now += 2 * LEASE_SECONDS
    watch.begin_anew()
    assert not watch.abandoned(lease)
    clock.now += LEASE_SECONDS
    assert watch.abandoned(lease)
