"""Several students at once on a card. Without one, processes share a CPU and are called a card."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from small_study import RECIPE, prepare

import nasdistill
from nasdistill.common.events import Event
from nasdistill.recipe import load_recipe
from nasdistill.results import keys
from nasdistill.study import Study
from nasdistill.workers import calibration, pool, process


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What a search in this folder, on what it takes for a card, will have told."""
    monkeypatch.chdir(prepare(tmp_path, RECIPE.replace("workers: 1\n", "")))
    monkeypatch.setattr(pool, "uses_gpu", lambda recipe: True)
    monkeypatch.setattr(pool, "CONCURRENT_STUDENTS", 2)
    monkeypatch.setattr(calibration, "READY_SECONDS", 8.0)
    monkeypatch.setattr(calibration, "TIMED_SECONDS", 0.3)
    return []


def search(heard: list[Event], **options: object) -> Study:
    """Searches, and opens the study again."""
    recipe = load_recipe("recipe.yaml", {"trials": 4, "top_k": 1, **options})
    outcome = nasdistill.search(recipe, on_event=heard.append)
    assert outcome.record.state == "complete" and outcome.record.finals
    assert not [e.text for e in heard if e.kind == "warning" and "worker" in e.text]
    return Study.open(recipe, Path("studies"), "")


def notes_of(heard: list[Event]) -> list[str]:
    return [
        event.text for event in heard if "at once" in event.text or "one at a time" in event.text
    ]


@pytest.mark.parametrize(
    ("gain", "kept", "said"), [(0.01, 2, "; kept"), (1000.0, 1, "; so one at a time")]
)
def test_workers_are_kept_where_they_gain(
    heard: list[Event], monkeypatch: pytest.MonkeyPatch, gain: float, kept: int, said: str
) -> None:
    monkeypatch.setattr(calibration, "LEAST_GAIN", gain)
    sizes = []

    def calibrate(workers: process.WorkerPool, *others: object) -> None:
        assert workers.size == 2
        measure(workers, *others)  # type: ignore[arg-type]
        sizes.append(workers.size)

    measure = calibration.calibrate
    monkeypatch.setattr("nasdistill.api.stages.calibrate", calibrate)
    study = search(heard)
    assert sizes == [kept] and study.read(keys.CONCURRENT_STUDENTS) == kept
    (text,) = notes_of(heard)
    assert text.startswith("2 students at once on this card: ") and text.endswith(said)
    assert 0.2 < float(text.split(": ")[1].split()[0]) < 10.0
    # It is found out once; a search that goes on begins with what was found.
    heard.clear()
    search(heard, trials=5)
    assert sizes == [kept] and not notes_of(heard)


def test_a_worker_that_does_not_begin_is_not_waited_for_for_ever(
    heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    def stopped() -> subprocess.Popen[str]:
        started.append(start())
        started[-1].send_signal(signal.SIGSTOP)
        return started[-1]

    start = process.start
    monkeypatch.setattr(process, "start", stopped)
    monkeypatch.setattr(calibration, "OPENING_SECONDS", 1.0)
    study = search(heard)
    assert not study.has(keys.CONCURRENT_STUDENTS)
    assert notes_of(heard) == ["students are tried one at a time: not all workers began"]
    assert [one.poll() for one in started] == [-signal.SIGKILL]


def test_a_number_that_is_asked_for_is_not_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "uses_gpu", lambda recipe: True)
    assert pool.choose_size(load_recipe(None, {"workers": 3}), None) == (3, False)
    assert pool.choose_size(load_recipe(None, {"deterministic": True}), 4) == (1, False)
    assert pool.choose_size(load_recipe(None, {}), None) == (pool.CONCURRENT_STUDENTS, True)
    assert pool.choose_size(load_recipe(None, {}), 1) == (1, False)
