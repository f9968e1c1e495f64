"""The choice of the trials that are distilled in full, and of those that race for it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import numpy as np

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.forecast import Forecast
from nasdistill.analysis.front import NO_EXPERIENCE, forecast_of
from nasdistill.analysis.pareto import (
    Points,
    as_points,
    best,
    non_dominated_ranks,
    select_by_hypervolume,
)
from nasdistill.analysis.stopping import floor_of
from nasdistill.common.types import Cost
from nasdistill.results import Candidate

LATER_GAIN = 0.05
"""Gain of a full run over the score of a third of one, in [0, 1]: 0.045 to 0.067 in the first six
measured."""
EARLY = 0.25
"""Share of a full run below which a score says too little of the accuracy after one to be held
against a floor of it: at a twentieth the gain is 0.1 to 0.3."""


@dataclass(frozen=True)
class SelectionRule:
    """The rule by which finals are chosen.

    Attributes:
        costs: The costs that the study minimises.
        count: Number of finals to choose, at most.
        min_accuracy: Lowest score, in [0, 1], of a full run. A score whose interval comes within
            `LATER_GAIN` of it counts; of scores from the first `EARLY` of a full run, all that are
            not hopeless beside the best.
        final_examples: Training examples of a full run; None where the study does not know, and
            scores are taken for very short ones.
        full_accuracy: Accuracy after full runs on the audit half, in [0, 1], by trial number.
        experience: What earlier full runs teach.
        chance: Score of guessing.
    """

    costs: Sequence[Cost]
    count: int
    min_accuracy: float
    final_examples: int | None
    full_accuracy: Mapping[int, float] = field(default_factory=dict)
    experience: Experience = NO_EXPERIENCE
    chance: float = 0.0


def select_finals(candidates: Sequence[Candidate], rule: SelectionRule) -> list[Candidate]:
    """The top-k: spread along the front of (forecast, costs) by the hypervolume each adds.

    The one with the highest forecast comes first; then whichever adds the most to those before.

    Args:
        candidates: All trials.
        rule: Number of finals, costs, and floor of accuracy.
    """
    return _select(_eligible(candidates, rule), rule.count)


def contenders(candidates: Sequence[Candidate], rule: SelectionRule) -> list[Candidate]:
    """The top-k and those next in line whose forecasts cannot be told from theirs.

    Args:
        candidates: All trials.
        rule: As of `select_finals`; at most twice as many contend as there are to be finals.

    Returns:
        Empty where the choice is clear.
    """
    eligible = _eligible(candidates, rule)
    finals = _select(eligible, rule.count)
    if not finals:
        return []
    forecast = eligible.forecast
    chosen = [i for i, c in enumerate(eligible.candidates) if c in finals]
    weakest = min(forecast.low[i] for i in chosen)
    ranked = best(eligible.points, len(eligible.candidates))
    rivals = [i for i in ranked if i not in chosen and forecast.high[i] >= weakest]
    next_in_line = [eligible.candidates[i] for i in rivals[: rule.count]]
    return [*finals, *next_in_line] if rivals else []


def race_adjusted(candidates: Sequence[Candidate]) -> list[float]:
    """Scores at the last rung, in [0, 1], with those of the race in the place of the first.

    A score of the race counts less the mean of what the race added, so that it stands beside those
    of trials that were not in it.

    Args:
        candidates: Trials that climbed every rung.
    """
    added = [c.race.score - (c.score or 0.0) for c in candidates if c.race is not None]
    gain = fmean(added) if added else 0.0
    return [(c.score or 0.0) if c.race is None else c.race.score - gain for c in candidates]


class _Eligible(NamedTuple):
    """Trials that may become finals, in the order of their numbers.

    Attributes:
        candidates: Those that climbed every rung and reach the floor.
        forecast: Of these, made among all that climbed every rung.
        points: float64 `[N, 1 + costs]`: forecasts and costs, every column minimised.
    """

    candidates: list[Candidate]
    forecast: Forecast
    points: Points


def _eligible(candidates: Sequence[Candidate], rule: SelectionRule) -> _Eligible:
    none = np.empty((0, 1 + len(rule.costs)))
    scored = [c for c in candidates if c.state == "complete" and c.score is not None]
    scored = [c for c in scored if all(c.cost(name) is not None for name in rule.costs)]
    if not scored:
        return _Eligible([], Forecast(np.empty(0), np.empty(0)), none)
    # One share for all, that of the race where there was one: the choice is between its contenders.
    seen = max((c.race or c.rungs[-1]).budget for c in scored)
    share = 0.0 if rule.final_examples is None else seen / rule.final_examples
    expected = forecast_of(
        scored, race_adjusted(scored), rule.full_accuracy, share, experience=rule.experience
    )
    scores = [c.rungs[-1].score for c in scored]
    if rule.final_examples is not None and seen < EARLY * rule.final_examples:
        lowest = floor_of(scores, rule.chance)
        able = [i for i, score in enumerate(scores) if score >= lowest]
    else:
        lowest = rule.min_accuracy - LATER_GAIN
        able = [i for i, c in enumerate(scored) if c.rungs[-1].high >= lowest]
    forecast = Forecast(expected.guess[able], expected.deviation[able])
    kept = [scored[i] for i in able]
    rows = [
        [guess, *(c.cost(name) or 0.0 for name in rule.costs)]
        for guess, c in zip(forecast.guess, kept, strict=True)
    ]
    return _Eligible(kept, forecast, as_points(rows) if rows else none)


def _select(eligible: _Eligible, count: int) -> list[Candidate]:
    points = eligible.points
    if not len(points):
        return []
    front = np.flatnonzero(non_dominated_ranks(points) == 0)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    first = int(np.argmin(points[front, 0]))
    picked = select_by_hypervolume(points[front], reference, count, first)
    return [eligible.candidates[front[i]] for i in picked]
