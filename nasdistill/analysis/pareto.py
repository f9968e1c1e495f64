"""Fronts and hypervolume for a handful of objectives, all minimised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

SAME = 1e-9
"""Share of a hypervolume within which two differ by rounding alone."""


def non_dominated_ranks(points: Points, enough: int | None = None) -> NDArray[np.int64]:
    """Sorts points into fronts (Deb et al., NSGA-II, 2002).

    Args:
        points: float64 `[N, M]`, every column minimised.
        enough: Points after which no further front is looked for; None for all.

    Returns:
        int64 `[N]`: 0 for the front, 1 for the front of what is left, and so on; those that were
        not looked at have the rank after the last.
    """
    if len(points) == 0:
        return np.empty(0, dtype=np.int64)
    distinct, place = np.unique(points, axis=0, return_inverse=True)
    place = place.reshape(-1)
    times = np.bincount(place)
    ranks = np.full(len(distinct), -1, dtype=np.int64)
    left, rank, count = np.arange(len(distinct)), 0, 0
    while len(left) and (enough is None or count < enough):
        front = left[_front_of_sorted(distinct[left])]
        ranks[front] = rank
        count += int(times[front].sum())
        left = left[ranks[left] < 0]
        rank += 1
    ranks[left] = rank
    sorted_ranks: NDArray[np.int64] = ranks[place]
    return sorted_ranks


def _front_of_sorted(points: Points) -> NDArray[np.bool_]:
    """Which of some points no other dominates; they are distinct, and sorted column by column.

    None dominates one that comes before it, so that the first that is left is always on the front
    (Kung, Luccio and Preparata, 1975).
    """
    if points.shape[1] <= 2:
        lowest = np.minimum.accumulate(points[:, -1])
        on_front = np.ones(len(points), dtype=bool)
        on_front[1:] = points[1:, -1] < lowest[:-1]
        return on_front
    on_front = np.zeros(len(points), dtype=bool)
    left = np.arange(len(points))
    while len(left):
        first = left[0]
        on_front[first] = True
        left = left[(points[left, 1:] < points[first, 1:]).any(axis=1)]
    return on_front


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
    if points.shape[1] == 2:
        return _area(inside, reference)
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    ends = np.append(inside[1:, -1], reference[-1])
    volume = 0.0
    for index, (start, end) in enumerate(zip(inside[:, -1], ends, strict=True)):
        if end > start:
            volume += (end - start) * hypervolume(inside[: index + 1, :-1], reference[:-1])
    return volume


def _area(inside: Points, reference: Points) -> float:
    """The hypervolume of points in two dimensions, all strictly below `reference`."""
    inside = inside[np.argsort(inside[:, 1], kind="stable")]
    heights = np.append(inside[1:, 1], reference[1]) - inside[:, 1]
    widths = reference[0] - np.minimum.accumulate(inside[:, 0])
    return float(np.cumsum(heights * widths)[-1])


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
    # A point never adds more to many than to few, so most need not be looked at anew.
    most = np.full(len(points), np.inf)
    volume = hypervolume(points[chosen], reference)
    while len(chosen) < min(count, len(points)):
        totals = np.full(len(points), -np.inf)
        for i in np.argsort(-most, kind="stable"):
            if most[i] + volume < totals.max() - SAME * abs(volume):
                break
            if i not in chosen:
                totals[i] = hypervolume(points[[*chosen, i]], reference)
                most[i] = totals[i] - volume
        chosen.append(int(np.argmax(totals)))
        volume = float(totals.max())
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
    ranks = non_dominated_ranks(points, count)
    picked: list[int] = []
    for rank in range(int(ranks.max(initial=-1)) + 1):
        picked += _best_of_rank(points, np.flatnonzero(ranks == rank), count - len(picked))
        if len(picked) >= count:
            break
    return picked


def is_among_best(index: int, points: Points, count: int) -> bool:
    """Whether a point is one of the `best`, without an order of all of them."""
    ranks = non_dominated_ranks(points, count)
    before = int((ranks < ranks[index]).sum())
    members = np.flatnonzero(ranks == ranks[index])
    if before >= count or before + len(members) <= count:
        return before < count
    return index in _best_of_rank(points, members, count - before)


def _best_of_rank(points: Points, members: NDArray[np.int64], count: int) -> list[int]:
    """The best of one rank; see `best`."""
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    first = int(np.argmin(points[members, 0]))
    chosen = select_by_hypervolume(points[members], reference, count, first)
    return [int(members[i]) for i in chosen]
