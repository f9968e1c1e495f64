"""Rank correlations, against figures worked by hand."""

from __future__ import annotations

import pytest

from nasdistill.analysis.rank_correlation import bootstrap, kendall, partial, ranks, spearman


def test_ranks_and_correlations() -> None:
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(2 / 3)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_what_goes_with_a_third_figure_is_taken_out() -> None:
    given = [1, 2, 3, 4, 5, 6]
    assert partial([1, 3, 2, 5, 4, 6], [2, 1, 4, 3, 6, 5], given) == pytest.approx(
        (spearman([1, 3, 2, 5, 4, 6], [2, 1, 4, 3, 6, 5]) - 31 / 35 * 29 / 35)
        / ((1 - (31 / 35) ** 2) * (1 - (29 / 35) ** 2)) ** 0.5
    )
    assert partial(given, [2, 1, 4, 3, 6, 5], given) is None


def test_the_interval_holds_the_figure_and_narrows_with_more_examples() -> None:
    def width(count: int) -> float:
        values = [(i * 7919) % 101 for i in range(count)]
        found = bootstrap(lambda rows: sum(values[i] for i in rows) / len(rows), count)
        assert found is not None and found[0] < sum(values) / count < found[1]
        return found[1] - found[0]

    assert width(100) < 0.6 * width(20)
    assert bootstrap(lambda rows: None, 10) is None
