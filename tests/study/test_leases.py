"""Leases of real processes: at work, stopped, dead."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

from nasdistill.common.processes import is_stopped, process_status
from nasdistill.study.leases import abandoned, given_back, lease_of


def lease_held_by(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """A lease of another process, which ends in so many seconds."""
    status = process_status(process.pid)
    assert status is not None
    lease = lease_of("another", 0)
    return {
        **lease,
        "pid": process.pid,
        "started": status.start,
        "until": time.time() + seconds,
    }


def test_a_stopped_process_keeps_what_it_holds_for_the_time_of_its_lease() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        ended, valid = lease_held_by(process, -1), lease_held_by(process, 60)
        assert not abandoned(ended, "me"), "a machine that slept has such leases"
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 10
        while not is_stopped(process.pid):
            assert time.monotonic() < until
        assert abandoned(ended, "me") and not abandoned(valid, "me")
    finally:
        process.kill()
        process.wait()
    assert abandoned(valid, "me"), "it is dead"


def test_what_is_given_back_is_free_while_its_process_lives() -> None:
    own = lease_of("one", 0)
    assert not abandoned(own, "another") and abandoned(own, "one")
    assert abandoned(given_back(own), "another")
