"""Forecasts of accuracy after full runs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from nasdistill.analysis.forecast import ENOUGH, TYPICAL, Array, forecast
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
    total = score + 0.5**4 * sum(rest)
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


Figures = tuple[list[float], list[int], list[int], list[int]]


def unlike(count: int) -> Figures:
    """Scores, MACs, parameters and depth that have nothing to do with each other."""
    rng = random.Random(2)
    scores = [rng.random() for _ in range(count)]
    return scores, *([rng.randrange(10, 900) for _ in range(count)] for _ in range(3))


def weights(figures: Figures, guess: Sequence[float] | Array) -> Array:
    """The weights of the four standardised figures in a guess, found by least squares."""
    scores, *counts = [np.array(column, dtype=float) for column in figures]
    columns = [scores, np.log(counts[0]), np.log(counts[1]), counts[2]]
    z = np.column_stack([(column - column.mean()) / column.std() for column in columns])
    coefficients: Array = np.linalg.lstsq(z, np.array(guess), rcond=None)[0]
    return coefficients


def test_the_next_rung_teaches_by_ridge_regression_towards_the_prior() -> None:
    figures = unlike(20)
    later = [None if i % 3 else 0.1 * i + math.sin(i) for i in range(20)]
    blank = [None] * 20
    taught = forecast(*figures, blank, 0.0, later).guess
    prior = weights(figures, forecast(*figures, blank, 0.0).guess)
    # The penalty as eight pseudo-trials for each weight: one row of sqrt(8) whose label is the
    # prior's, which plain least squares then fits along with the seven trials that climbed.
    columns = [figures[0], np.log(figures[1]), np.log(figures[2]), figures[3]]
    z = np.column_stack([(np.array(c) - np.mean(c)) / np.std(c) for c in columns])
    climbed = z[::3] - z[::3].mean(axis=0)
    labels = np.array([label for label in later if label is not None])
    y = (labels - labels.mean()) / labels.std()
    rows = np.vstack([climbed, math.sqrt(8) * np.eye(4)])
    fitted = np.linalg.lstsq(rows, np.append(y, math.sqrt(8) * prior), rcond=None)[0]
    assert taught == pytest.approx(z @ fitted / (z @ fitted).std())


def test_a_figure_that_says_nothing_loses_weight_and_one_that_tells_gains() -> None:
    shares = []
    for count in (24, 96, 1000):
        figures = unlike(count)
        scores, macs, _, _ = figures
        later = [s + 0.5 * math.log(m) for s, m in zip(scores, macs, strict=True)]  # no depth
        after = weights(figures, forecast(*figures, [None] * count, 0.0, later).guess)
        shares.append(after / np.abs(after).sum())
    by_score, by_macs, _, by_depth = np.transpose(shares)
    # A third of the prior each; in the labels as much as each varies there.
    ratio = 0.5 * np.std(np.log(macs)) / np.std(scores)
    assert by_macs[2] / by_score[2] == pytest.approx(ratio, rel=0.05)
    assert min(by_macs) > 1 / 3
    assert 1 / 3 > by_depth[0] > by_depth[1] > by_depth[2]
    assert abs(by_depth[2]) < 0.01


def test_few_or_equal_labels_of_the_next_rung_teach_nothing() -> None:
    figures = unlike(20)
    blank = [None] * 20
    before = forecast(*figures, blank, 0.0).guess
    for later in ([0.1, 0.7, 0.3] + [None] * 17, [0.5] * 9 + [None] * 11):
        assert list(forecast(*figures, blank, 0.0, later).guess) == list(before)


def test_equal_full_accuracies_teach_nothing() -> None:
    scores, macs, params, depth, _ = drawn(20)
    same = forecast(scores, macs, params, depth, [0.8] * 20, 0.0)
    assert same.guess == pytest.approx(
        forecast(scores, macs, params, depth, [None] * 20, 0.0).guess
    )


def test_one_trial() -> None:
    assert forecast([0.3], [10], [10], [1], [None], 0.0).guess == pytest.approx([0.0])
