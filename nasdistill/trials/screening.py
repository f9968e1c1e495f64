"""Candidates drawn by the hundred, counted and foretold; those that may beat the front are tried.

A sampler that begins with nothing learns little from twenty trials. Earlier full runs know which
architectures are worth one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.forecast import Array
from nasdistill.analysis.latency_guess import guess_latency
from nasdistill.analysis.pareto import Points, hypervolume, non_dominated_ranks
from nasdistill.analysis.selection import EARLY
from nasdistill.common.types import Cost
from nasdistill.results import Candidate, keys
from nasdistill.results.experience import EarlierRun, Untrained, read_stored, untrained_of
from nasdistill.study import Proposer
from nasdistill.trials.candidate_pool import candidate_pool
from nasdistill.trials.context import StudyContext

TURNS = 3
"""One in so many trials is left to the sampler, which has seen this study's scores."""
LEAST_WEIGHT = 1.0
"""Weight of experience from which on it chooses: less tells no more than a short score."""


class Foretold(NamedTuple):
    """A candidate that is expected to beat the front.

    Attributes:
        parameters: Its values by dotted name, for the sampler.
        guess: Of its full run, in standard deviations of earlier ones.
    """

    parameters: Mapping[str, Any]
    guess: float


def draws_candidates(context: StudyContext) -> bool:
    """Whether a study chooses some of its trials from a pool of candidates."""
    return context.recipe.sampler == "tpe" and context.experience.weight >= LEAST_WEIGHT


def foretell(context: StudyContext, proposer: Proposer) -> Foretold | None:
    """The candidate of the pool that is expected to add the most to the front of those tried.

    Args:
        context: The study's.
        proposer: Of the study as it stands; with the study's seed and trials it decides.

    Returns:
        None where it is the sampler's turn, or earlier full runs say too little.
    """
    if proposer.count % TURNS == 0 or not draws_candidates(context):
        return None
    candidates = proposer.candidates
    seen = {candidate.fingerprint for candidate in candidates}
    pool = [drawn for drawn in candidate_pool(context) if drawn.fingerprint not in seen]
    if not pool:
        return None
    experience = _with_scores(context, candidates)
    tried = [
        (one, candidate.latency)
        for candidate in candidates
        if candidate.state != "failed" and (one := untrained_of(candidate)) is not None
    ]
    measured = [(one, ms) for one, ms in tried if ms is not None]
    untrained = [*(one for one, _ in tried), *(drawn.untrained for drawn in pool)]
    guesses = experience.guess(untrained)
    costs = [_cost_column(name, untrained, measured) for name in context.recipe.minimize]
    points = np.column_stack([-guesses, *costs])
    place = most_added(points[: len(tried)], points[len(tried) :])
    return Foretold(pool[place].parameters, float(guesses[len(tried) + place]))


def most_added(tried: Points, new: Points) -> int:
    """The place of the point that adds the most hypervolume to others.

    Args:
        tried: float64 `[N, M]`, every column minimised.
        new: float64 `[P, M]`.
    """
    both = np.vstack([tried, new])
    reference = both.max(axis=0) + 0.1 * np.ptp(both, axis=0) + 1e-9
    front = np.flatnonzero(non_dominated_ranks(new) == 0)
    volume = hypervolume(tried, reference)
    added = [hypervolume(np.vstack([tried, new[[i]]]), reference) - volume for i in front]
    return int(front[int(np.argmax(added))])


def _cost_column(
    name: Cost, untrained: Sequence[Untrained], measured: Sequence[tuple[Untrained, float]]
) -> Array:
    """What orders architectures by a cost before it is measured, float64 `[N]`. Latency is guessed,
    and bytes follow parameters.
    """
    if name == "latency":
        return guess_latency(untrained, measured)
    return np.log1p([one.macs if name == "macs" else one.params for one in untrained])


def _with_scores(context: StudyContext, candidates: Sequence[Candidate]) -> Experience:
    """Earlier full runs, and this study's scores at the last rung as a setting of their own.

    Scores from the first `EARLY` of a full run tell who starts quickly, and are left out. So are
    figures of untrained students, since the pool has none.
    """
    runs, setting = read_stored(context.study.require(keys.EXPERIENCE))
    if context.ladder.budgets[-1] < EARLY * context.final_examples:
        return Experience.of(runs, setting, zero_cost=False)
    for candidate in candidates:
        untrained = untrained_of(candidate)
        if candidate.state == "complete" and untrained is not None:
            score = candidate.score or 0.0
            runs.append(EarlierRun(untrained, score, "scores of this study", ""))
    return Experience.of(runs, setting, zero_cost=False)
