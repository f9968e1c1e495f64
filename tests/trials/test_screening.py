"""What earlier full runs choose to try."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import OpenContext

from nasdistill import api
from nasdistill.common.events import Event
from nasdistill.models.counts import count_architecture
from nasdistill.recipe import load_recipe
from nasdistill.results import keys, load_study
from nasdistill.results.experience import (
    EarlierRun,
    Untrained,
    keep_runs,
    read_runs,
)
from nasdistill.study.experience import setting_of
from nasdistill.trials import candidate_pool as pools
from nasdistill.trials.loop import run_trials
from nasdistill.trials.screening import TURNS, most_added


def test_the_point_that_adds_the_most_is_taken() -> None:
    tried = np.array([[1.0, 3.0], [3.0, 1.0]])
    new = np.array([[3.0, 3.0], [1.9, 1.9], [0.9, 2.9], [2.9, 0.9]])
    assert most_added(tried, new) == 1
    assert most_added(np.array([[1.9, 1.9]]), new) in (2, 3)
    assert most_added(np.empty((0, 2)), new[:1]) == 0


def plant(opened: OpenContext, prefer: str) -> None:
    """Full runs by which networks with this activation are far better, whatever their costs."""
    context = opened(study="before")
    rng, runs = random.Random(0), []
    for number in range(24):
        architecture = context.study.space.random(rng)
        counts = count_architecture(architecture, context.dataset.input, context.classes)
        accuracy = 0.9 if architecture.values["activation"] == prefer else 0.6
        untrained = Untrained(architecture.values, counts.macs, counts.params, counts.depth)
        runs.append(EarlierRun(untrained, accuracy, "elsewhere", f"planted {number}"))
    keep_runs(Path("studies"), context.study.space.fingerprint, runs, pytest.fail)


def activations(opened: OpenContext, **options: object) -> list[tuple[str, bool]]:
    """Of each trial, and whether it was foretold."""
    context = opened(trials=6, max_params="100k", **options)
    run_trials(context)
    trials = [c for c in context.study.candidates() if c.state != "rejected"]
    return [(c.architecture["values"]["activation"], c.foretold is not None) for c in trials]


@pytest.mark.parametrize("prefer", ["relu", "gelu"])
def test_what_did_well_before_is_tried(opened: OpenContext, prefer: str) -> None:
    plant(opened, prefer)
    tried = activations(opened)
    foretold = [activation for activation, was in tried if was]
    assert len(foretold) == len(tried) - len(tried) // TURNS
    assert foretold == [prefer] * len(foretold)


@pytest.mark.parametrize(("power", "larger"), [(1, False), (-1, True)])
def test_measured_latencies_say_what_is_tried_next(
    opened: OpenContext, tmp_path: Path, power: int, larger: bool
) -> None:
    program = tmp_path / "device.py"
    program.write_text(f"import os, sys\nprint(os.path.getsize(sys.argv[-1]) ** {power} * 1e3)\n")
    plant(opened, "relu")
    context = opened(
        trials=9, minimize=["latency"], latency_engine=f"command:{sys.executable} {program}"
    )
    run_trials(context)
    foretold = [c.params or 0 for c in context.study.candidates() if c.foretold is not None]
    middle = np.median([drawn.untrained.params for drawn in pools.candidate_pool(context)])
    assert (foretold[-1] > middle) == larger


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The architectures that were counted for a pool of candidates."""
    architectures: list[Any] = []

    def counting(architecture: Any, *rest: Any) -> Any:
        architectures.append(architecture)
        return count_architecture(architecture, *rest)

    monkeypatch.setattr(pools, "count_architecture", counting)
    return architectures


def test_candidates_are_counted_once_for_all_workers(
    opened: OpenContext, counted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = pools.candidate_pool(opened())
    once = len(counted)
    assert once == len(drawn) > 10
    assert pools.candidate_pool(opened()) == drawn and len(counted) == once
    assert pools.candidate_pool(opened(study="alike")) == drawn and len(counted) == 2 * once
    assert pools.candidate_pool(opened(study="other", seed=1)) != drawn


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not JSON, or cut off"),
        ('{"drawn_by": {}, "candidates": [{"fingerprint": 3}]}', "candidates.0.parameters"),
        ('{"drawn_by": {"seed": 9}, "candidates": []}', ""),
    ],
)
def test_candidates_that_cannot_be_used_are_drawn_again(
    opened: OpenContext, events: list[Event], content: str, word: str
) -> None:
    drawn, path = pools.candidate_pool(opened()), Path("studies/small/candidates.json")
    good = path.read_text()
    path.write_text(content)
    events.clear()
    assert pools.candidate_pool(opened()) == drawn and path.read_text() == good
    warnings = [event.text for event in events if event.kind == "warning"]
    assert len(warnings) == bool(word)
    if word:
        assert word in warnings[0] and "put aside as candidates.json.damaged" in warnings[0]
        assert warnings[0].endswith("candidates are drawn and counted again")


