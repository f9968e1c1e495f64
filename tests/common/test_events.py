"""Signs of life of work that takes a while."""

from __future__ import annotations

import itertools

import pytest

from nasdistill.common import events
from nasdistill.common.events import Event, with_signs_of_life


def events_of(
    monkeypatch: pytest.MonkeyPatch, seconds: float, images: int, total: int
) -> list[Event]:
    """What is told where each item takes so many seconds by a clock of the test's own."""
    clock = itertools.count()
    monkeypatch.setattr(events.time, "monotonic", lambda: seconds * next(clock))
    event_list: list[Event] = []
    items = range(-(-total // images))
    passed = with_signs_of_life(items, "reading images", "data", total, event_list.append, images)
    assert list(passed) == list(items)
    return event_list


def test_what_is_quick_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert events_of(monkeypatch, 0.01, 1, 199) == []


def test_what_is_slow_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    event_list = events_of(monkeypatch, 1.0, 100, 450)
    rows = [(e.done, e.total, e.images_per_second, e.eta_seconds) for e in event_list]
    assert rows == [
        (200, 450, 100, 2.5),
        (300, 450, 100, 1.5),
        (400, 450, 100, 0.5),
        (450, 450, 90, 0),
    ]
    assert {(e.kind, e.stage, e.text) for e in event_list} == {
        ("progress", "data", "reading images")
    }


def test_two_signs_are_half_a_second_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    event_list = events_of(monkeypatch, 0.125, 1, 24)
    assert [e.done for e in event_list] == [16, 20, 24]
