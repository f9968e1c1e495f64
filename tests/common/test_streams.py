"""Commands whose output nobody takes, or who lack something: one message, and no traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nasdistill.common.streams import Messages

NASDISTILL = f"{sys.executable} -m nasdistill"


def run(command: str, folder: Path, address_space: int | None = None) -> tuple[int, str, str]:
    def limit() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        (">&-", "Bad file descriptor"),
        ("<&- >&-", "Bad file descriptor"),
        ("| true", "Broken pipe"),
        (">/dev/full", "No space left on device"),
    ],
)
def test_output_that_is_lost_is_told(redirection: str, reason: str, tmp_path: Path) -> None:
    wait = "sleep 0.2; " if redirection.startswith("|") else ""  # the reader is gone by then
    status, out, err = run(f"({wait}{NASDISTILL} spaces) {redirection}", tmp_path)
    assert (status, out) == (1, "")
    assert err.startswith(f"nasdistill: cannot write to standard output: {reason}. ")
    assert err.count("\n") == 1


def test_messages_are_done_without(tmp_path: Path) -> None:
    status, out, err = run(f"{NASDISTILL} spaces 2>&-", tmp_path)
    assert status == 0 and "mobile" in out and err == ""
    assert run(f"{NASDISTILL} resume none 2>&-", tmp_path) == (2, "", "")
    assert run(f"{NASDISTILL} resume none <&- >&- 2>&-", tmp_path)[0] == 2


def test_no_work_ends_for_want_of_a_reader_of_messages() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    saved = os.dup(2)
    try:
        os.dup2(write_end, 2)
        messages = Messages(open(2, "wb", closefd=False), line_buffering=True)  # noqa: SIM115
        for _ in range(3):
            assert messages.write("lost\n") == 5
        messages.flush()
        assert os.write(2, b"nowhere") == 7
    finally:
        os.dup2(saved, 2)


def test_little_address_space_is_one_message(tmp_path: Path) -> None:
    status, out, err = run(f"{NASDISTILL} search", tmp_path, address_space=10**9)
    assert (status, out) == (1, "")
    assert err == (
        "nasdistill: there is not enough memory: the address space is limited to 1.0 GB (see "
        "`ulimit -v`)\n"
    )
    assert not (tmp_path / "studies").exists()
