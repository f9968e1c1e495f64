"""The sampler and its proposals."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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


class Proposer:
    """Proposes architectures for a study as it stands, until its trials are read again.

    A space's own designs come first, then what was foretold; else the sampler is asked. It is built
    from the seed, the number of trials so far and the attempt, so that a study that was interrupted
    asks for the same ones.

    Args:
        history: Of the study, up to date.
        directions: Of the study's objectives.
        recipe: Names sampler and seed.
        space: Where architectures come from.

    Attributes:
        candidates: The trials so far.
        count: Trials of the storage so far.
    """

    def __init__(
        self,
        history: History,
        directions: Sequence[StudyDirection],
        recipe: Recipe,
        space: SearchSpace,
    ) -> None:
        self.candidates = history.known()
        self.count = len(history.trials)
        self._history, self._directions = history, directions
        self._recipe, self._space = recipe, space

    def propose(self, attempt: int, foretold: Mapping[str, Any] | None = None) -> Proposal:
        """Proposes one.

        Args:
            attempt: How many proposals were thrown away as duplicates since the last trial.
            foretold: Parameters of a candidate that is to be tried in the sampler's place.
        """
        fixed = self._untried or foretold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls group and QMC experimental
            sampler, storage = self._sampler(attempt), InMemoryStorage()
            ignores = isinstance(sampler, optuna.samplers.RandomSampler)
            view = View([], 0) if ignores else self._view
            memory = optuna.create_study(
                storage=storage, directions=self._directions, sampler=sampler
            )
            for trial_seen in view.trials:
                storage.create_new_trial(memory._study_id, trial_seen)
            if fixed is not None:
                memory.enqueue_trial(dict(fixed))
            trial = memory.ask()
            architecture = self._space.sample(trial)
        frozen = storage.get_trial(trial._trial_id)
        system = {k: v for k, v in frozen.system_attrs.items() if not k.startswith("constraints")}
        if GENERATION in system:
            system[GENERATION] += view.generations
        return Proposal(architecture, trial.params, frozen.distributions, system)

    @property
    def has_untried_start(self) -> bool:
        """Whether one of the space's own designs was not proposed yet."""
        return self._untried is not None

    @cached_property
    def _untried(self) -> Mapping[str, Any] | None:
        """Parameters of the first of the space's own designs that was not proposed yet."""
        if not self._space.start:
            return None
        trials = self._history.trials
        seen = {trial.user_attrs.get(keys.FINGERPRINT.name) for trial in trials}
        for parameters in self._space.start:
            fixed = optuna.trial.FixedTrial(dict(parameters))
            if self._space.sample(fixed).fingerprint not in seen:
                return parameters
        return None

    @cached_property
    def _view(self) -> View:
        return sampler_view(self._history, self._recipe)

    def _sampler(self, attempt: int) -> BaseSampler:
        recipe, index = self._recipe, self.count
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
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )


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
