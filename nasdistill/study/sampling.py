"""The sampler and its proposals."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasdistill.recipe import Recipe
from nasdistill.results import Candidate, keys
from nasdistill.space import Architecture, SearchSpace
from nasdistill.study.history import History
from nasdistill.study.view import GENERATION, View, sampler_view


@dataclass(frozen=True)
class Proposal:
    """An architecture that the sampler asks for, with Optuna's own words for it."""

    architecture: Architecture
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    system_attrs: Mapping[str, Any]

    def as_trial(
        self,
        state: TrialState,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float] | None = None,
    ) -> FrozenTrial:
        """A trial to be stored whole.

        Args:
            state: Optuna's.
            attributes: Stored with it; figures by the names of their keys.
            constraints: How far over each broken limit it is.
        """
        own = {
            keys.ARCHITECTURE.name: self.architecture.to_json(),
            keys.FINGERPRINT.name: self.architecture.fingerprint,
        }
        return create_trial(
            state=state,
            params=dict(self.params),
            distributions=dict(self.distributions),
            user_attrs={**own, **attributes},
            system_attrs=dict(self.system_attrs),
            constraints=None if constraints is None else dict(constraints),
        )


def sample(
    history: History,
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
        history: Of the study, up to date.
        directions: Of the study's objectives.
        recipe: Names sampler and seed.
        space: Where architectures come from.
        attempt: How many proposals were thrown away as duplicates since the last trial.
        foretold: Parameters of a candidate that is to be tried in the sampler's place.
    """
    index = len(history.trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls group and QMC experimental
        sampler, storage = _sampler(recipe, index, attempt), InMemoryStorage()
        memory = optuna.create_study(storage=storage, directions=directions, sampler=sampler)
        ignores = isinstance(sampler, optuna.samplers.RandomSampler)
        view = View([], 0) if ignores else sampler_view(history, recipe)
        for told in view.trials:
            storage.create_new_trial(memory._study_id, told)
        first = untried(space, history) or foretold
        if first is not None:
            memory.enqueue_trial(dict(first))
        trial = memory.ask()
        architecture = space.sample(trial)
    frozen = storage.get_trial(trial._trial_id)
    system = {k: v for k, v in frozen.system_attrs.items() if not k.startswith("constraints")}
    if GENERATION in system:
        system[GENERATION] += view.generations
    return Proposal(architecture, trial.params, frozen.distributions, system)


def untried(space: SearchSpace, history: History) -> Mapping[str, Any] | None:
    """Parameters of the first of the space's own designs that was not proposed yet."""
    if not space.start:
        return None
    seen = {trial.user_attrs.get(keys.FINGERPRINT.name) for trial in history.trials}
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
        return _QMCSampler(
            index + attempt,
            scramble=True,
            seed=recipe.seed,
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
            independent_sampler=optuna.samplers.RandomSampler(seed=seed),
        )
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


class _QMCSampler(optuna.samplers.QMCSampler):
    """Optuna's sampler at a given place of its sequence.

    Args:
        place: From 0.
        **options: Optuna's.
    """

    def __init__(self, place: int, **options: Any) -> None:
        super().__init__(**options)
        self._place = place

    def _find_sample_id(self, study: optuna.Study, search_space: Mapping[str, Any]) -> int:
        return self._place


def architecture_of(candidate: Candidate) -> Architecture:
    """The architecture of a candidate."""
    return Architecture.from_json(json.dumps(candidate.architecture))
