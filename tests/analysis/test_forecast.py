"""Forecasts of accuracy after full runs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nasdistill.analysis.forecast import ENOUGH, TYPICAL, forecast
from nasdistill.analysis.rank_correlation import kendall


def test_before_any_full_run_score_macs_and_depth_count_alike() -> None:
    scores, macs, depth = [0.5, 0.6, 0.7, 0.4], [10, 1000, 100, 100], [3, 5, 9, 1]
    expected = forecast(scores, macs, [7, 9, 8, 5], depth, [None] * 4, 0.0)
    columns = (np.array(scores), np.log(macs), np.array(depth))
    total = sum((column - column.mean()) / column.std() for column in columns)
    assert isinstance(total, np.ndarray)
    assert expected.guess == pytest.approx(total / total.std())
    assert set(expected.deviation) == {TYPICAL}
    assert expected.high - expected.low == pytest.approx(2 * 1.96 * TYPICAL)


def test_the_more_of_a_full_run_a_score_has_seen_the_less_macs_and_depth_count() -> None:
    scores, macs, depth = [0.5, 0.6, 0.7, 0.4], [10, 1000, 100, 100], [3, 5, 9, 1]
    blank = [None] * 4
    half = forecast(scores, macs, blank, depth, blank, 0.5)
    score, *rest = [
        (c - c.mean()) / c.std() for c in (np.array(scores), np.log(macs), np.array(depth))
    ]
    total = score + 0.5 * sum(rest)
    assert half.guess == pytest.approx(total / total.std())
    for whole in (1.0, 1.5):
        assert forecast(scores, macs, blank, depth, blank, whole).guess == pytest.approx(score)


@pytest.mark.parametrize(
    ("macs", "why"),
    [
        ([1, 1000, 10], "three trials say nothing of MACs"),
        ([1, 1000, None, 10], "one of them is not known"),
        ([50, 50, 50, 50], "all are alike"),
    ],
)
def test_where_macs_tell_nothing_the_score_decides(macs: list[int | None], why: str) -> None:
    scores = [0.9, 0.1, 0.5, 0.3][: len(macs)]
    blank = [None] * len(macs)
    expected = forecast(scores, macs, blank, blank, blank, 0.0)
    assert list(np.argsort(expected.guess)) == list(np.argsort(scores)), why


def drawn(count: int) -> tuple[list[float], list[int], list[int], list[int], list[float]]:
    """Trials whose full accuracy follows depth, with a score that says nothing."""
    rng = random.Random(1)
    depth = [rng.randrange(4, 40) for _ in range(count)]
    scores = [rng.random() for _ in range(count)]
    macs = [rng.randrange(1000, 9000) for _ in range(count)]
    truth = [0.8 + 0.002 * d + rng.gauss(0, 0.002) for d in depth]
    return scores, macs, macs, depth, truth


def test_full_runs_teach_what_counts() -> None:
    scores, macs, params, depth, truth = drawn(40)

    def tau(known: int) -> float:
        full = [t if i < known else None for i, t in enumerate(truth)]
        guess = forecast(scores, macs, params, depth, full, 0.0).guess
        return kendall(list(guess[20:]), truth[20:]) or 0.0

    assert tau(ENOUGH - 1) == tau(0)
    assert tau(0) < 0.6 and tau(20) > 0.8


def test_what_is_far_from_all_that_is_known_is_less_certain() -> None:
    scores, macs, params, depth, truth = drawn(30)
    full = [t if i < 20 else None for i, t in enumerate(truth)]
    depth[-1] = 400
    expected = forecast(scores, macs, params, depth, full, 0.0)
    assert (
        expected.deviation[-1]
        == expected.deviation.max()
        > 2 * float(np.median(expected.deviation))
    )


def test_equal_full_accuracies_teach_nothing() -> None:
    scores, macs, params, depth, _ = drawn(20)
    same = forecast(scores, macs, params, depth, [0.8] * 20, 0.0)
    assert same.guess == pytest.approx(
        forecast(scores, macs, params, depth, [None] * 20, 0.0).guess
    )


def test_one_trial() -> None:
    assert forecast([0.3], [10], [10], [1], [None], 0.0).guess == pytest.approx([0.0])
