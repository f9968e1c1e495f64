"""The end of a search: when it is complete, and what a choice of finals rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import OpenContext

import nasdistill
from nasdistill.common.events import Event
from nasdistill.finals import leading
from nasdistill.recipe import load_recipe
from nasdistill.results import keys
from nasdistill.study import Study
from nasdistill.trials.context import StudyContext
from nasdistill.trials.loop import run_trials

QUICK = {
    "trials": 3,
    "top_k": 2,
    "stopping": False,
    "rungs": {"first": "100 images", "count": 1},
    "final_budget": "1 epochs",
}


@pytest.fixture
def context(opened: OpenContext) -> StudyContext:
    context = opened(**QUICK)
    assert run_trials(context) == "complete"
    return context


def test_a_choice_is_made_once_for_a_number_of_trials_and_finals(context: StudyContext) -> None:
    chosen = leading.choose_finals(context)
    assert 1 <= len(chosen) <= 2 and context.study.require(keys.CHOSEN_FROM) == [3, 2]
    context.study.write(keys.FINALS, chosen[:1])  # as if another had been chosen then
    assert leading.choose_finals(context) == chosen[:1]
    context.study.write(keys.CHOSEN_FROM, [2, 2])  # one trial more has ended since
    again = leading.choose_finals(context)
    assert again[0] == chosen[0] and set(again) == set(chosen), "what was chosen keeps its rank"


def test_no_trial_above_the_floor_is_told(
    context: StudyContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    context.limits = {**context.limits, "accuracy": 1.5}
    # The scores have seen a fifth of a full run: too little to be held against it.
    assert leading.choose_finals(context)
    context.study.write(keys.CHOSEN_FROM, [0, 0])
    context.study.write(keys.FINALS, [])
    monkeypatch.setattr(StudyContext, "final_examples", 300)
    assert leading.choose_finals(context) == []
    assert any("no trial reached the accuracy floor of 1.500" in e.text for e in events)


def test_complete_is_trials_counted_finals_made(context: StudyContext) -> None:
    study = context.study
    assert not leading.is_complete(study)
    chosen = leading.choose_finals(context)
    assert not leading.is_complete(study)
    leading.finish(context, chosen, lambda count: None)
    assert leading.is_complete(study) and study.read(keys.STATE) == "complete"
    study.write(keys.FINALS, [*chosen, 99])
    assert not leading.is_complete(study)
    study.write(keys.FINAL_FAILED.of(99), "it broke")
    assert leading.is_complete(study), "one that failed is not waited for"
    study.write(keys.FINAL_FAILED.of(99), None)
    assert not leading.is_complete(study), "asked for by name, it is tried again"


def test_work_files_go_and_those_of_running_trials_stay(context: StudyContext) -> None:
    study = context.study
    number = study.claim(study.proposer().propose(7), {"params": 1, "macs": 1, "bytes": 4})
    assert number is None, "the total is reached"
    trials = Path("studies/small/trials")
    (trials / "0").mkdir(parents=True)
    leading.close(study)
    assert not (trials / "0").exists()


def test_finals_are_chosen_anew_once_a_trial_that_was_under_way_has_ended(
    here: Path,
) -> None:
    options = {"stopping": False, "min_accuracy": 0, "final_budget": "1 epochs", "top_k": 1}
    nasdistill.search(load_recipe("recipe.yaml", {**options, "trials": 4}))
    study = Study.open(load_recipe("recipe.yaml", {**options, "trials": 5}), Path("studies"), "")
    before = leading._basis(study)
    number = study.claim(study.proposer().propose(9), {"params": 1000, "macs": 1000, "bytes": 4000})
    assert number is not None and leading._basis(study) == before
    study.end(number, "gone")
    assert leading._basis(study) != before
