import numpy as np
import pytest

from nasdistill.analysis.pareto import (
    as_points,
    hypervolume,
    non_dominated_ranks,
    select_by_hypervolume,
)


def test_ranks_of_three_fronts() -> None:
    points = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [4.0, 4.0], [2.0, 2.0]])
    assert non_dominated_ranks(points).tolist() == [0, 0, 0, 1, 2, 0]


def test_hypervolume_worked_by_hand() -> None:
    points = np.array([[1.0, 3.0], [2.0, 1.0]])
    # Below (4, 4): 3 x 1 from the first, 2 x 3 from the second, 2 x 1 of it counted twice.
    assert hypervolume(points, np.array([4.0, 4.0])) == pytest.approx(3 + 6 - 2)


def test_hypervolume_in_three_dimensions_worked_by_hand() -> None:
    points = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    # Boxes below (2, 2, 2): 2·2·1 = 4 and 1·1·2 = 2, which share 1·1·1.
    assert hypervolume(points, np.array([2.0, 2.0, 2.0])) == pytest.approx(5.0)


def test_points_outside_the_reference_count_nothing() -> None:
    points = np.array([[5.0, 0.0], [1.0, 1.0]])
    assert hypervolume(points, np.array([2.0, 2.0])) == pytest.approx(1.0)


def test_spread_takes_the_far_end_before_a_near_neighbour() -> None:
    points = as_points([[0.90, 100_000], [0.899, 99_000], [0.85, 10_000]])
    reference = points.max(axis=0) + 0.1
    assert select_by_hypervolume(points, reference, 2, first=0) == [0, 2]


def test_spread_gives_no_more_than_there_are() -> None:
    points = as_points([[0.9, 10.0]])
    assert select_by_hypervolume(points, points.max(axis=0) + 1, 5, first=0) == [0]
