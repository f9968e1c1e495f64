"""Signals end real processes, with all below them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasdistill.common.processes import is_stopped, process_status

PROLOGUE = """\
import os, signal, subprocess, sys, time
from nasdistill.common.interruption import before_exit, handle_signals, set_exit_message
handle_signals(lambda: "the last words")
"""


def start(code: str, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen[str]:
    def heed() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is at what the test is about
    return process


READY = "print('ready', flush=True)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_that_sleeps_for_ever(number: signal.Signals) -> None:
    process = start(READY + "time.sleep(60)")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (128 + number, "\nthe last words\n")


def test_where_nothing_can_be_raised_it_ends_all_the_same() -> None:
    """An exception in a destructor is shown and lost, and that in `except` would be swallowed."""
    code = (
        "class Deaf:\n"
        "    def __del__(self):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "Deaf()\n"
        "time.sleep(60)\n"
    )
    process = start(code)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "\nthe last words\n"
    assert process.returncode == 130


def test_nothing_is_begun_while_the_process_takes_long_to_end(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from nasdistill.common import interruption\n"
        "interruption.descendants = lambda process: time.sleep(0.5) or ()\n"
        f"{READY}"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        f"Path({str(tmp_path / 'begun')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    process = start(code)
    assert process.communicate(timeout=20)[1] == "\nthe last words\n"
    assert process.returncode == 130 and not list(tmp_path.iterdir())


def test_actions_come_first_inner_ones_before_outer_ones_and_one_that_fails_hinders_none() -> None:
    code = (
        "def tell(text):\n    os.write(2, text.encode())\n"
        "with before_exit(lambda: tell('outer ')), before_exit(lambda: 1 / 0):\n"
        "    with before_exit(lambda: tell('over ')):\n        pass\n"
        "    with before_exit(lambda: tell('inner ')):\n        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
    )
    process = start(code)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[1] == "inner outer \nthe last words\n"
    assert process.returncode == 143


def test_a_second_signal_waits_for_no_action_and_leaves_no_process() -> None:
    code = (
        "below = subprocess.Popen([sys.executable, '-c', \"import subprocess as s; "
        "print(s.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); "
        "__import__('time').sleep(60)\"], start_new_session=True, stdout=subprocess.PIPE)\n"
        "lowest = below.stdout.readline().decode().strip()\n"
        "def never_ends():\n    print(below.pid, lowest, flush=True)\n    time.sleep(60)\n"
        "with before_exit(never_ends):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    process = start(code)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    below = [int(pid) for pid in process.stdout.readline().split()]
    assert len(below) == 2 and all(process_status(pid) for pid in below)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "\nthe last words\n"
    assert process.returncode == 130 and time.monotonic() - begun < 4
    until = time.monotonic() + 10
    while any((s := process_status(pid)) is not None and s.state != "Z" for pid in below):
        assert time.monotonic() < until, "a process was left"


def test_what_a_process_was_started_to_ignore_stays_ignored() -> None:
    process = start(READY + "time.sleep(60)", ignored=(signal.SIGINT,))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[1] == "\nthe last words\n"
    assert process.returncode == 143


def test_a_forked_process_ends_alone() -> None:
    code = (
        "pid = os.fork()\n"
        "if pid == 0:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.stdin.readline()\n"
        "os.kill(pid, signal.SIGINT)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 'lives on', file=sys.stderr)\n"
    )
    process = start(code)
    stderr = process.communicate("go on\n", timeout=20)[1]
    assert (stderr, process.returncode) == ("-2 lives on\n", 0)


def test_a_stopped_process_is_known() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 10
        while not is_stopped(process.pid):
            assert time.monotonic() < until
    finally:
        process.kill()
        process.wait()
    assert process_status(process.pid) is None and not is_stopped(process.pid)
