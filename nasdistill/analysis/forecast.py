"""Forecasts of accuracy after a full run, from short scores and from what is known for nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRIOR = (1.0, 1.0, 0.0, 1.0)
"""Weights of score, log MACs, log parameters and depth, each in standard deviations, before any
label is known: short runs do wrong to large and deep students, and equal weights need no fitting
(Dawes, "The robust beauty of improper linear models", 1979). Full runs do them no wrong: the more
of one a score has seen, the less MACs and depth count. Evidence: docs/scoring.md."""
POWER = 4
"""MACs and depth count by this power of the share of a full run that a score has not seen."""
PSEUDO_TRIALS = 8.0
"""Weight of the prior against the next rung's forecasts, in trials: two for each weight."""
SHRINKAGE = 3.0
"""Weight of the prior against full runs, in runs: each says more than a forecast does."""
ENOUGH = 16
"""Full runs from which on they teach the weights: with fewer, the others rank better."""
FEWEST = 4
"""Trials from which on more than the score counts: two or three say nothing of the rest."""
TYPICAL = 0.7
"""The error of a guess before any full run is known, in standard deviations."""


@dataclass(frozen=True)
class Forecast:
    """Expected accuracy after full runs, in standard deviations among the trials asked about.

    Attributes:
        guess: float64 `[N]`; only differences mean anything.
        deviation: float64 `[N]`, the standard deviation of each guess's error.
    """

    guess: Array
    deviation: Array

    @property
    def low(self) -> Array:
        """Lower ends of 95 % intervals."""
        return self.guess - 1.96 * self.deviation

    @property
    def high(self) -> Array:
        """Upper ends of 95 % intervals."""
        return self.guess + 1.96 * self.deviation


def forecast(
    scores: Sequence[float],
    macs: Sequence[int | None],
    params: Sequence[int | None],
    depth: Sequence[int | None],
    full: Sequence[float | None],
    share: float,
    later: Sequence[float | None] = (),
    foretold: Sequence[float] = (),
    foretold_weight: float = 0.0,
) -> Forecast:
    """Forecasts full accuracy by a weighted sum of score, log MACs, log parameters and depth.

    Where earlier full runs teach something, what they foretell takes the place of MACs and depth,
    which it is made of as well.

    Its weights are those of a ridge regression (Hoerl and Kennard, 1970) on what is known of some
    of the trials, shrunk towards the prior's: on their forecasts at the next rung, which have seen
    more of a full run, and then on full runs.

    Args:
        scores: Of trials at one rung, in [0, 1].
        macs: Their multiply-adds; a figure that is not known of all of them is left out.
        params: Their parameters.
        depth: Their convolutions and linear layers.
        full: Accuracy after a full run, in [0, 1], of those that had one.
        share: Of a full run's examples, those that the scored copies have seen.
        later: Guesses at the next rung, on any scale, of those that climbed to it; empty where
            there is none.
        foretold: By earlier full runs, on any scale; see `experience.Experience.guess`.
        foretold_weight: Of that beside the score, before this study's own runs teach another; 0
            where nothing is foretold.
    """
    count = len(scores)
    features = [
        np.asarray(scores, dtype=np.float64),
        _known(macs, log=True),
        _known(params, log=True),
        _known(depth, log=False),
    ]
    score, *others = PRIOR
    if foretold_weight:
        features.append(np.asarray(foretold, dtype=np.float64))
        others = [*[0.0] * len(others), foretold_weight]
    z_NF = np.column_stack([standardised(column) for column in features])
    left = max(0.0, 1.0 - share) ** POWER if count >= FEWEST else 0.0
    prior_F = np.array([score, *(left * weight for weight in others)])
    weights_F = _scaled(prior_F, z_NF)
    by_later = _Regression.fitted(z_NF, later, weights_F, FEWEST, PSEUDO_TRIALS)
    if by_later is not None:
        weights_F = _scaled(by_later.weights, z_NF)
    by_full = _Regression.fitted(z_NF, full, weights_F, ENOUGH, SHRINKAGE)
    if by_full is None:
        return Forecast(z_NF @ weights_F, np.full(count, TYPICAL))
    return by_full.forecast(z_NF)


@dataclass(frozen=True)
class _Regression:
    """A ridge regression of labels on figures, shrunk towards given weights.

    Attributes:
        weights: float64 `[F]`, of the figures, in standard deviations of the labels.
        centre: float64 `[F]`, mean figures of the labelled trials.
        inverse: float64 `[F, F]`, the inverse of the penalised Gram matrix of their figures.
        unexplained: Sum of squared residuals.
        count: Labelled trials.
        shrinkage: Weight of the given weights, in trials.
    """

    weights: Array
    centre: Array
    inverse: Array
    unexplained: float
    count: int
    shrinkage: float

    @classmethod
    def fitted(
        cls,
        z_NF: Array,
        labels: Sequence[float | None],
        prior_F: Array,
        fewest: int,
        shrinkage: float,
    ) -> _Regression | None:
        """The regression; None where fewer than `fewest` labels are known, or all are equal."""
        labelled = [i for i, label in enumerate(labels) if label is not None]
        known = np.array([label for label in labels if label is not None])
        if len(labelled) < fewest or np.ptp(known) == 0:
            return None
        centre_F, y_D = z_NF[labelled].mean(axis=0), standardised(known)
        x_DF = z_NF[labelled] - centre_F
        inverse_FF = np.linalg.inv(x_DF.T @ x_DF + shrinkage * np.eye(len(prior_F)))
        weights_F = prior_F + inverse_FF @ x_DF.T @ (y_D - x_DF @ prior_F)
        unexplained = float(((y_D - x_DF @ weights_F) ** 2).sum())
        return cls(weights_F, centre_F, inverse_FF, unexplained, len(labelled), shrinkage)

    def forecast(self, z_NF: Array) -> Forecast:
        """Forecasts of all trials, whose error grows with the distance from those labelled."""
        x_NF = z_NF - self.centre
        variance = (self.unexplained + self.shrinkage * TYPICAL**2) / (self.count + self.shrinkage)
        leverage_N = 1 / self.count + np.einsum("nf,fg,ng->n", x_NF, self.inverse, x_NF)
        return Forecast(x_NF @ self.weights, np.sqrt(variance * (1 + leverage_N)))


def _scaled(weights_F: Array, z_NF: Array) -> Array:
    """The weights by which the trials' guesses have standard deviation 1."""
    scaled: Array = weights_F / (np.std(z_NF @ weights_F) or 1.0)
    return scaled


def _known(values: Sequence[int | None], *, log: bool) -> Array:
    """A column of figures; all zero where one of them is not known."""
    known = [float(value) for value in values if value]
    if len(known) < len(values):
        return np.zeros(len(values))
    return np.array([math.log(value) for value in known] if log else known)


def standardised(values: Array) -> Array:
    """Mean 0, standard deviation 1; all zero where nothing varies."""
    deviation = np.std(values)
    return (values - np.mean(values)) / deviation if deviation > 0 else np.zeros(len(values))
