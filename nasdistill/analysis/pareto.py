"""Fronts and hypervolume for a handful of objectives, all minimised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def non_dominated_ranks(points: Points) -> NDArray[np.int64]:
    """Sorts points into fronts (Deb et al., NSGA-II, 2002).

    Args:
        points: float64 `[N, M]`, every column minimised.

    Returns:
        int64 `[N]`: 0 for the front, 1 for the front of what is left, and so on.
    """
    count = len(points)
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] < points[None, :, :]).any(axis=2)
    dominates = no_worse & better
    ranks = np.full(count, -1, dtype=np.int64)
    left = np.ones(count, dtype=bool)
    rank = 0
    while left.any():
        dominated = (dominates & left[:, None]).any(axis=0)
        front = left & ~dominated
        ranks[front] = rank
        left &= ~front
        rank += 1
    return ranks


def hypervolume(points: Points, reference: Points) -> float:
    """Volume that the points dominate inside the box below `reference`.

    Slices along the last objective, dimension by dimension (While et al., HSO, 2006): exponential
    in the number of objectives in the worst case, fine for the four or five we have.

    Args:
        points: float64 `[N, M]`, every column minimised.
        reference: float64 `[M]`; points that do not lie strictly below it count nothing.
    """
    inside = points[(points < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    ends = np.append(inside[1:, -1], reference[-1])
    volume = 0.0
    for index, (start, end) in enumerate(zip(inside[:, -1], ends, strict=True)):
        if end > start:
            volume += (end - start) * hypervolume(inside[: index + 1, :-1], reference[:-1])
    return volume


def select_by_hypervolume(points: Points, reference: Points, count: int, first: int) -> list[int]:
    """Picks points one by one, each adding the most hypervolume to those picked before.

    Args:
        points: float64 `[N, M]`, every column minimised.
        reference: float64 `[M]`.
        count: Number of points to pick, at most.
        first: Index of the point to begin with.

    Returns:
        Indices in the order picked; points that add nothing come last, by index.
    """
    chosen = [first] if len(points) else []
    while len(chosen) < min(count, len(points)):
        rest = [i for i in range(len(points)) if i not in chosen]
        gains = [hypervolume(points[[*chosen, i]], reference) for i in rest]
        chosen.append(rest[int(np.argmax(gains))])
    return chosen


def as_points(rows: Sequence[Sequence[float]]) -> Points:
    """Turns `(accuracy, cost, …)` rows into minimised points: `1 - accuracy`, `log(cost)`."""
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    return np.column_stack([1.0 - table[:, 0], np.log(np.maximum(table[:, 1:], 1e-12))])


def best(points: Points, count: int) -> list[int]:
    """The best by non-dominated rank; in a rank by hypervolume, the first objective's first.

    By hypervolume alone the accurate and costly end of a front would always come last.

    Args:
        points: float64 `[N, M]`, every column minimised.
        count: Number of points to pick, at most.

    Returns:
        Indices in the order picked.
    """
    ranks = non_dominated_ranks(points)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    picked: list[int] = []
    for rank in range(int(ranks.max(initial=-1)) + 1):
        members = np.flatnonzero(ranks == rank)
        first = int(np.argmin(points[members, 0]))
        chosen = select_by_hypervolume(points[members], reference, count - len(picked), first)
        picked += [int(members[i]) for i in chosen]
        if len(picked) >= count:
            break
    return picked
