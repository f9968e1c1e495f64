"""A worker that joins a study which another process began: here, by path, by another URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_study import RECIPE, prepare

from nasdistill.api import enter, join
from nasdistill.common.errors import UserError
from nasdistill.recipe import load_recipe
from nasdistill.results import keys, load_study
from nasdistill.study import Study

SLOW = (
    RECIPE.replace("trials: 7", "trials: 7")
    .replace("top_k: 2", "top_k: 1")
    .replace("{first: 200 images, eta: 2, count: 3}", "{first: 12000 images, eta: 2, count: 2}")
    .replace("4 epochs", "48 epochs")
    + "stopping: false\nexperience: false\n"
)


def started(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command with a core of its own: two that think they have both keep each other waiting."""
    core = (min if arguments[0] == "search" else max)(os.sched_getaffinity(0))
    return subprocess.Popen(
        [sys.executable, "-m", "nasdistill", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def test_a_worker_joins_a_study_that_runs_and_leaves_when_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    prepare(home, SLOW)
    elsewhere.mkdir()
    (elsewhere / "mount").symlink_to(home)
    search = started(home, "search", "--recipe", "recipe.yaml")
    until = time.monotonic() + 50
    while not (home / "studies/small/recipe.yaml").exists():
        assert search.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    url = f"sqlite:///{elsewhere}/mount/studies/small/study.db"
    worker = started(
        elsewhere,
        "worker",
        "mount/studies/small",
        "--workers",
        "1",
        "--json",
        NASDISTILL_STORAGE=url,
    )
    out, err = worker.communicate(timeout=100)
    assert worker.returncode == 0, err
    assert json.loads(out)["study"] == "small"
    assert search.wait(100) == 0, search.communicate()[1]
    record = load_study("small", home / "studies")
    assert record.state == "complete" and len(record.finals) == 1
    tried = [c for c in record.candidates if c.state != "rejected"]
    assert [c.state for c in tried] == ["complete"] * 7
    monkeypatch.chdir(home)
    opened = Study.open(load_recipe("recipe.yaml", {}), Path("studies"), "")
    at_work = {t.user_attrs[keys.LEASE.name]["pid"] for t in opened.trials() if t.values}
    assert at_work == {search.pid, worker.pid}, err
    assert "workers: 1" in (home / "studies/small/recipe.yaml").read_text(), "it stays as it was"


def test_a_study_that_is_complete_is_left_at_once(here: Path) -> None:
    import nasdistill

    options = {"trials": 2, "top_k": 1, "final_budget": "1 epochs", "stopping": False}
    rungs = {"first": "100 images", "count": 1}
    nasdistill.search(load_recipe("recipe.yaml", {**options, "rungs": rungs}))
    assert join("small")


def test_a_folder_that_is_not_there_is_one_message(here: Path) -> None:
    with pytest.raises(UserError, match="needs the study's folder as well as its storage"):
        join("small", storage="postgresql+psycopg://me:secret@db/studies")
    with pytest.raises(UserError, match="no study's folder"):
        enter("./elsewhere")


def test_a_storage_that_holds_another_study_is_one_message(here: Path) -> None:
    Study.open(load_recipe("recipe.yaml", {}), Path("studies"), "")
    Study.open(load_recipe("recipe.yaml", {"study": "other"}), Path("studies"), "")
    url = f"sqlite:///{here}/studies/other/study.db"
    with pytest.raises(UserError, match=r"holds no study of that name \(there: 'other'\)"):
        join("small", storage=url)
