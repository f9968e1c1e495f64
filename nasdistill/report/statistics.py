"""Small statistics of the report: fronts and correlation ratios."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

MIN_TRIALS = 8
"""Trials that a parameter must be present in to say anything about it."""


def front_of_two(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Finds the points that no other beats in both cost (down) and score (up).

    Args:
        costs: One cost per point.
        scores: One score per point.

    Returns:
        Indices of the front by rising cost; of equal points the first alone.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i], i))
    front: list[int] = []
    best = -math.inf
    for index in order:
        if scores[index] > best:
            front.append(index)
            best = scores[index]
    return front


class Ratio(NamedTuple):
    """The share of the scores' variance that goes with one parameter.

    Attributes:
        share: Eta squared: variance between the groups ÷ total variance, in [0, 1].
        chance: The mean share with unrelated scores, (groups − 1) ÷ (trials − 1).
        trials: Number of scores.
        groups: Number of groups.
    """

    share: float
    chance: float
    trials: int
    groups: int


def correlation_ratio(values: Sequence[Hashable], scores: Sequence[float]) -> Ratio | None:
    """Eta squared of the scores, grouped by a parameter's value.

    Numbers with more than four different values are grouped by tercile, all else by value.

    Args:
        values: The parameter's value in each trial.
        scores: The score of each trial.

    Returns:
        The ratio, or None where there is one group only or the scores do not vary.
    """
    groups: dict[Hashable, list[float]] = {}
    for key, score in zip(_terciles(values), scores, strict=True):
        groups.setdefault(key, []).append(score)
    mean = sum(scores) / len(scores) if scores else 0.0
    total = sum((score - mean) ** 2 for score in scores)
    if len(groups) < 2 or total <= 1e-15:
        return None
    between = sum(len(g) * (sum(g) / len(g) - mean) ** 2 for g in groups.values())
    chance = (len(groups) - 1) / (len(scores) - 1)
    return Ratio(min(1.0, between / total), chance, len(scores), len(groups))


def _terciles(values: Sequence[Hashable]) -> list[Hashable]:
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(set(numbers)) <= 4:
        return list(values)
    ordered = sorted(numbers)
    low, high = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]
    return [(number >= low) + (number >= high) for number in numbers]


def importances(
    trials: Sequence[tuple[Mapping[str, Hashable], float]], min_trials: int = MIN_TRIALS
) -> dict[str, Ratio]:
    """Eta squared by parameter, from the trials in which the parameter is present.

    Args:
        trials: Sampled values by dotted name, and the score, of each trial.
        min_trials: A parameter present in fewer trials is left out.

    Returns:
        Ratios by parameter, the one that exceeds chance the most first.
    """
    ratios: dict[str, Ratio] = {}
    for name in dict.fromkeys(name for values, _ in trials for name in values):
        present = [(values[name], score) for values, score in trials if name in values]
        if len(present) < min_trials:
            continue
        ratio = correlation_ratio([value for value, _ in present], [s for _, s in present])
        if ratio is not None:
            ratios[name] = ratio
    return dict(sorted(ratios.items(), key=lambda item: item[1].chance - item[1].share))
