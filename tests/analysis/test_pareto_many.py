"""Fronts of many points are those of the definitions, worked out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from nasdistill.analysis.pareto import (
    Points,
    best,
    hypervolume,
    is_among_best,
    non_dominated_ranks,
    select_by_hypervolume,
)


def ranks_by_pairs(points: Points) -> list[int]:
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    dominates = no_worse & (points[:, None, :] < points[None, :, :]).any(axis=2)
    ranks, left, rank = np.full(len(points), -1), np.ones(len(points), dtype=bool), 0
    while left.any():
        front = left & ~(dominates & left[:, None]).any(axis=0)
        ranks[front] = rank
        left &= ~front
        rank += 1
    return [int(rank) for rank in ranks]


def chosen_one_by_one(points: Points, reference: Points, count: int, first: int) -> list[int]:
    chosen = [first]
    while len(chosen) < min(count, len(points)):
        rest = [i for i in range(len(points)) if i not in chosen]
        gains = [hypervolume(points[[*chosen, i]], reference) for i in rest]
        chosen.append(rest[int(np.argmax(gains))])
    return chosen


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_ranks_and_choices_are_those_of_all_pairs(columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.random((60, columns))
    if seed % 2:  # many equal ones
        points = np.round(points * 5) / 5
    ranks = ranks_by_pairs(points)
    assert non_dominated_ranks(points).tolist() == ranks
    front = [rank == 0 for rank in ranks]
    assert (non_dominated_ranks(points, 1) == 0).tolist() == front
    reference = points.max(axis=0) + 0.1
    by_hand = chosen_one_by_one(points, reference, 12, 3)
    assert select_by_hypervolume(points, reference, 12, 3) == by_hand
    for count in (1, 7, 20, 60):
        picked = best(points, count)
        assert len(picked) == count
        assert [i for i in range(60) if is_among_best(i, points, count)] == sorted(picked)


def test_no_points_have_no_ranks() -> None:
    assert non_dominated_ranks(np.empty((0, 3))).tolist() == []
