"""Budgets, and stopping on the front at equal rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasdistill.pareto import as_points, non_dominated_ranks, spread

COOL_DOWN = 0.4


@dataclass(frozen=True)
class Ladder:
    """The rungs that a trial climbs.

    A trial is one trunk at a constant learning rate; at each rung a copy of it cools down over the
    last `COOL_DOWN` of the budget and is scored, and the trunk goes on from where the copy left.

    Attributes:
        budgets: Training examples a scored copy has seen at each rung, rising.
        eta: Share 1/eta of the trials at a rung goes on.
    """

    budgets: tuple[int, ...]
    eta: int

    @classmethod
    def geometric(cls, first: int, eta: int, count: int) -> Ladder:
        """Budgets `first`, `first · eta`, and so on."""
        return cls(tuple(first * eta**rung for rung in range(count)), eta)

    def trunk_end(self, rung: int) -> int:
        """Examples at which the cool-down of a rung branches off."""
        return round(self.budgets[rung] * (1 - COOL_DOWN))

    @property
    def last(self) -> int:
        """Index of the last rung."""
        return len(self.budgets) - 1

    def examples(self, rung: int) -> int:
        """Examples it takes to score a trial at every rung up to `rung`, cool-downs included."""
        branches = sum(self.budgets[r] - self.trunk_end(r) for r in range(rung + 1))
        return self.trunk_end(rung) + branches


def stop_reason(
    index: int,
    accuracies: Sequence[float],
    costs: Sequence[Sequence[float]],
    eta: int,
    chance: float,
) -> str | None:
    """Decides whether a trial is stopped at a rung.

    The best 1/eta at the rung go on, by non-dominated rank of (accuracy, costs) (Schmucker et al.,
    MO-ASHA, 2021); in a rank the most accurate comes first, then whichever adds the most
    hypervolume to those before it. By hypervolume alone the accurate and costly end of the front
    would always come last. As the front would keep every tiny student, one whose accuracy is far
    below the best at the rung is stopped whatever its costs: less than 80 % of the way from chance
    to the best.

    Args:
        index: Which of the trials below is asked about.
        accuracies: Scores at this rung of all trials that reached it, in [0, 1].
        costs: Their costs, each a row of the same length.
        eta: See `Ladder`.
        chance: Accuracy of guessing.

    Returns:
        The reason in words, or None if the trial goes on.
    """
    best = max(accuracies)
    floor = chance + 0.8 * (best - chance)
    if accuracies[index] < floor:
        return f"accuracy {accuracies[index]:.3f} is below the rung's floor of {floor:.3f}"
    points = as_points([[a, *row] for a, row in zip(accuracies, costs, strict=True)])
    ranks = non_dominated_ranks(points)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    places = -(-len(points) // eta)
    going: list[int] = []
    for rank in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == rank)
        best_of_rank = int(np.argmin(points[members, 0]))
        chosen = spread(points[members], reference, places - len(going), best_of_rank)
        going += [int(members[i]) for i in chosen]
        if len(going) == places:
            break
    if index not in going:
        return f"not among the best {places} of {len(points)} at this rung"
    return None
