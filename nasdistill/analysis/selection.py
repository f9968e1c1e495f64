"""Which trials are distilled in full, and which of them race for it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from nasdistill.analysis.forecast import Forecast
from nasdistill.analysis.front import forecast_of
from nasdistill.analysis.pareto import (
    Points,
    as_points,
    best,
    non_dominated_ranks,
    select_by_hypervolume,
)
from nasdistill.common.types import Cost
from nasdistill.results import Candidate

LATER_GAIN = 0.05
"""What a full run adds to a short score, in [0, 1]: 0.045 to 0.067 in the first six measured."""


def select_finals(
    candidates: Sequence[Candidate],
    costs: Sequence[Cost],
    count: int,
    min_accuracy: float,
    final_examples: int | None,
    full: Mapping[int, float] | None = None,
) -> list[Candidate]:
    """The top-k: spread along the front of (forecast, costs) by the hypervolume each adds.

    The one with the highest forecast comes first; then whichever adds the most to those before.

    Args:
        candidates: All trials.
        costs: The costs that the study minimises.
        count: How many to choose, at most.
        min_accuracy: Lowest score, in [0, 1]; one whose interval comes within `LATER_GAIN` of it
            still counts, because a full run scores higher than a short one.
        final_examples: Training examples of a full run; None where the study does not know, and
            scores are taken for very short ones.
        full: Accuracy after full runs on the audit half, by trial number.
    """
    able, _, points = _able(candidates, costs, min_accuracy, final_examples, full or {})
    if not able:
        return []
    front = np.flatnonzero(non_dominated_ranks(points) == 0)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    first = int(np.argmin(points[front, 0]))
    return [able[front[i]] for i in select_by_hypervolume(points[front], reference, count, first)]


def contenders(
    candidates: Sequence[Candidate],
    costs: Sequence[Cost],
    count: int,
    min_accuracy: float,
    final_examples: int | None,
    full: Mapping[int, float] | None = None,
) -> list[Candidate]:
    """The top-k and those next in line whose forecasts cannot be told from theirs.

    Args:
        candidates: All trials.
        costs: The costs that the study minimises.
        count: Finals to be made; at most twice as many contend.
        min_accuracy: As of `select_finals`.
        final_examples: As of `select_finals`.
        full: As of `select_finals`.

    Returns:
        Empty where the choice is clear.
    """
    chosen = select_finals(candidates, costs, count, min_accuracy, final_examples, full)
    able, expected, points = _able(candidates, costs, min_accuracy, final_examples, full or {})
    if not chosen:
        return []
    inside = [i for i, c in enumerate(able) if c in chosen]
    weakest = min(expected.low[i] for i in inside)
    rivals = [i for i in best(points, len(able)) if i not in inside and expected.high[i] >= weakest]
    return [*chosen, *(able[i] for i in rivals[:count])] if rivals else []


def race_adjusted(candidates: Sequence[Candidate]) -> list[float]:
    """Scores at the last rung, in [0, 1], with those of the race in the place of the first.

    A score of the race counts less the mean of what the race added, so that it stands beside those
    of trials that were not in it.

    Args:
        candidates: Trials that climbed every rung.
    """
    added = [c.race.accuracy - (c.score or 0.0) for c in candidates if c.race is not None]
    gain = fmean(added) if added else 0.0
    return [(c.score or 0.0) if c.race is None else c.race.accuracy - gain for c in candidates]


def _able(
    candidates: Sequence[Candidate],
    costs: Sequence[Cost],
    min_accuracy: float,
    final_examples: int | None,
    full: Mapping[int, float],
) -> tuple[list[Candidate], Forecast, Points]:
    """Those that climbed every rung and reach the floor, their forecasts, and both as points."""
    there = [c for c in candidates if c.state == "complete" and c.score is not None]
    there = [c for c in there if all(c.cost(name) is not None for name in costs)]
    if not there:
        return [], Forecast(np.empty(0), np.empty(0)), np.empty((0, 1 + len(costs)))
    # One share for all, that of the race where there was one: its contenders are who it is about.
    seen = max((c.race or c.rungs[-1]).budget for c in there)
    share = 0.0 if final_examples is None else seen / final_examples
    expected = forecast_of(there, race_adjusted(there), full, share)
    reach = [i for i, c in enumerate(there) if c.rungs[-1].high + LATER_GAIN >= min_accuracy]
    kept = Forecast(expected.guess[reach], expected.deviation[reach])
    able = [there[i] for i in reach]
    rows = [
        [guess, *(c.cost(name) or 0.0 for name in costs)]
        for guess, c in zip(kept.guess, able, strict=True)
    ]
    return able, kept, as_points(rows) if rows else np.empty((0, 1 + len(costs)))
