"""A search that is told to end, at twenty moments: it ends, says how to go on, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interrupted_search import Moment
from small_study import RECIPE, prepare

from nasdistill.common.processes import descendants
from nasdistill.results import load_study

SCRIPT = Path(__file__).parent / "interrupted_search.py"
SMALL_RECIPE = (
    RECIPE.replace("trials: 7", "trials: 3")
    .replace("top_k: 2", "top_k: 1")
    .replace("count: 3", "count: 2")
    .replace("4 epochs", "2 epochs")
)
SEARCH = ["search", "--recipe", "recipe.yaml"]

IMPORTS: tuple[str, ...] = (
    "typer",
    "pydantic",
    "nasdistill.cli.options",
    "numpy",
    "torch._C",
    "torch.nn",
    "optuna",
)
"""Modules during whose import a fresh process is told to end."""

MOMENTS: tuple[Moment, ...] = (
    ("open", "own.py", 1),
    ("os.mkdir", "studies/small", 1),
    ("sqlite3.connect", "study.db", 1),
    ("open", "small/recipe.yaml", 1),
    ("open", "blobs.npz", 1),
    ("subprocess.Popen", sys.executable, 1),
    ("open", "view-000.f16", 1),
    ("open", "trials/1/trunk.pt", 2),
    ("os.rename", "trials/2/trunk.pt", 1),
    ("os.remove", "trunk.pt", 1),
    ("os.mkdir", "small/race", 1),
    ("open", "final.pt", 2),
    ("open", "model.onnx", 1),
    ("os.rename", "recommended.json", 1),
    ("open", "reports/small/index.html", 1),
)
"""Moments of one study, in order: each run goes on where the one before was told to end."""


@contextmanager
def commands(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The script, in a folder with what a small search needs."""
    prepare(folder, SMALL_RECIPE)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def order(moment: Moment, number: int, **more: object) -> str:
    fields = {"arguments": SEARCH, "moment": moment, "signal": number, "fork": False, **more}
    return json.dumps(fields) + "\n"


def assert_ended_well(status: int, number: int, said: str) -> None:
    assert status == 128 + number, said
    for word in (
        "Traceback",
        "Fatal",
        "terminate called",
        "Exception ignored",
        "KeyboardInterrupt",
    ):
        assert word not in said, said
    assert "Go on with" in said.splitlines()[-1], said


@pytest.mark.parametrize("module", IMPORTS)
def test_during_imports(module: str, tmp_path: Path) -> None:
    number = (signal.SIGINT, signal.SIGTERM)[IMPORTS.index(module) % 2]
    with commands(tmp_path) as process:
        said = process.communicate(order(("import", module, 1), number), timeout=60)[1]
    assert_ended_well(process.returncode, number, said)
    assert not (tmp_path / "studies").exists()


def test_from_the_first_file_to_the_report(tmp_path: Path) -> None:
    def run(moment: Moment, number: int) -> tuple[int, str]:
        assert process.stdin is not None and process.stdout is not None
        workers = ["--workers", "2" if moment[0] == "subprocess.Popen" else "1"]
        more = {"fork": True, "said": str(tmp_path / "said"), "arguments": [*SEARCH, *workers]}
        process.stdin.write(order(moment, number, **more))
        process.stdin.flush()
        status = process.stdout.readline()
        assert status, process.communicate()[1]
        assert not descendants(process.pid), moment
        return int(status), (tmp_path / "said").read_text()

    with commands(tmp_path) as process:
        for place, moment in enumerate(MOMENTS):
            number = (signal.SIGINT, signal.SIGTERM)[place % 2]
            start = time.monotonic()
            status, said = run(moment, number)
            print(moment, time.monotonic() - start)
            assert_ended_well(status, number, said)
            begun = (tmp_path / "studies/small/recipe.yaml").exists()
            assert begun == ("Saved. Go on with: nasdistill resume small" in said), said
        status, said = run(("never", "", 1), signal.SIGINT)
        assert status == 0, said
    record = load_study("small", tmp_path / "studies")
    assert record.state == "complete" and len(record.finals) == 1
    assert [c.state for c in record.candidates].count("failed") == 0
