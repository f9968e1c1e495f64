from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import nasdistill
from nasdistill.cli.console import show_any_character
from nasdistill.cli.display import Display
from nasdistill.common.events import Event

ASCII = {"PYTHONIOENCODING": "ascii"}
LATIN = {"PYTHONIOENCODING": "latin-1"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Without Python's own UTF-8 mode, which a plain LC_ALL=C turns on."""

SEARCH = """
from nasdistill.cli.console import console, show_any_character, with_progress
from nasdistill.common.events import Event
show_any_character()
def run(api, emit):
    emit(Event("note", "class caf\\u00e9, \\udcff and \\u732b: 0.912 (0.900\\u20130.924), \\u00f75, \\u03c4 0.9 \\u2026"))
    emit(Event("trial", "\\u2265 90 %", "search", 3, 2, done=1, total=2, front=((3, 0.9, 5e4),) * 5))
    return "done \\u2713"
print(with_progress(run))
"""  # noqa: E501
TABLE = """
from rich.table import Table
from nasdistill.cli.console import console, show_any_character
show_any_character()
table = Table("Kendall \\u03c4", title="95 % intervals: 0.90\\u20130.92")
table.add_row("caf\\u00e9")
console().print(table)
"""


def _run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    home = str(Path(nasdistill.__file__).parents[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": home, **env},
        capture_output=True,
        timeout=120,
    )


def _nasdistill(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    code = "from nasdistill.__main__ import main; main()"
    return _run("-c", code, *arguments, cwd=cwd, **env)


@pytest.mark.parametrize(
    ("command", "env"),
    [
        ("spaces", {"LC_ALL": "C"}),
        ("search --help", ASCII),
        ("studies", C_LOCALE),
        ("resume caf\u00e9", C_LOCALE),
    ],
)
def test_commands_run_on_a_console_without_unicode(
    command: str, env: dict[str, str], tmp_path: Path
) -> None:
    run = _nasdistill(*command.split(), cwd=tmp_path, **env)
    assert run.returncode == (2 if command.startswith("resume") else 0), run.stderr
    assert b"Traceback" not in run.stderr and (run.stdout or run.stderr)


@pytest.mark.parametrize("env", [ASCII, C_LOCALE], ids=["ascii", "C"])
def test_what_a_console_cannot_show_is_written_in_ascii(
    env: dict[str, str], tmp_path: Path
) -> None:
    run = _run("-c", SEARCH, cwd=tmp_path, **env)
    assert run.returncode == 0, run.stderr
    assert run.stdout == b"done yes\n"
    first, second = run.stderr.decode("ascii").splitlines()
    assert first.endswith("class cafe, ? and ?: 0.912 (0.900-0.924), /5, tau 0.9 ...")
    assert ">= 90 %" in second and second.endswith(", ...]")


def test_latin_1_keeps_what_it_has(tmp_path: Path) -> None:
    run = _run("-c", SEARCH, cwd=tmp_path, **LATIN)
    assert run.returncode == 0, run.stderr
    assert "café, ? and ?: 0.912 (0.900-0.924), ÷5, tau" in run.stderr.decode("latin-1")


@pytest.mark.parametrize("env", [ASCII, C_LOCALE], ids=["ascii", "C"])
def test_tables_are_drawn_with_ascii_lines(env: dict[str, str], tmp_path: Path) -> None:
    run = _run("-c", TABLE, cwd=tmp_path, **env)
    assert run.returncode == 0, run.stderr
    text = run.stdout.decode("ascii")
    assert "Kendall tau" in text and "| cafe" in text and "?" not in text


def test_a_name_that_is_not_utf_8_ends_nothing(tmp_path: Path) -> None:
    run = _run("-c", SEARCH, cwd=tmp_path, PYTHONIOENCODING="utf-8")
    assert run.returncode == 0, run.stderr
    assert "class café, ? and 猫" in run.stderr.decode("utf-8")


def test_a_live_line_survives_an_ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    show_any_character()
    terminal = Console(file=sys.stderr, force_terminal=True, width=120)
    with Display(terminal) as display:
        display(Event("progress", "τ ≥ 0.9 …", "search", 1, done=5, total=10))
        display(Event("note", "猫"))
    assert b"tau >= 0.9 ..." in raw.getvalue() and b"?\n" in raw.getvalue()


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    show_any_character()


@pytest.mark.parametrize(
    ("env", "spins"),
    [
        ({}, b"'1000'"),
        ({"GOMP_SPINCOUNT": "7"}, b"'7'"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, b"'30000000000'"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, b"'0'"),
    ],
    ids=["ours", "their spins", "active", "passive"],
)
def test_threads_that_wait_for_each_other_leave_the_core_unless_told(
    env: dict[str, str], spins: bytes, tmp_path: Path
) -> None:
    run = _nasdistill("profile", "none.onnx", cwd=tmp_path, OMP_DISPLAY_ENV="verbose", **env)
    if b"GOMP_SPINCOUNT" not in run.stderr:
        pytest.skip("torch computes with another OpenMP than GNU's")
    assert b"GOMP_SPINCOUNT = " + spins in run.stderr
