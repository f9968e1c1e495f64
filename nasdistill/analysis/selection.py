"""The choice of the trials that are distilled in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.front import NO_EXPERIENCE, forecast_of
from nasdistill.analysis.pareto import as_points, non_dominated_ranks, select_by_hypervolume
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
    eligible = _eligible(candidates, rule)
    if not eligible:
        return []
    rows = [[guess, *(c.cost(name) or 0.0 for name in rule.costs)] for c, guess in eligible]
    points = as_points(rows)
    front = np.flatnonzero(non_dominated_ranks(points) == 0)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    first = int(np.argmin(points[front, 0]))
    picked = select_by_hypervolume(points[front], reference, rule.count, first)
    return [eligible[front[i]][0] for i in picked]


def _eligible(
    candidates: Sequence[Candidate], rule: SelectionRule
) -> list[tuple[Candidate, float]]:
    """Trials that climbed every rung and reach the floor; forecasts made among all that climbed."""
    scored = [c for c in candidates if c.state == "complete" and c.score is not None]
    scored = [c for c in scored if all(c.cost(name) is not None for name in rule.costs)]
    if not scored:
        return []
    seen = max(c.rungs[-1].budget for c in scored)
    share = 0.0 if rule.final_examples is None else seen / rule.final_examples
    scores = [c.rungs[-1].score for c in scored]
    expected = forecast_of(scored, scores, rule.full_accuracy, share, experience=rule.experience)
    if rule.final_examples is not None and seen < EARLY * rule.final_examples:
        lowest = floor_of(scores, rule.chance)
        able = [score >= lowest for score in scores]
    else:
        able = [c.rungs[-1].high >= rule.min_accuracy - LATER_GAIN for c in scored]
    guesses = map(float, expected.guess)
    return [(c, guess) for c, guess, kept in zip(scored, guesses, able, strict=True) if kept]
