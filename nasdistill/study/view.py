"""The trials of a study as its sampler sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from nasdistill.analysis.pareto import non_dominated_ranks
from nasdistill.recipe import Recipe
from nasdistill.study.history import History, Scored

GENERATION = "NSGAIISampler:generation"
"""The attribute in which Optuna's NSGA-II keeps the generation of a trial."""
MOST_SCORED = 600
"""Trials with a score that a sampler sees: the best third of so many, and the latest."""
MOST_REJECTED = 200
"""Rejected trials that it sees, the latest, where it does not see all that have a score."""


class View(NamedTuple):
    """A sampler's view.

    Attributes:
        trials: For a study of its own.
        generations: How many generations of NSGA-II came before those that it sees.
    """

    trials: Sequence[FrozenTrial]
    generations: int


def _pairs(scored: Scored) -> list[tuple[int, list[float]]]:
    return list(zip(scored.numbers.tolist(), scored.values.tolist(), strict=True))


class _Told(FrozenTrial):
    """A trial that is made for one view: Optuna need not copy what nobody else has."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Told:
        return self


def sampler_view(history: History, recipe: Recipe) -> View:
    """The trials as the sampler sees them.

    A stopped trial counts as complete, with its last score raised by the typical later gain, so
    that neither its score is lost nor a low rung compared with a high one. A rejected one counts as
    complete with its broken constraints, never more of them than trials with a score; failed ones
    are left out. Of thousands it sees the best and the latest, so that asking does not take longer
    and longer: what it has made of the others is in these.

    Args:
        history: Of the study, up to date.
        recipe: Names sampler and costs.
    """
    scored, trials = history.scored(), history.trials
    if recipe.sampler == "qmc":  # asks the first one alone which parameters there are
        return View([_told(trials[n], v, 0) for n, v in _pairs(scored)[:1]], 0)
    kept, passed, most = scored, 0, len(scored.numbers)
    if most > MOST_SCORED:
        kept, first = _worth_seeing(scored, MOST_SCORED)
        # Before the latest, generations are one: the best of all that came before.
        of_latest = (_generation(trials[n].system_attrs) for n in kept.numbers if n >= first)
        passed = min((generation for generation in of_latest if generation is not None), default=0)
        most = MOST_REJECTED
    values = dict(_pairs(kept))
    numbers = sorted([*values, *history.running])
    view = [_told(trials[number], values.get(number), passed) for number in numbers]
    if most:
        worst = scored.values.max(axis=0)[1:].tolist()
        for number in history.rejected[-most:]:
            candidate = history.candidates[number]
            assert candidate is not None
            costs = [candidate.cost(name) for name in recipe.minimize]
            known = [w if c is None else c for c, w in zip(costs, worst, strict=True)]
            view.append(_told(trials[number], [0.0, *known], passed))
    return View(view, passed)


def _worth_seeing(scored: Scored, places: int) -> tuple[Scored, int]:
    """The best of those with a score and the latest; in a rank, the latest come first.

    Args:
        scored: All of them.
        places: How many to see.

    Returns:
        What is seen, and the number of the first of the latest.
    """
    split = len(scored.numbers) - places * 2 // 3
    older = scored.values[:split] * [-1.0, *[1.0] * (scored.values.shape[1] - 1)]
    ranks = non_dominated_ranks(older, places // 3)
    best = np.lexsort((-np.arange(split), ranks))[: places // 3]
    seen: NDArray[np.int64] = np.concatenate([np.sort(best), np.arange(split, len(scored.numbers))])
    return Scored(scored.numbers[seen], scored.values[seen]), int(scored.numbers[split])


def _generation(attributes: Mapping[str, Any]) -> int | None:
    generation: int | None = attributes.get(GENERATION)
    return generation


def _told(trial: FrozenTrial, values: list[float] | None, passed: int) -> _Told:
    """A trial with the values that the sampler is told; without any, it is under way."""
    attributes, now = dict(trial.system_attrs), datetime.now()
    if passed and GENERATION in attributes:
        attributes[GENERATION] = max(0, attributes[GENERATION] - passed)
    return _Told(
        number=trial.number,
        state=TrialState.RUNNING if values is None else TrialState.COMPLETE,
        value=None,
        values=values,
        datetime_start=now,
        datetime_complete=None if values is None else now,
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        user_attrs={},
        system_attrs=attributes,
        intermediate_values={},
        trial_id=-1,
    )
