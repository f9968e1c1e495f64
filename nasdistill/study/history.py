"""The trials of a study as candidates, read once each, and what the sampler's view needs of them.

A trial that has ended never changes, so that one which was read stays read: what a study of ten
thousand trials costs for each further one does not grow with them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.types import Cost
from nasdistill.results import Candidate, candidate_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class Scored(NamedTuple):
    """Trials that ended with a score.

    Attributes:
        numbers: int64 `[N]`, rising.
        values: float64 `[N, M]`: the score, raised by the typical later gain where it was stopped,
            and the costs.
    """

    numbers: NDArray[np.int64]
    values: NDArray[np.float64]


class History:
    """What was read of a study's trials, up to date after each `update`.

    Args:
        costs: The study's costs, all minimised.

    Attributes:
        trials: All trials of the storage, by number.
        candidates: The same as candidates, by number; None for those that are not ours.
        running: Numbers of those under way.
        rejected: Numbers of those that broke a limit.
    """

    def __init__(self, costs: Sequence[Cost]) -> None:
        self.trials: Sequence[FrozenTrial] = ()
        self.candidates: list[Candidate | None] = []
        self._costs = costs
        self.running: list[int] = []
        self.rejected: list[int] = []
        self._gains: list[list[float]] = []
        self._ended: list[bool] = []
        self._rungs: list[int] = []
        self._points: list[list[float]] = []
        self._numbers: list[int] = []

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Reads the trials that have changed.

        Args:
            trials: All of the storage, by number.
        """
        self.running = []
        for place, trial in enumerate(trials):
            if place == len(self.candidates):
                self.candidates.append(None)
                self._ended.append(False)
            if self._ended[place]:
                continue
            candidate = candidate_of(trial)
            self.candidates[place] = candidate
            if trial.state.is_finished():
                self._ended[place] = True
                if candidate is not None:
                    self._add(candidate)
            elif candidate is not None:
                self.running.append(place)
        self.trials = trials

    def _add(self, candidate: Candidate) -> None:
        """Adds a candidate that has ended to what is known of the scores."""
        if candidate.state == "rejected":
            insort(self.rejected, candidate.number)
        if candidate.state not in ("complete", "stopped") or candidate.score is None:
            return
        costs = [candidate.cost(name) for name in self._costs]
        known = [cost for cost in costs if cost is not None]
        if len(known) == len(costs):
            self._numbers.append(candidate.number)
            self._rungs.append(candidate.rungs[-1].rung)
            self._points.append([candidate.score, *map(float, known)])
        if candidate.state == "complete":
            self._gains = self._gains or [[] for _ in candidate.rungs]
            last = candidate.rungs[-1].score
            for gains, rung in zip(self._gains, candidate.rungs, strict=False):
                insort(gains, last - rung.score)

    def known(self) -> list[Candidate]:
        """The candidates that are there, by number."""
        return [candidate for candidate in self.candidates if candidate is not None]

    def later_gains(self) -> dict[int, float]:
        """Median gain from each rung to the last, over the trials that climbed every rung."""
        return {rung: gains[len(gains) // 2] for rung, gains in enumerate(self._gains)}

    def scored(self) -> Scored:
        """The trials that ended with a score, and whose costs are known."""
        numbers = np.array(self._numbers, dtype=np.int64)
        points = np.array(self._points, dtype=np.float64).reshape(-1, 1 + len(self._costs))
        gains = self.later_gains()
        later = np.array([gains.get(rung, 0.0) for rung in self._rungs])
        points[:, 0] = np.minimum(1.0, points[:, 0] + later)
        order = np.argsort(numbers)
        return Scored(numbers[order], points[order])