DRAWING = """
import os, signal, sys
from pathlib import Path
from nasdistill.recipe import load_recipe
from nasdistill.study import Study
from nasdistill.trials.candidate_pool import candidate_pool
from nasdistill.trials.context import open_context
from nasdistill.trials.plugins import load_plugins

def tell(event):
    if event.text.startswith("drawing and counting"):
        print("drawing", flush=True)
        if sys.argv[1] == "die":
            os.kill(os.getpid(), signal.SIGKILL)

recipe = load_recipe("recipe.yaml", {})
study = Study.open(recipe, Path("studies"), "a test")
print(len(candidate_pool(open_context(study, load_plugins(recipe.import_file), tell))))
"""


def test_two_processes_count_them_once_also_after_one_that_was_killed(here: Path) -> None:
    def started(how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRAWING, how]
        return subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True)

    dying = started("die")
    assert dying.communicate(timeout=300)[0] == "drawing\n"
    assert dying.returncode == -signal.SIGKILL
    assert not Path("studies/small/candidates.json").exists()
    outputs = [
        process.communicate(timeout=300)[0] for process in [started("live"), started("live")]
    ]
    counts = {text.removeprefix("drawing\n") for text in outputs}
    assert len(counts) == 1 and sum("drawing" in text for text in outputs) == 1


@pytest.mark.parametrize("options", [{"experience": False}, {"sampler": "random"}])
def test_nothing_is_foretold_where_it_is_not_wanted(
    opened: OpenContext, options: dict[str, object]
) -> None:
    plant(opened, "relu")
    assert not any(was for _, was in activations(opened, **options))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"trials": 7, "seed": 3, "max_params": 10}, True),
        ({"learning_rate": 0.01}, False),
        ({"sampling": "balanced"}, False),
        ({"final": {"alpha": 0.5}}, False),
    ],
)
def test_full_runs_that_were_made_in_another_way_are_of_another_setting(
    changed: dict[str, object], same: bool
) -> None:
    names = [setting_of(load_recipe(None, keys), "data", "teacher", 100) for keys in ({}, changed)]
    assert (names[0] == names[1]) == same


def test_a_study_goes_on_with_what_it_began_with(opened: OpenContext) -> None:
    plant(opened, "relu")
    context = opened(trials=2)
    plant(opened, "gelu")
    again = opened(trials=2)
    assert again.experience.guess is not None
    assert again.study.require(keys.EXPERIENCE) == context.study.require(keys.EXPERIENCE)


def test_a_search_keeps_its_full_runs_and_a_damaged_file_ends_none(here: Path) -> None:
    api.search(load_recipe("recipe.yaml", {}))
    record = load_study("small", Path("studies"))
    [path] = Path("studies/.experience").glob("*.jsonl")
    runs = read_runs(path, path.stem, pytest.fail)
    assert sorted(run.accuracy for run in runs) == sorted(
        f.metrics["audit_accuracy"] for f in record.finals
    )
    [first, *_] = record.finals
    candidate = next(c for c in record.candidates if c.number == first.number)
    assert candidate.zero_cost is not None
    assert candidate.zero_cost in [run.of.zero_cost for run in runs]
    assert {run.setting for run in runs} == {record.experience["setting"]}  # type: ignore[index]
    path.write_text(path.read_text() + '{"space": 3}\n')
    texts: list[str] = []
    again = load_recipe("recipe.yaml", {"study": "again"})
    api.search(again, on_event=lambda event: texts.append(event.text))
    assert sum("lines are left out" in text for text in texts) == 1
    assert len(read_runs(path, path.stem, texts.append)) == 2 * len(record.finals)
    assert json.loads(path.read_text().splitlines()[-1])["source"].startswith("again (")
