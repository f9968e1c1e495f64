"""The choice of the trials that become finals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nasdistill.analysis.selection import SelectionRule, select_finals
from nasdistill.results import Candidate, RungScore


def trial(number: int, accuracy: float, params: int) -> Candidate:
    score = RungScore(0, 1000, accuracy, accuracy - 0.01, accuracy + 0.01, 0.5, 1.0)
    return Candidate(
        number=number,
        state="complete",
        architecture={},
        fingerprint=str(number),
        parameters={},
        params=params,
        rungs=(score,),
    )


def rule(count: int, min_accuracy: float = 0.0, final_examples: int | None = 3000) -> SelectionRule:
    return SelectionRule(("params",), count, min_accuracy, final_examples)


def finals(candidates: Sequence[Candidate], rule: SelectionRule) -> list[int]:
    return [c.number for c in select_finals(candidates, rule)]


TRIALS = [
    trial(0, 0.80, 10_000),
    trial(1, 0.90, 100_000),
    trial(2, 0.899, 98_000),
    trial(3, 0.85, 20_000),
    trial(4, 0.84, 60_000),
    trial(5, 0.30, 500),
]


def test_the_most_accurate_first_then_spread_and_no_neighbour() -> None:
    assert finals(TRIALS, rule(1)) == [1]
    assert finals(TRIALS, rule(3, 0.7)) == [1, 3, 0]


def test_none_is_dominated() -> None:
    assert set(finals(TRIALS, rule(9))) == {0, 1, 2, 3, 5}


def test_a_score_may_lie_below_the_floor_by_what_a_full_run_adds() -> None:
    # 0.85 + 0.01 (interval) + 0.05 (later gain) reaches it.
    assert finals(TRIALS, rule(9, 0.905)) == [1, 3, 2]
    assert finals(TRIALS, rule(9, 0.915)) == [1, 2]
    assert finals(TRIALS, rule(9, 0.99)) == []


def test_trials_without_a_score_are_left_out() -> None:
    failed = Candidate(9, "failed", {}, "9", {}, params=10)
    assert finals([failed, TRIALS[0]], rule(5)) == [0]


def test_scores_of_very_short_runs_are_not_held_against_a_floor_of_full_ones() -> None:
    early = replace(rule(9, 0.99), final_examples=20_000, chance=0.1)
    # The floor asks more than any score; only what is hopeless beside the best is left out.
    assert set(finals(TRIALS, early)) == {0, 1, 2, 3}
    assert finals(TRIALS, replace(early, final_examples=4000)) == []


def test_a_score_of_nearly_a_full_run_is_followed_where_one_of_a_short_run_is_not() -> None:
    candidates = [trial(n, 0.80 + 0.001 * n, 1000) for n in range(5)]
    candidates = [replace(c, macs=10 ** (9 - c.number), depth=9 - c.number) for c in candidates]
    # The least accurate is the largest and deepest.
    assert finals(candidates, rule(1, final_examples=None)) == [0]
    assert finals(candidates, rule(1, final_examples=100_000)) == [0]
    assert finals(candidates, rule(1, final_examples=1250)) == [4]


def test_full_runs_of_many_trials_outweigh_their_scores() -> None:
    candidates = [replace(trial(n, 0.80, 1000), macs=1000, depth=4 + n) for n in range(20)]
    full = {c.number: 0.90 - 0.01 * c.number for c in candidates}
    assert finals(candidates, rule(1)) == [19]
    assert finals(candidates, replace(rule(1), full_accuracy=full)) == [0]
