"""Studies with many stored trials whose scores and costs are made up, for what grows with them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from nasdistill.results import RungScore, keys
from nasdistill.space import SearchSpace

BUDGETS = (1000, 3000, 9000)
POPULATION = 12


def drawn(space: SearchSpace, seed: int) -> Iterator[tuple[Trial, Any]]:
    """Architectures drawn at random, each once, with Optuna's words for them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seen: set[str] = set()
    sampler = optuna.samplers.RandomSampler(seed=seed)
    while True:
        memory = optuna.create_study(sampler=sampler)
        for _ in range(200):
            trial = memory.ask()
            architecture = space.sample(trial)
            if architecture.fingerprint not in seen:
                seen.add(architecture.fingerprint)
                yield trial, architecture


def stored_trials(space: SearchSpace, costs: int, seed: int = 0) -> Iterator[FrozenTrial]:
    """Endless trials as a study stores them: one in ten rejected, two in three stopped.

    Args:
        space: Where the architectures come from.
        costs: How many costs the study minimises: parameters, then MACs.
        seed: Of everything.
    """
    rng = random.Random(seed)
    for number, (trial, architecture) in enumerate(drawn(space, seed)):
        params = int(10 ** rng.uniform(4, 6))
        macs = int(params * rng.uniform(5, 50))
        quality = 0.9 - 0.3 * 10 ** (4 - 4 * rng.uniform(0.9, 1.2)) - 2e3 / params
        quality = min(0.98, max(0.1, quality - rng.expovariate(10)))
        attributes: dict[str, Any] = {
            keys.ARCHITECTURE.name: architecture.to_json(),
            keys.FINGERPRINT.name: architecture.fingerprint,
            "params": params,
            "macs": macs,
            "bytes": 4 * params,
            "depth": rng.randint(5, 40),
        }
        state, rungs, constraints = TrialState.COMPLETE, 3, None
        kind = rng.random()
        attributes[keys.TRIAL_STATE.name] = "complete"
        if kind < 0.1:
            state, rungs, constraints = TrialState.PRUNED, 0, {"params": rng.uniform(0.01, 2)}
            attributes[keys.TRIAL_STATE.name] = "rejected"
        elif kind < 0.7:
            state, rungs = TrialState.PRUNED, rng.randint(1, 2)
            attributes[keys.TRIAL_STATE.name] = "stopped"
        for rung in range(rungs):
            accuracy = max(0.0, quality - 0.1 * (2 - rung) + rng.gauss(0, 0.01))
            score = RungScore(rung, BUDGETS[rung], accuracy, accuracy, accuracy, 0.5, 10.0)
            attributes |= {
                f"score_{rung}": accuracy,
                f"rung_{rung}": {**asdict(score), "peers": []},
            }
            attributes[keys.PASSED.name] = rung
        values = [quality, params, macs][: 1 + costs] if state == TrialState.COMPLETE else None
        yield frozen(trial.params, trial.distributions, state, values, attributes, constraints,
                     number // POPULATION)  # fmt: skip


def frozen(
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    state: TrialState,
    values: list[float] | None,
    attributes: dict[str, Any],
    constraints: dict[str, float] | None,
    generation: int,
) -> FrozenTrial:
    """A trial of Optuna."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = optuna.trial.create_trial(
            state=state,
            values=values,
            params=params,
            distributions=distributions,
            user_attrs=attributes,
            system_attrs={"NSGAIISampler:generation": generation},
            constraints=constraints,
        )
    trial.datetime_start = trial.datetime_complete = datetime(2026, 1, 1)
    return trial
