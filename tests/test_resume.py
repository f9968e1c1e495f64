"""A search that is killed and started again gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_study import KILLED_SEARCH, prepare

from nasdistill.results import load_study

MOMENTS = ("trial", "rungs", "writing", "final")


def run(folder: Path, moment: str) -> int:
    done = subprocess.run(
        [sys.executable, str(KILLED_SEARCH), moment],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    record = load_study("small", folder / "studies")
    assert record.state == "complete"
    trials = [
        (c.number, c.fingerprint, c.state, [(r.rung, r.accuracy, r.loss) for r in c.rungs])
        for c in record.candidates
    ]
    keys = ("trial", "test_accuracy", "audit_accuracy", "agreement", "ece", "recommended")
    finals = [[final.rank, *(final.metrics[key] for key in keys)] for final in record.finals]
    return {"trials": trials, "finals": finals}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = prepare(tmp_path_factory.mktemp("uninterrupted"))
    assert run(folder, "never") == 0
    return outcome(folder)


def test_an_uninterrupted_search_has_all_that_is_compared(uninterrupted: dict[str, Any]) -> None:
    states = [state for _, _, state, _ in uninterrupted["trials"]]
    assert states.count("rejected") > 0
    assert states.count("complete") + states.count("stopped") == 7
    assert len({fingerprint for _, fingerprint, _, _ in uninterrupted["trials"]}) == len(states)
    assert 1 <= len(uninterrupted["finals"]) <= 2


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once(tmp_path: Path, uninterrupted: dict[str, Any], moment: str) -> None:
    folder = prepare(tmp_path)
    assert run(folder, moment) == -signal.SIGKILL
    before = load_study("small", folder / "studies")
    _assert_hit(moment, folder, before)
    kept = {c.number: c.rungs for c in before.candidates}
    assert run(folder, "never") == 0
    assert outcome(folder) == uninterrupted
    after = load_study("small", folder / "studies")
    for number, rungs in kept.items():
        again = next(c for c in after.candidates if c.number == number)
        assert again.rungs[: len(rungs)] == rungs, "a rung was measured twice"


def _assert_hit(moment: str, folder: Path, record: Any) -> None:
    """Asserts that the process died where the test meant it to."""
    running = [c for c in record.candidates if c.state == "running"]
    if moment == "trial":
        assert len(running) == 1 and running[0].rungs == () and len(record.candidates) > 1
    if moment == "rungs":
        assert len(running) == 1 and len(running[0].rungs) >= 1
    if moment == "writing":
        (half,) = folder.glob("studies/small/**/*.tmp")
        assert half.stat().st_size == 100
    if moment == "final":
        assert record.state == "distilling" and not record.finals
        assert list(folder.glob("studies/small/finals/.work-*/final.pt"))


def test_killed_again_and_again(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    folder = prepare(tmp_path)
    assert [run(folder, moment) for moment in ("rungs", "rungs", "final", "never")] == [
        -signal.SIGKILL,
        -signal.SIGKILL,
        -signal.SIGKILL,
        0,
    ]
    assert outcome(folder) == uninterrupted


def test_a_second_call_finds_the_study_complete(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    assert run(folder, "never") == 0
    first = outcome(folder)
    stamps = {p: p.stat().st_mtime_ns for p in folder.glob("studies/small/finals/*/*")}
    assert run(folder, "never") == 0
    assert outcome(folder) == first
    assert stamps == {p: p.stat().st_mtime_ns for p in folder.glob("studies/small/finals/*/*")}
    assert json.loads((folder / "studies/small/finals/recommended.json").read_text())["rank"]
