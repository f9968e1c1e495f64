"""Intervals of proportions. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

TWO_SIDED_95 = 1.959963984540054
ONE_SIDED_95 = 1.6448536269514722
"""Quantiles of the normal distribution: a 95 % interval, and a bound on one side alone."""


class Interval(NamedTuple):
    """The ends of an interval."""

    low: float
    high: float


def wilson(correct: int, n: int, quantile: float = TWO_SIDED_95) -> Interval:
    """The Wilson score interval of a proportion (Wilson 1927).

    Args:
        correct: Successes, 0 to n.
        n: Trials.
        quantile: Of the normal distribution.

    Returns:
        Within [0, 1]; all of it when n is 0.

    Raises:
        ValueError: If `correct` is not between 0 and n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be between 0 and n = {n}, but is {correct}")
    if n == 0:
        return Interval(0.0, 1.0)
    share, z2 = correct / n, quantile * quantile
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = quantile * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return Interval(low, high)


def of_the_mean(counts: Sequence[tuple[int, int]]) -> Interval:
    """The 95 % interval of the mean of independent proportions.

    Their Wilson intervals are joined by the method of variance estimates recovery (Zou and Donner,
    "Construction of confidence limits about effect measures: a general approach", 2008). Of one
    proportion it is the Wilson interval.

    Args:
        counts: Successes and trials of each proportion, trials above 0.

    Returns:
        Within [0, 1]; all of it without proportions.
    """
    if not counts:
        return Interval(0.0, 1.0)
    shares = [correct / n for correct, n in counts]
    intervals = [wilson(correct, n) for correct, n in counts]
    mean = sum(shares) / len(shares)
    below = math.hypot(*(p - i.low for p, i in zip(shares, intervals, strict=True)))
    above = math.hypot(*(i.high - p for p, i in zip(shares, intervals, strict=True)))
    return Interval(max(0.0, mean - below / len(shares)), min(1.0, mean + above / len(shares)))
