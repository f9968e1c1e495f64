"""Budgets, and stopping on the front at equal rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nasdistill.pareto import as_points, best

COOL_DOWN = 0.4
RACE = 2
"""Budget of the race ÷ the last rung's, where a full run is long enough."""


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
        return trunk_end(self.budgets[rung])

    @property
    def last(self) -> int:
        """Index of the last rung."""
        return len(self.budgets) - 1

    def with_race(self, full: int) -> Ladder:
        """With the race as one rung more: `RACE` times the last budget.

        Args:
            full: Examples of a full run. The race is half of it at most, and no less than the last
                rung.
        """
        last = self.budgets[-1]
        return replace(self, budgets=(*self.budgets, max(last, min(RACE * last, full // 2))))

    def examples(self, rung: int) -> int:
        """Examples it takes to score a trial at every rung up to `rung`, cool-downs included."""
        return examples_of(self.budgets[: rung + 1])


def trunk_end(budget: int) -> int:
    """Examples at which the cool-down towards a budget branches off."""
    return round(budget * (1 - COOL_DOWN))


def examples_of(budgets: Sequence[int]) -> int:
    """Examples it takes to score a trial at each of these budgets, rising: trunk and cool-downs."""
    return trunk_end(budgets[-1]) + sum(budget - trunk_end(budget) for budget in budgets)


def stop_reason(
    index: int,
    accuracies: Sequence[float],
    forecasts: Sequence[float],
    costs: Sequence[Sequence[float]],
    eta: int,
    chance: float,
) -> str | None:
    """Decides whether a trial is stopped at a rung.

    The best 1/eta at the rung go on, by non-dominated rank of (forecast, costs) (Schmucker et al.,
    MO-ASHA, 2021); in a rank the one with the highest forecast comes first, then whichever adds the
    most hypervolume to those before it. As the front would keep every tiny student, one whose
    accuracy is far below the best at the rung is stopped whatever its costs: less than 80 % of the
    way from chance to the best.

    Args:
        index: Which of the trials below is asked about.
        accuracies: Scores at this rung of all trials that reached it, in [0, 1].
        forecasts: What full runs are expected to make of them, on any scale; see `forecast`.
        costs: Their costs, each a row of the same length.
        eta: See `Ladder`.
        chance: Accuracy of guessing.

    Returns:
        The reason in words, or None if the trial goes on.
    """
    highest = max(accuracies)
    floor = chance + 0.8 * (highest - chance)
    if accuracies[index] < floor:
        return f"accuracy {accuracies[index]:.3f} is below the rung's floor of {floor:.3f}"
    points = as_points([[f, *row] for f, row in zip(forecasts, costs, strict=True)])
    places = -(-len(points) // eta)
    if index not in best(points, places):
        return f"not among the best {places} of {len(points)} at this rung"
    return None
