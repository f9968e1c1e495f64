"""Intervals against published figures."""

from __future__ import annotations

import pytest

from nasdistill.common.intervals import ONE_SIDED_95, of_the_mean, wilson


def test_wilson_interval() -> None:
    # 81 of 263: Newcombe (1998), example of method 3 without continuity correction.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(0, 20)
    assert (low, round(high, 4)) == (0.0, 0.1611)
    low, high = wilson(20, 20)
    assert (round(low, 4), high) == (0.8389, 1.0)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and n = 3, but is 4"):
        wilson(4, 3)


def test_a_bound_on_one_side_is_narrower() -> None:
    # Upper bound for 0 of n: z² ÷ (n + z²), with z = 1.6449.
    assert wilson(0, 20, ONE_SIDED_95).high == pytest.approx(2.7055 / 22.7055, abs=1e-4)
    assert wilson(2, 2, ONE_SIDED_95).high == 1.0


def test_the_interval_of_a_mean_of_proportions() -> None:
    assert of_the_mean([(81, 263)]) == pytest.approx(wilson(81, 263))
    assert of_the_mean([]) == (0.0, 1.0)
    one, both = of_the_mean([(80, 100)]), of_the_mean([(80, 100), (80, 100)])
    # Two of the same: the half of the interval shrinks by √2.
    assert 0.8 - both.low == pytest.approx((0.8 - one.low) / 2**0.5)
    assert both.high - 0.8 == pytest.approx((one.high - 0.8) / 2**0.5)
    assert of_the_mean([(5, 5), (5, 5)]).high == 1.0
