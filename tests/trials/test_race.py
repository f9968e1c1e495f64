"""The last rungs' race, on a real study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nasdistill
from nasdistill.analysis.front import forecast_of
from nasdistill.analysis.selection import contenders, race_adjusted, select_finals
from nasdistill.api import searching
from nasdistill.common.events import Event
from nasdistill.recipe import load_recipe
from nasdistill.results import Candidate, RungScore, StudyRecord, load_study
from nasdistill.study import Study
from nasdistill.trials import race
from nasdistill.trials import trial as trials


def trial(number: int, accuracy: float, params: int, race: float | None = None) -> Candidate:
    def score(value: float) -> RungScore:
        return RungScore(0, 1000, value, value - 0.01, value + 0.01, 0.5, 1.0)

    return Candidate(
        number=number,
        state="complete",
        architecture={},
        fingerprint=str(number),
        parameters={},
        params=params,
        rungs=(score(accuracy),),
        race=None if race is None else score(race),
    )


def numbers(found: list[Candidate]) -> list[int]:
    return [c.number for c in found]


def test_who_cannot_be_told_apart_contends() -> None:
    some = [trial(n, 0.80 - 0.001 * n, 1000 + n) for n in range(9)]
    assert numbers(select_finals(some, ("params",), 2, 0.0, 10_000)) == [0]
    # All but the first are dominated, and hardly worse: as many again as there are to be finals.
    assert numbers(contenders(some, ("params",), 2, 0.0, 10_000)) == [0, 1, 2]
    assert contenders([], ("params",), 2, 0.0, 10_000) == []


def test_who_lies_far_behind_does_not() -> None:
    some = [trial(0, 0.90, 1000), *(trial(n, 0.10 + 0.001 * n, 2000) for n in range(1, 9))]
    assert contenders(some, ("params",), 1, 0.0, 10_000) == []


def test_the_race_decides() -> None:
    some = [trial(0, 0.80, 1000), trial(1, 0.79, 1000), trial(2, 0.50, 1000)]
    assert numbers(select_finals(some, ("params",), 1, 0.0, 10_000)) == [0]
    raced = [trial(0, 0.80, 1000, 0.82), trial(1, 0.79, 1000, 0.87), some[2]]
    assert numbers(select_finals(raced, ("params",), 1, 0.0, 10_000)) == [1]


def test_who_did_not_race_stands_beside_those_who_did() -> None:
    raced = [trial(0, 0.80, 1000, 0.82), trial(1, 0.78, 1000, 0.86), trial(2, 0.81, 1000)]
    # The race added 0.02 and 0.08: 0.05 in the mean.
    assert race_adjusted(raced) == pytest.approx([0.77, 0.81, 0.81])
    assert race_adjusted(raced[2:]) == [0.81] and race_adjusted([]) == []


def test_a_score_of_nearly_a_full_run_is_followed_where_one_of_a_short_run_is_not() -> None:
    some = [trial(n, 0.80 + 0.001 * n, 1000) for n in range(5)]
    some = [replace(c, macs=10 ** (9 - c.number), depth=9 - c.number) for c in some]
    # The least accurate is the largest and deepest.
    assert numbers(select_finals(some, ("params",), 1, 0.0, None)) == [0]
    assert numbers(select_finals(some, ("params",), 1, 0.0, 100_000)) == [0]
    assert numbers(select_finals(some, ("params",), 1, 0.0, 1250)) == [4]


@pytest.fixture
def options() -> dict[str, object]:
    return {"trials": 6, "stopping": False, "min_accuracy": 0, "final_budget": "7 epochs"}


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
        seeds.append(given[4])
        return trials.start_run(*given)

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
    before = searching._choice(study)
    number = study.claim(study.ask(9), {"params": 1000, "macs": 1000, "bytes": 4000})
    assert number is not None and searching._choice(study) == before
    study.end(number, "gone")
    assert searching._choice(study) != before


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
    assert forecasts == pytest.approx(list(forecast_of(ranked, first, {}, 0.2).guess))
    assert all(c.macs and c.depth for c in ranked), "what a forecast needs was not stored"
    alone = forecast_of([replace(c, macs=None, depth=None) for c in ranked], first, {}, 0.2)
    assert forecasts != pytest.approx(list(alone.guess))
