"""The rungs that a trial climbs, and their budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
        return trunk_end(self.budgets[rung])

    @property
    def last(self) -> int:
        """Index of the last rung."""
        return len(self.budgets) - 1

    def examples(self, rung: int) -> int:
        """Examples it takes to score a trial at every rung up to `rung`, cool-downs included."""
        return examples_of(self.budgets[: rung + 1])

    def expected(self, trials: int) -> list[float]:
        """The number of trials that are expected to reach each rung, where trials are stopped.

        The n-th at a rung goes on if it is among the best ⌈n/eta⌉ so far, so that the first always
        does: more than 1/eta go on. Their order is taken to say nothing of their rank.

        Args:
            trials: That begin.
        """
        counts = [float(trials)]
        while len(counts) < len(self.budgets):
            whole, rest = divmod(counts[-1], 1)
            chances = [math.ceil(n / self.eta) / n for n in range(1, int(whole) + 2)]
            counts.append(sum(chances[:-1]) + rest * chances[-1])
        return counts


def trunk_end(budget: int) -> int:
    """Examples at which the cool-down towards a budget branches off."""
    return round(budget * (1 - COOL_DOWN))


def examples_of(budgets: Sequence[int]) -> int:
    """Examples it takes to score a trial at each of these budgets, rising: trunk and cool-downs."""
    return trunk_end(budgets[-1]) + sum(budget - trunk_end(budget) for budget in budgets)
