"""Numbers that change over the course of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """The same value all the way."""
    return lambda progress: value


def linear(start: float, end: float) -> Schedule:
    """A straight line from `start` to `end`."""
    return lambda progress: start + (end - start) * progress


def cosine(start: float, end: float) -> Schedule:
    """Half a cosine wave from `start` to `end`."""
    return lambda progress: end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def warm_up(value: float, over: float) -> Schedule:
    """A straight line from 0 to `value` over the first `over` of the run, then `value`."""
    return lambda progress: value * min(1.0, progress / over)


def within(inner: Schedule, start: float, end: float) -> Schedule:
    """A schedule that is run through between two points, and is 0 outside.

    Args:
        inner: The schedule.
        start: Progress at which it begins.
        end: Progress at which it ends; at 1 it holds to the very end.
    """

    def value(progress: float) -> float:
        if progress < start or (progress >= end and end < 1.0):
            return 0.0
        return inner((progress - start) / (end - start))

    return value


def during(inner: Schedule, start: float, end: float) -> Schedule:
    """The same, but held at its ends outside: for what is no weight."""
    return lambda progress: inner(min(1.0, max(0.0, (progress - start) / (end - start))))


def where_on(inner: Schedule) -> Schedule:
    """1 where another schedule is not 0, and 0 where it is."""
    return lambda progress: float(inner(progress) != 0.0)


def steps(values: Mapping[float, float]) -> Schedule:
    """Constant pieces: `values[p]` holds from progress `p` on; the smallest key must be 0."""
    ordered = sorted(values.items())
    assert ordered[0][0] == 0.0

    def value(progress: float) -> float:
        return [v for at, v in ordered if at <= progress][-1]

    return value


SCHEDULES: dict[str, Callable[[Any], Schedule]] = {
    "linear": lambda pair: linear(*pair),
    "cosine": lambda pair: cosine(*pair),
    "warm_up": lambda pair: warm_up(*pair),
    "steps": steps,
}


def schedule(spec: float | Mapping[str, Any]) -> Schedule:
    """Makes a schedule from a validated recipe value: a number, or `{linear: [a, b]}` and so on."""
    if isinstance(spec, Mapping):
        ((kind, value),) = spec.items()
        return SCHEDULES[kind](value)
    return constant(float(spec))
