"""The last rungs' race, on a real study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nasdistill
from nasdistill.analysis.front import forecast_at, forecast_of
from nasdistill.api import stages
from nasdistill.common.events import Event
from nasdistill.recipe import load_recipe
from nasdistill.results import RungScore, StudyRecord, load_study
from nasdistill.study import Study
from nasdistill.trials import race, rung
from nasdistill.trials import trial as trials


@pytest.fixture
def options() -> dict[str, object]:
    changed = {"trials": 6, "stopping": False, "min_accuracy": 0, "final_budget": "7 epochs"}
    return {"race": True, **changed}


def record() -> StudyRecord:
    return load_study("small", Path("studies"))


def test_a_race_is_run_once_and_gone_on_with(
    here: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):  # noqa: N818
        pass

    def cut(event: Event) -> None:
        if event.text.startswith("race, second seed"):
            raise Cut

    with pytest.raises(Cut):
        nasdistill.search(load_recipe("recipe.yaml", options), on_event=cut)
    before = {c.number: c.race for c in record().candidates if c.race is not None}
    assert len(before) == 1 and not record().finals
    told: list[str] = []
    recipe = load_recipe("recipe.yaml", options)
    seeds: list[int] = []

    def noting(*given: Any) -> Any:
        seeds.append(given[3])
        return rung.start_run(*given)

    monkeypatch.setattr(race, "start_run", noting)
    nasdistill.search(recipe, on_event=lambda e: told.append(e.text))
    after = {c.number: c for c in record().candidates if c.race is not None}
    assert 2 < len(after) <= 4 and sum(t.startswith("race, second") for t in told) == len(after) - 1
    assert after[next(iter(before))].race == before[next(iter(before))]
    assert {final.number for final in record().finals} & set(after)
    assert len(seeds) == len(after) - 1 and recipe.seed not in seeds
    for candidate in after.values():
        assert candidate.race is not None
        assert candidate.race.budget == 2 * candidate.rungs[-1].budget
    assert record().stages["race"] > 0 and not Path("studies/small/race").exists()
    assert nasdistill.search(recipe).already_complete
    assert "in the race, second seed" in Path("reports/small/index.html").read_text()


def test_finals_are_chosen_anew_once_a_trial_that_was_under_way_has_ended(
    here: Path, options: dict[str, object]
) -> None:
    options |= {"race": False, "top_k": 1}
    nasdistill.search(load_recipe("recipe.yaml", {**options, "trials": 4}))
    study = Study.open(load_recipe("recipe.yaml", {**options, "trials": 5}), Path("studies"), "")
    before = stages._basis(study)
    number = study.claim(study.ask(9), {"params": 1000, "macs": 1000, "bytes": 4000})
    assert number is not None and stages._basis(study) == before
    study.end(number, "gone")
    assert stages._basis(study) != before


def test_no_race(here: Path, options: dict[str, object]) -> None:
    nasdistill.search(load_recipe("recipe.yaml", {**options, "race": False}))
    assert record().finals and not any(c.race for c in record().candidates)


def test_a_trial_that_passed_a_rung_is_not_judged_there_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[int, float]] = []
    rule = trials.stop_reason

    def noting(index: int, accuracies: list[float], *rest: Any) -> str | None:
        judged.append((index, accuracies[index]))
        reason = rule(index, accuracies, *rest)
        return None if len(judged) == 1 else reason

    train_rung = trials.train_rung

    def cut_off(*given: Any) -> RungScore:
        if given[3] == 1:
            raise KeyboardInterrupt
        return train_rung(*given)

    recipe = load_recipe("recipe.yaml", {"trials": 1, "workers": 1})
    monkeypatch.setattr(trials, "stop_reason", noting)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trials, "train_rung", cut_off)
        nasdistill.search(recipe)
    (before,) = (c for c in record().candidates if c.rungs)
    assert before.passed == 1 and len(judged) == 1
    nasdistill.search(recipe)
    (after,) = (c for c in record().candidates if c.rungs)
    assert after.state == "complete" and after.rungs[0] == before.rungs[0]
    assert judged.count(judged[0]) == 1


def test_a_search_stops_by_forecasts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[float], list[float]]] = []
    rule = trials.stop_reason

    def noting(
        index: int, accuracies: list[float], forecasts: list[float], *rest: Any
    ) -> str | None:
        asked.append((accuracies, forecasts))
        return rule(index, accuracies, forecasts, *rest)

    monkeypatch.setattr(trials, "stop_reason", noting)
    nasdistill.search(load_recipe("recipe.yaml", {"min_accuracy": 0, "final_budget": "2 epochs"}))
    ranked = sorted((c for c in record().candidates if c.rungs), key=lambda c: c.number)
    first = [c.rungs[0].accuracy for c in ranked]
    accuracies, forecasts = next(pair for pair in asked if pair[0] == first)
    then = [*ranked[:-1], replace(ranked[-1], rungs=ranked[-1].rungs[:1])]
    assert forecasts == pytest.approx(list(forecast_at(then, 0, {}, 1000).guess))
    assert all(c.macs and c.depth for c in ranked), "what a forecast needs was not stored"
    alone = forecast_of([replace(c, macs=None, depth=None) for c in ranked], first, {}, 0.2)
    assert forecasts != pytest.approx(list(alone.guess))
