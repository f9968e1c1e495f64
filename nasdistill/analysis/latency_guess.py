"""Which architectures are faster, before they are measured: for the choice of what to try alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nasdistill.analysis.forecast import Array
from nasdistill.results.experience import Untrained

PRIOR = np.array([0.4, 0.2, 0.2])
"""Weights of log MACs, log activations and depth before anything was measured, in standard
deviations. Evidence: `benchmarks/latency_guess.py`."""
SHRINKAGE = 3.0
"""Weight of the prior against what was measured, in architectures."""
FEWEST = 3
"""Measured latencies from which on they teach the weights."""


def guess_latency(asked: Sequence[Untrained], measured: Sequence[tuple[Untrained, float]]) -> Array:
    """The order of architectures by latency, from what is counted and what was measured.

    A ridge regression of log latency that is drawn towards `PRIOR` (Hoerl and Kennard, 1970). It
    knows nothing of the time that single operators take, and stands for no measurement.

    Args:
        asked: The architectures to be ordered.
        measured: Those with a latency, and that in milliseconds.

    Returns:
        float64 `[N]`, larger where slower; only differences mean anything.
    """
    if not asked:
        return np.empty(0)
    everything = [*asked, *(one for one, _ in measured)]
    counted = all(one.activations is not None for one in everything)  # not by earlier releases
    x_AF = np.array([_counts(one, counted) for one in everything])
    x_AF = (x_AF - x_AF.mean(axis=0)) / np.where(x_AF.std(axis=0) > 0, x_AF.std(axis=0), 1.0)
    weights_F = PRIOR
    if len(measured) >= FEWEST:
        x_KF, y_K = x_AF[len(asked) :], np.log([ms for _, ms in measured])
        x_KF = x_KF - x_KF.mean(axis=0)
        y_K = (y_K - y_K.mean()) / (y_K.std() or 1.0)
        penalty_FF = SHRINKAGE * np.eye(len(PRIOR))
        weights_F = PRIOR + np.linalg.solve(
            x_KF.T @ x_KF + penalty_FF, x_KF.T @ (y_K - x_KF @ PRIOR)
        )
    guess_N: Array = x_AF[: len(asked)] @ weights_F
    return guess_N


def _counts(one: Untrained, counted: bool) -> tuple[float, float, float]:
    """MACs, activations and depth; MACs stand for activations that were not counted."""
    written = one.activations if counted and one.activations is not None else one.macs
    return math.log(1 + one.macs), math.log(1 + written), float(one.depth)
