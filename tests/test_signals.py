"""A search that is told to end, at twenty moments: it ends, says how to go on, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from interrupted_search import Moment
from small_study import RECIPE, prepare

from nasdistill.common.processes import descendants, process_status
from nasdistill.results import load_study

SCRIPT = Path(__file__).parent / "interrupted_search.py"
SMALL_RECIPE = (
    RECIPE.replace("trials: 7", "trials: 3")
    .replace("top_k: 2", "top_k: 1")
    .replace("count: 3", "count: 2")
    .replace("4 epochs", "2 epochs")
)
ENDING = (signal.SIGINT, signal.SIGTERM)

IMPORTS: tuple[str, ...] = (
    "typer",
    "pydantic",
    "nasdistill.cli.options",
    "numpy",
    "torch._C",
    "torch.nn",
    "optuna",
)
"""Modules during whose import a process is told to end."""

MOMENTS: tuple[Moment, ...] = (
    ("open", "own.py", 1),
    ("os.mkdir", "studies/small", 1),
    ("sqlite3.connect", "study.db", 1),
    ("open", "small/recipe.yaml", 1),
    ("open", "blobs.npz", 1),
    ("subprocess.Popen", sys.executable, 1),
    ("open", "view-000.f16", 1),
    ("os.rename", "trunk.pt", 3),
    ("os.mkdir", "small/finals", 1),
    ("open", "final.pt", 2),
    ("open", "model.onnx", 1),
    ("os.rename", "recommended.json", 1),
    ("open", "reports/small/index.html", 1),
)
"""Moments of one study, in order: each run goes on where the one before was told to end."""
NEVER: Moment = ("never", "", 1)


def started(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """The script, in which Ctrl-C is handled also where pytest itself was started to ignore it."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def forking() -> Iterator[subprocess.Popen[str]]:
    """The script as it waits for orders."""
    process = started()
    yield process
    process.kill()
    process.communicate()


SEARCH = ("search", "--recipe", "recipe.yaml")


def order(
    folder: Path,
    moment: Moment,
    number: int = signal.SIGINT,
    command: tuple[str, ...] = SEARCH,
    **flags: int,
) -> str:
    more = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    fields = {"arguments": [*command, *more], "moment": moment, "signal": int(number)}
    return json.dumps({**fields, "folder": str(folder)})


def begin(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def status_of(process: subprocess.Popen[str]) -> int:
    """The exit status of the command that was begun last."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return int(line)


def assert_ended_well(status: int, number: int, stderr: str) -> None:
    assert status == 128 + number, stderr
    for word in (
        "Traceback",
        "Fatal",
        "terminate called",
        "Exception ignored",
        "KeyboardInterrupt",
    ):
        assert word not in stderr, stderr
    assert "Go on with" in stderr.splitlines()[-1], stderr


@pytest.mark.parametrize("module", IMPORTS)
def test_during_imports(module: str, tmp_path: Path) -> None:
    number = ENDING[IMPORTS.index(module) % 2]
    prepare(tmp_path, SMALL_RECIPE)
    process = started(order(tmp_path, ("import", module, 1), number), cwd=tmp_path)
    stderr = process.communicate(timeout=60)[1]
    assert_ended_well(process.returncode, number, stderr)
    assert not (tmp_path / "studies").exists()


def test_from_the_first_file_to_the_report(forking: subprocess.Popen[str], tmp_path: Path) -> None:
    prepare(tmp_path, SMALL_RECIPE)
    for place, moment in enumerate(MOMENTS):
        number, workers = ENDING[place % 2], 2 if moment[0] == "subprocess.Popen" else 1
        begin(forking, order(tmp_path, moment, number, workers=workers))
        status, stderr = status_of(forking), (tmp_path / "said.txt").read_text()
        assert_ended_well(status, number, f"{moment}:\n{stderr}")
        begun = (tmp_path / "studies/small/recipe.yaml").exists()
        assert begun == ("Saved. Go on with: nasdistill resume small" in stderr), stderr
        assert not descendants(forking.pid), moment
    begin(forking, order(tmp_path, NEVER, command=("resume", "small")))
    assert status_of(forking) == 0, (tmp_path / "said.txt").read_text()
    record = load_study("small", tmp_path / "studies")
    assert record.state == "complete" and len(record.finals) == 1
    assert [c.state for c in record.candidates].count("failed") == 0


def test_a_second_ctrl_c_leaves_no_worker(forking: subprocess.Popen[str], tmp_path: Path) -> None:
    prepare(tmp_path, SMALL_RECIPE)
    begin(forking, order(tmp_path, NEVER, workers=3, trials=500))
    until, stderr_file = time.monotonic() + 120, tmp_path / "said.txt"
    while not (stderr_file.exists() and "rung 0: " in stderr_file.read_text()):
        assert time.monotonic() < until, stderr_file.read_text()
        time.sleep(0.1)
    command, *workers = descendants(forking.pid)
    assert len(workers) == 2
    start = time.monotonic()
    os.kill(command, signal.SIGINT)
    os.kill(command, signal.SIGINT)
    assert_ended_well(status_of(forking), signal.SIGINT, stderr_file.read_text())
    assert time.monotonic() - start < 5
    while any((s := process_status(pid)) is not None and s.state != "Z" for pid in workers):
        assert time.monotonic() < until, "a worker was left"
