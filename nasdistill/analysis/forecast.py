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
full run is known: short runs do wrong to large and deep students, and equal weights need no fitting
(Dawes, "The robust beauty of improper linear models", 1979). Full runs do them no wrong: the more
of one a score has seen, the less MACs and depth count. Evidence: docs/scoring.md."""
SHRINKAGE = 3.0
"""Weight of the prior, in full runs."""
ENOUGH = 16
"""Full runs from which on the weights are fitted: with fewer, equal weights rank better."""
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
) -> Forecast:
    """Forecasts full accuracy by ridge regression towards the prior's weights.

    Args:
        scores: Of trials at one rung, in [0, 1].
        macs: Their multiply-adds; a figure that is not known of all of them is left out.
        params: Their parameters.
        depth: Their convolutions and linear layers.
        full: Accuracy after a full run, in [0, 1], of those that had one.
        share: Of a full run's examples, those that the scored copies have seen.
    """
    count = len(scores)
    features = [
        np.asarray(scores, dtype=np.float64),
        _known(macs, log=True),
        _known(params, log=True),
        _known(depth, log=False),
    ]
    z_NF = np.column_stack([standardised(column) for column in features])
    score, *others = PRIOR
    known = max(0.0, 1.0 - share) if count >= FEWEST else 0.0
    prior_F = np.array([score, *(known * weight for weight in others)])
    prior_F /= np.std(z_NF @ prior_F) or 1.0
    done = [i for i, accuracy in enumerate(full) if accuracy is not None]
    truth = np.array([accuracy for accuracy in full if accuracy is not None])
    if len(done) < ENOUGH or np.ptp(truth) == 0:
        return Forecast(z_NF @ prior_F, np.full(count, TYPICAL))
    y_D, centre_F = standardised(truth), z_NF[done].mean(axis=0)
    x_DF, x_NF = z_NF[done] - centre_F, z_NF - centre_F
    inverse_FF = np.linalg.inv(x_DF.T @ x_DF + SHRINKAGE * np.eye(len(PRIOR)))
    weights_F = prior_F + inverse_FF @ x_DF.T @ (y_D - x_DF @ prior_F)
    unexplained = float(((y_D - x_DF @ weights_F) ** 2).sum())
    variance = (unexplained + SHRINKAGE * TYPICAL**2) / (len(done) + SHRINKAGE)
    leverage_N = 1 / len(done) + np.einsum("nf,fg,ng->n", x_NF, inverse_FF, x_NF)
    return Forecast(x_NF @ weights_F, np.sqrt(variance * (1 + leverage_N)))


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
