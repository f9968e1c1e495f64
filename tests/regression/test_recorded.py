"""What seeded studies gave before the code was rearranged, they give now; older studies go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from record_study import HELD_DOWN, RECIPES, processor

HERE = Path(__file__).parent
LEAST_SCORED = 4
"""Trials before whose scores nothing is foretold or stopped, so that they are alike anywhere."""


def run(script: str, folder: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        cwd=folder,
        text=True,
        env={**os.environ, **HELD_DOWN, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def recorded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / "recorded" / f"{name}.json").read_text())
    return content


def same_arithmetic() -> bool:
    """Whether last digits can be expected to be those of the record."""
    import torch

    about = recorded("mobile")
    return processor() == about["processor"] and torch.__version__ == about["versions"]["torch"]


@pytest.mark.parametrize("space", RECIPES)
def test_a_seeded_study_gives_what_it_gave(tmp_path: Path, space: str) -> None:
    before, now = recorded(space), run("record_study.py", tmp_path, space)
    if same_arithmetic():
        assert now["trials"] == before["trials"]
        assert now["finals"] == before["finals"]
        return
    first_before, first_now = before["trials"][:LEAST_SCORED], now["trials"][:LEAST_SCORED]
    for old, new in zip(first_before, first_now, strict=True):
        assert {k: new[k] for k in ("fingerprint", "params", "macs")} == {
            k: old[k] for k in ("fingerprint", "params", "macs")
        }
        if old["rungs"]:
            (budget, _, loss), (new_budget, _, new_loss) = old["rungs"][0], new["rungs"][0]
            assert (new_budget, new_loss) == (budget, pytest.approx(loss, abs=0.05))


def test_a_study_of_the_first_release_is_reported_resumed_and_distilled(tmp_path: Path) -> None:
    shutil.copytree(HERE / "study_0.1", tmp_path / "studies" / "old")
    before, now = recorded("old_study"), run("go_on.py", tmp_path)
    # Trials 0 to 5 ended under the old code, trial 6 was cut off after its first rung.
    assert now["trials"][:6] == before["trials"][:6]
    assert now["trials"][6][3][0] == before["trials"][6][3][0]
    assert [row[2] for row in now["trials"]] == [row[2] for row in before["trials"]]
    assert [row[:2] for row in now["finals"]] == [row[:2] for row in before["finals"]]
    assert (tmp_path / "reports" / "old" / "index.html").stat().st_size > 10_000
    if same_arithmetic():
        assert now == before
