"""Rank correlations, and their uncertainty.

`scipy.stats` gives the same values (a test compares them), but a call of it costs 0.3 to 0.4 ms
whatever its input, ours 0.02 to 0.06 ms for 5 to 40 examples. A bootstrap makes a thousand calls:
with `kendalltau` and `spearmanr` the analysis of an audit of 20 trials took 7.7 s instead of 0.8 s.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    differences = np.subtract.outer(values, values)
    smaller, equal = (differences > 0).sum(axis=1), (differences == 0).sum(axis=1)
    return [float(rank) for rank in 0.5 + smaller + equal / 2]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, in [-1, 1]; None where one side does not vary."""
    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    spread = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    if spread == 0:
        return None
    return sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / spread


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, in [-1, 1]; None where one side does not vary."""
    a, b = (np.sign(np.subtract.outer(side, side)) for side in map(np.asarray, (first, second)))
    spread = math.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float((a * b).sum()) / spread if spread else None


def partial(
    first: Sequence[float], second: Sequence[float], control: Sequence[float]
) -> float | None:
    """Spearman's correlation of two figures with the part that goes with a third taken out.

    (r_ab − r_ac r_bc) ÷ √((1 − r_ac²)(1 − r_bc²)).

    Returns:
        In [-1, 1]; None where a side does not vary, or follows the third wholly.
    """
    ab, ac, bc = spearman(first, second), spearman(first, control), spearman(second, control)
    if ab is None or ac is None or bc is None:
        return None
    spread = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / math.sqrt(spread) if spread > 1e-12 else None


def vote(figures: Sequence[Sequence[float]]) -> list[float]:
    """The share of the others that each is placed above by most of several figures.

    Args:
        figures: A row for each, of one length; the larger, the better.

    Returns:
        In [0, 1] for each row; a pair on which the figures are split gives half a point to both.
    """
    wins = [0.0] * len(figures)
    for i, row in enumerate(figures):
        for j, other in enumerate(figures[:i]):
            sides = sum((a > b) - (a < b) for a, b in zip(row, other, strict=True))
            share = 0.5 if sides == 0 else float(sides > 0)
            wins[i] += share
            wins[j] += 1.0 - share
    return [won / max(1, len(figures) - 1) for won in wins]


def bootstrap(
    statistic: Callable[[Sequence[int]], float | None], count: int, seed: int = 0
) -> tuple[float, float] | None:
    """A 95 % percentile interval by drawing examples with replacement (Efron, 1979).

    Args:
        statistic: The figure of the examples of these indices.
        count: Number of examples.
        seed: Of the draws.

    Returns:
        `(low, high)`; None where fewer than half of the draws give a figure.
    """
    rng = random.Random(seed)
    resamples = ([rng.randrange(count) for _ in range(count)] for _ in range(RESAMPLES))
    values = sorted(v for v in map(statistic, resamples) if v is not None)
    if len(values) < RESAMPLES / 2:
        return None
    return values[int(0.025 * len(values))], values[min(len(values) - 1, int(0.975 * len(values)))]
