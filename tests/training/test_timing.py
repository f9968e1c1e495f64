"""Timed steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nasdistill.training import LRSchedule, timing


def test_the_mean_step_counts_after_one_that_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, one step in three waits for another process."""
    calls, times = [], iter([0.05, 0.1, 0.06, 9.0])

    def seconds(run: Any, warm_up: int, steps: int) -> float:
        calls.append((warm_up, steps))
        return next(times)

    monkeypatch.setattr(timing, "_seconds", seconds)
    run: Any = SimpleNamespace(
        lr_schedule=LRSchedule(0.1, 1, None, 1), branch=lambda schedule: SimpleNamespace()
    )
    assert timing.quick_seconds_per_step(run) == pytest.approx(0.07)
    assert calls == [(1, 1), (0, 1), (0, 1)]
