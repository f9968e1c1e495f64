"""Schedules that warm up, or run within a part of the run."""

from __future__ import annotations

import pytest

from nasdistill.losses.schedules import constant, during, linear, schedule, steps, warm_up, within


def test_warm_up_rises_and_stays() -> None:
    rising = warm_up(2.0, 0.25)
    assert [rising(p) for p in (0.0, 0.125, 0.25, 0.5, 1.0)] == pytest.approx([0, 1, 2, 2, 2])
    assert schedule({"warm_up": [2.0, 0.25]})(0.125) == pytest.approx(1.0)


def test_within_runs_its_whole_course_and_is_nothing_outside() -> None:
    part = within(linear(1.0, 3.0), 0.2, 0.6)
    values = [part(p) for p in (0.0, 0.19, 0.2, 0.4, 0.59, 0.6, 1.0)]
    assert values == pytest.approx([0, 0, 1, 2, 2.95, 0, 0])
    last = within(linear(1.0, 3.0), 0.6, 1.0)
    assert [last(p) for p in (0.59, 0.6, 0.8, 1.0)] == pytest.approx([0, 1, 2, 3])


def test_parts_follow_each_other_without_gap_or_overlap() -> None:
    ends = [0.0, 0.3, 0.7, 1.0]
    parts = [within(constant(1.0), a, b) for a, b in zip(ends, ends[1:], strict=False)]
    for progress in (0.0, 0.299999, 0.3, 0.5, 0.7, 0.9999, 1.0):
        assert sum(part(progress) for part in parts) == 1.0


def test_during_holds_its_ends_outside() -> None:
    part = during(linear(8.0, 2.0), 0.2, 0.6)
    assert [part(p) for p in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([8, 8, 5, 2, 2])


def test_the_order_of_steps_does_not_matter() -> None:
    assert steps({0.5: 2.0, 0.0: 1.0})(0.75) == 2.0
