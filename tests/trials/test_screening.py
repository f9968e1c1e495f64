"""What earlier full runs choose to try."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from small_study import OpenContext

from nasdistill import api
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
    told: list[str] = []
    again = load_recipe("recipe.yaml", {"study": "again"})
    api.search(again, on_event=lambda event: told.append(event.text))
    assert sum("lines are left out" in text for text in told) == 1
    assert len(read_runs(path, path.stem, told.append)) == 2 * len(record.finals)
    assert json.loads(path.read_text().splitlines()[-1])["source"].startswith("again (")
