"""The sampler: its view of the trials so far, and its proposals."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasdistill.common.types import Cost
from nasdistill.recipe import Recipe
from nasdistill.results import Candidate, candidate_of, keys
from nasdistill.space import Architecture, SearchSpace


@dataclass(frozen=True)
class Proposal:
    """An architecture that the sampler asks for, with Optuna's own words for it."""

    architecture: Architecture
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    system_attrs: Mapping[str, Any]


def sample(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    recipe: Recipe,
    space: SearchSpace,
    attempt: int,
    foretold: Mapping[str, Any] | None = None,
) -> Proposal:
    """Gives a space's own designs first, then what was foretold, else asks the sampler.

    The sampler is built from the seed, the number of trials so far and the attempt, so that a
    study that was interrupted asks for the same ones.

    Args:
        trials: All trials of the storage.
        directions: Of the study's objectives.
        recipe: Names sampler and seed.
        space: Where architectures come from.
        attempt: How many proposals were thrown away as duplicates since the last trial.
        foretold: Parameters of a candidate that is to be tried in the sampler's place.
    """
    index = len(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls group and QMC experimental
        memory = optuna.create_study(
            directions=directions, sampler=_sampler(recipe, index, attempt)
        )
        memory.add_trials(sampler_view(trials, recipe))
        if recipe.sampler == "qmc":
            for _ in range(index + attempt):
                memory.ask()
        first = untried(space, trials) or foretold
        if first is not None:
            memory.enqueue_trial(dict(first))
        trial = memory.ask()
        architecture = space.sample(trial)
    frozen = memory.trials[trial.number]
    system = {k: v for k, v in frozen.system_attrs.items() if not k.startswith("constraints")}
    return Proposal(architecture, trial.params, frozen.distributions, system)


def untried(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Mapping[str, Any] | None:
    """Parameters of the first of the space's own designs that was not proposed yet."""
    seen = {trial.user_attrs.get(keys.FINGERPRINT.name) for trial in trials}
    for parameters in space.start:
        fixed = optuna.trial.FixedTrial(dict(parameters))
        if space.sample(fixed).fingerprint not in seen:
            return parameters
    return None


def _sampler(recipe: Recipe, index: int, attempt: int) -> BaseSampler:
    seed = (recipe.seed * 1_000_003 + index * 1_009 + attempt) % 2**31
    if recipe.sampler == "random" or attempt >= 20:
        return optuna.samplers.RandomSampler(seed=seed)
    if recipe.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=12)
    if recipe.sampler == "qmc":
        return optuna.samplers.QMCSampler(
            scramble=True,
            seed=recipe.seed,
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
            independent_sampler=optuna.samplers.RandomSampler(seed=seed),
        )
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def sampler_view(trials: Sequence[FrozenTrial], recipe: Recipe) -> list[FrozenTrial]:
    """The trials as the sampler sees them.

    A stopped trial counts as complete, with its last score raised by the typical later gain, so
    that neither its score is lost nor a low rung compared with a high one. A rejected one counts as
    complete with its broken constraints, never more of them than trials with a score; failed ones
    are left out.
    """
    view: list[FrozenTrial] = []
    rejected: list[FrozenTrial] = []
    read = (candidate_of(trial) for trial in trials)
    candidates = {c.number: c for c in read if c is not None}
    gains = _later_gains(list(candidates.values()))
    for trial in trials:
        candidate = candidates.get(trial.number)
        if candidate is None:
            continue
        costs = _costs(candidate, recipe.minimize)
        if candidate.state in ("complete", "stopped") and candidate.score is not None:
            accuracy = min(1.0, candidate.score + gains.get(candidate.rungs[-1].rung, 0.0))
            if None not in costs:
                view.append(_copied(trial, TrialState.COMPLETE, [accuracy, *costs]))
        elif candidate.state == "running":
            view.append(_copied(trial, TrialState.RUNNING, None))
        elif candidate.state == "rejected":
            rejected.append(trial)
    scored = [t for t in view if t.state == TrialState.COMPLETE]
    if scored:
        worst = [max(t.values[i + 1] for t in scored) for i in range(len(recipe.minimize))]
        for trial in rejected[-len(scored) :]:
            costs = _costs(candidates[trial.number], recipe.minimize)
            known = [w if c is None else c for c, w in zip(costs, worst, strict=True)]
            view.append(_copied(trial, TrialState.COMPLETE, [0.0, *known]))
    return view


def _copied(
    trial: FrozenTrial, state: TrialState, values: Sequence[float | None] | None
) -> FrozenTrial:
    return create_trial(
        state=state,
        values=None if values is None else [float(v) for v in values if v is not None],
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=dict(trial.system_attrs),
    )


def _costs(candidate: Candidate, names: Sequence[Cost]) -> list[float | None]:
    return [candidate.cost(name) for name in names]


def _later_gains(candidates: Sequence[Candidate]) -> dict[int, float]:
    """Median gain from each rung to the last, over the trials that climbed every rung."""
    complete = [c for c in candidates if c.state == "complete"]
    gains: dict[int, float] = {}
    if complete:
        for rung in range(len(complete[0].rungs)):
            differences = sorted(c.rungs[-1].score - c.rungs[rung].score for c in complete)
            gains[rung] = differences[len(differences) // 2]
    return gains


def architecture_of(candidate: Candidate) -> Architecture:
    """The architecture of a candidate."""
    return Architecture.from_json(json.dumps(candidate.architecture))
