"""The lock that keeps measurements quiet, held by real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.locks import alone, alone_or_not, hold, is_held, pausing, quiet

CHILD = """\
import sys
from pathlib import Path
from nasdistill.common.locks import alone, busy, quiet

print("ready", flush=True)
with {kind}(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def begin(kind: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD.format(kind=kind)), tmp_path / "lock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    return begin


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def waits(process: subprocess.Popen[str]) -> bool:
    """Whether a process stays silent: it never entered, however long it is left alone."""
    return not select.select([process.stdout], [], [], 0.3)[0]


def leave(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate("\n", timeout=60)
    assert out.endswith("left\n") and process.returncode == 0


def test_measuring_waits_for_workers_and_keeps_new_ones_out(start: Start) -> None:
    first, second = start("busy"), start("busy")
    assert says(first) == says(second) == "inside"
    measuring = start("quiet")
    assert waits(measuring)
    late = start("busy")
    assert waits(late), "a worker that comes late starved the measurement"
    leave(first)
    assert waits(measuring)
    leave(second)
    assert says(measuring) == "inside" and waits(late)
    leave(measuring)
    assert says(late) == "inside"
    leave(late)


def test_killed_holder_frees_the_lock(start: Start) -> None:
    holder = start("quiet")
    assert says(holder) == "inside"
    other = start("quiet")
    assert waits(other)
    holder.kill()
    holder.communicate(timeout=60)
    assert says(other) == "inside"
    leave(other)


def test_one_at_a_time(start: Start) -> None:
    first = start("alone")
    assert says(first) == "inside"
    second = start("alone")
    assert waits(second)
    leave(first)
    assert says(second) == "inside"
    leave(second)


def test_training_lets_measurements_in_between_its_steps(tmp_path: Path) -> None:
    lock, held = tmp_path / "lock", []

    def steps() -> Iterator[int]:
        for step in range(3):
            held.append(is_held(lock))
            yield step

    for _ in pausing(steps(), lock):
        held.append(is_held(lock))
    assert held == [True, False] * 3


def test_a_stopped_process_is_waited_for_no_longer_than_its_lease(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.2)
    holder = start("busy")
    assert says(holder) == "inside"
    entered: list[bool] = []

    def enter() -> None:
        with locks.quiet(tmp_path / "lock"):
            entered.append(True)

    waiter = threading.Thread(target=enter, daemon=True)
    waiter.start()
    waiter.join(1.0)
    assert not entered, "it went on beside one that is at work"
    holder.send_signal(signal.SIGSTOP)
    waiter.join(20)
    assert entered
    holder.send_signal(signal.SIGCONT)
    leave(holder)
    enter()
    assert len(entered) == 2


def _enter(lock: Callable[[Path], AbstractContextManager[object]]) -> Callable[[Path], None]:
    def enter(path: Path) -> None:
        with lock(path):
            pass

    return enter


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("use", [_enter(alone), _enter(alone_or_not), _enter(quiet), hold, is_held])
def test_a_disk_without_locks_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, use: Callable[[Path], object]
) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    with pytest.raises(UserError, match="has no file locks") as caught:
        use(path)
    message = str(caught.value)
    assert str(path) in message and os.strerror(number) in message and "local disk" in message


def test_other_errors_of_locks_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="input/output"), alone(tmp_path / "lock"):
        pass
