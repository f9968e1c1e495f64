"""The loop of a search: until its total, its deadline, or the end of the space."""

from __future__ import annotations

import time

from small_study import OpenContext

from nasdistill.common.events import Event
from nasdistill.results import keys
from nasdistill.trials.context import Deadlines
from nasdistill.trials.loop import choose_deadlines, record_saved_answers, run_trials, search

QUICK = {"rungs": {"first": "100 images", "count": 1}}


def test_the_total_ends_it(opened: OpenContext) -> None:
    context = opened(trials=2, **QUICK)
    assert run_trials(context) == "complete"
    assert sum(c.state == "complete" for c in context.study.candidates()) == 2
    assert run_trials(context) == "complete"
    assert sum(c.state == "complete" for c in context.study.candidates()) == 2


def test_the_deadline_ends_it(opened: OpenContext, events: list[Event]) -> None:
    context = opened(trials=50, **QUICK)
    context.deadlines = Deadlines(search=time.monotonic())
    assert run_trials(context) == "time"
    assert not any(c.rungs for c in context.study.candidates())


def test_the_end_of_the_space_is_noted(opened: OpenContext, events: list[Event]) -> None:
    context = opened(trials=500, max_params="2200", **QUICK)
    search(context, time.monotonic())
    assert "the space has no new architecture to offer within the limits" in [
        event.text for event in events if event.kind == "warning"
    ]
    assert context.study.read(keys.EXHAUSTED_AT) == 500
    assert all((c.params or 0) <= 2200 for c in context.study.candidates() if c.rungs)


def test_the_time_is_divided_by_the_examples_of_both_parts(opened: OpenContext) -> None:
    context = opened(trials=7, top_k=2, time_limit="1000s", baseline=True)
    begun = time.monotonic()
    deadlines = choose_deadlines(context, begun)
    assert deadlines.whole == begun + 1000 and deadlines.search is not None
    # Trunk to 480 of 800 images and cool-downs of 80, 160 and 320.
    first, second, third = 200, 120 + 160, 240 + 320
    assert [context.ladder.examples(rung) for rung in range(3)] == [
        first,
        first + second,
        first + second + third,
    ]
    # The n-th at a rung goes on if it is among the best half so far, rounded up.
    climb = 1 + 1 / 2 + 2 / 3 + 2 / 4 + 3 / 5 + 3 / 6 + 4 / 7
    last = 1 + 1 / 2 + 2 / 3 + 2 / 4 + (climb - 4) * 3 / 5
    searching = 7 * first + climb * second + last * third
    finals = 4 * 500 * 2 * 2  # four epochs of 500 images, each final with its baseline
    share = (deadlines.search - begun) / 1000
    assert abs(share - searching / (searching + finals)) < 0.01
    assert choose_deadlines(opened(study="free"), begun) == Deadlines()


def test_answers_saved_are_those_served_less_those_asked(opened: OpenContext) -> None:
    context = opened(trials=1, **QUICK)
    run_trials(context)
    record_saved_answers(context)
    (cache,) = context.teachers.caches.values()
    stored = context.study.require(keys.SAVED.of("cache", context.study.worker))
    assert stored == cache.served - cache.asked and cache.served == 100
