"""Which trials become finals."""

from __future__ import annotations

from nasdistill.analysis.selection import select_finals
from nasdistill.results import Candidate, RungScore


def trial(number: int, accuracy: float, params: int, state: str = "complete") -> Candidate:
    score = RungScore(0, 1000, accuracy, accuracy - 0.01, accuracy + 0.01, 0.5, 1.0)
    return Candidate(
        number=number,
        state=state,
        architecture={},
        fingerprint=str(number),  # type: ignore[arg-type]
        parameters={},
        params=params,
        rungs=(score,),
    )


TRIALS = [
    trial(0, 0.80, 10_000),
    trial(1, 0.90, 100_000),
    trial(2, 0.899, 98_000),
    trial(3, 0.85, 20_000),
    trial(4, 0.84, 60_000),
    trial(5, 0.30, 500),
]


def chosen(count: int, min_accuracy: float = 0.0) -> list[int]:
    return [c.number for c in select_finals(TRIALS, ("params",), count, min_accuracy, 10_000)]


def test_the_most_accurate_first_then_spread_and_no_neighbour() -> None:
    assert chosen(1) == [1]
    assert chosen(3, 0.7) == [1, 3, 0]


def test_none_is_dominated() -> None:
    assert set(chosen(9)) == {0, 1, 2, 3, 5}


def test_a_score_may_lie_below_the_floor_by_what_a_full_run_adds() -> None:
    assert chosen(9, 0.905) == [1, 3, 2]  # 0.85 + 0.01 (interval) + 0.05 (later gain) reaches it
    assert chosen(9, 0.915) == [1, 2]
    assert chosen(9, 0.99) == []


def test_trials_without_a_score_are_left_out() -> None:
    blank = Candidate(9, "failed", {}, "9", {}, params=10)
    assert [c.number for c in select_finals([blank, TRIALS[0]], ("params",), 5, 0.0, 10_000)] == [0]
