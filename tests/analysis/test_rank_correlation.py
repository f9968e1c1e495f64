"""Rank correlations, against figures worked by hand and against SciPy."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from nasdistill.analysis.rank_correlation import bootstrap, kendall, partial, ranks, spearman


def test_ranks_and_correlations() -> None:
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(2 / 3)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)


@pytest.mark.parametrize("levels", [3, 1000])
def test_values_are_those_of_scipy(levels: int) -> None:
    rng = random.Random(levels)
    for count in (4, 9, 30):
        first, second = ([rng.randrange(levels) / levels for _ in range(count)] for _ in range(2))
        assert ranks(first) == stats.rankdata(first).tolist()
        assert kendall(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_a_side_that_does_not_vary_has_no_correlation(recwarn: pytest.WarningsRecorder) -> None:
    for correlation in (spearman, kendall):
        assert correlation([1, 1, 1], [1, 2, 3]) is None
        assert correlation([1, 2, 3], [1, 1, 1]) is None
    assert partial([1, 1, 1], [1, 2, 3], [1, 3, 2]) is None
    assert not recwarn.list


def test_what_goes_with_a_third_figure_is_taken_out() -> None:
    control = [1, 2, 3, 4, 5, 6]
    assert partial([1, 3, 2, 5, 4, 6], [2, 1, 4, 3, 6, 5], control) == pytest.approx(
        (spearman([1, 3, 2, 5, 4, 6], [2, 1, 4, 3, 6, 5]) - 31 / 35 * 29 / 35)
        / ((1 - (31 / 35) ** 2) * (1 - (29 / 35) ** 2)) ** 0.5
    )
    assert partial(control, [2, 1, 4, 3, 6, 5], control) is None


def test_the_interval_holds_the_figure_and_narrows_with_more_examples() -> None:
    def width(count: int) -> float:
        values = [(i * 7919) % 101 for i in range(count)]
        interval = bootstrap(lambda rows: sum(values[i] for i in rows) / len(rows), count)
        assert interval is not None and interval[0] < sum(values) / count < interval[1]
        return interval[1] - interval[0]

    assert width(100) < 0.6 * width(20)
    assert bootstrap(lambda rows: None, 10) is None
