"""The estimate of a search's duration, against sums worked by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from small_study import OpenContext

from nasdistill.common.events import Event
from nasdistill.finals import estimate
from nasdistill.finals.estimate import Pace, duration, tell_estimate
from nasdistill.trials.loop import search

PACE = Pace(
    example=0.001,
    forward=0.0003,
    macs=1000,
    counted=0.04,
    answer=0.002,
    tested=0.003,
    latency=0.5,
)
# Of four trials, the n-th at a rung goes on if it is among the best half so far, rounded up.
SECOND = 1 + 1 / 2 + 2 / 3 + 2 / 4
THIRD = 1 + 1 / 2 + (SECOND - 2) * 2 / 3
SCORE = 51 * 0.0003  # 51 images, forwards alone
FINAL_RUN = 2000 * 0.001  # four epochs of 500
# 200 images of the test split, six times worse ones, and the audit half.
# Its file is written in the time of 80 counts, and timed for half a second, as is the teacher's,
# with batches of 1 and of 64.
TESTED = (200 + 6 * 200 + 48) * 0.0003 + 80 * 0.04 + 2 * 2 * 0.5
ASK = 3 * 0.04


def test_what_is_counted_with_two_workers(opened: OpenContext) -> None:
    context = opened(trials=4)
    sizes = [len(getattr(context.dataset, part)) for part in ("train", "score", "audit", "test")]
    assert sizes == [501, 51, 48, 200]
    parts = duration(context, PACE, 2)
    # Rungs of 200, 400 and 800 cost 200, 280 and 560 examples.
    training = (4 * 200 + SECOND * 280 + THIRD * 560) * 0.001
    shared = training + (4 + SECOND + THIRD) * SCORE + 4 * ASK
    assert parts.trials == pytest.approx(shared / 2 + 4 * 0.5), "others pause for latency"
    # The first view keeps both waiting; the second is asked for while the other trains.
    assert parts.answers == pytest.approx((1 + 1 / 2) * 501 * 0.002)
    # The finals are trained at once, and tested one by one; the teacher is tested once.
    assert parts.finals == pytest.approx(FINAL_RUN + 2 * TESTED + 1400 * 0.003)


def test_more_workers_than_finals_make_these_no_quicker(opened: OpenContext) -> None:
    context = opened(trials=24, top_k=3, baseline=True)
    one, two, many = (duration(context, PACE, workers) for workers in (1, 2, 8))
    rest = 3 * TESTED + 1400 * 0.003
    assert one.finals == pytest.approx(3 * 2 * FINAL_RUN + rest), "each has its baseline"
    assert two.finals == pytest.approx(2 * 2 * FINAL_RUN + rest)
    assert many.finals == pytest.approx(2 * FINAL_RUN + rest)
    assert one.answers == pytest.approx(2 * 501 * 0.002)
    latency = 24 * 0.5
    assert one.trials - latency == pytest.approx(8 * (many.trials - latency))


def test_what_a_recipe_leaves_out_costs_nothing(opened: OpenContext) -> None:
    own = {"terms": [{"term": "labels"}]}
    context = opened(trials=4, stopping=False, scoring=own, final=own)
    parts = duration(context, PACE._replace(latency=0.0), 1)
    assert parts.answers == 0
    assert parts.trials == pytest.approx(4 * (1.04 + 3 * SCORE + ASK)), "all climb every rung"


def test_a_teacher_whose_layers_are_read_answers_at_every_step(opened: OpenContext) -> None:
    context = opened(trials=4)
    plain = duration(context, PACE, 1)
    objective: Any = SimpleNamespace(reads_layers=True, teachers=["teacher"])
    context.final = replace(context.final, objective=objective)
    assert duration(context, PACE, 1).finals - plain.finals == pytest.approx(2 * 2000 * 0.002)


def test_the_estimate_is_told_before_the_first_trial_and_once(
    opened: OpenContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened(trials=4)
    monkeypatch.setattr(estimate, "_measure_pace", lambda context, workers: PACE)
    tell_estimate(context, 2)
    assert events[-1].eta_seconds == pytest.approx(sum(duration(context, PACE, 2)))
    training = 4 * 200 + SECOND * 280 + THIRD * 560 + 2 * 2000
    assert events[-1].text == (
        "about 23 s on this machine, as busy as it is now: "
        f"{training:,.0f} training images at 2,000 a second"
    )
    search(context, 0.0)
    count = len(events)
    tell_estimate(context, 2)
    assert len(events) == count, "it has begun"


def test_it_is_measured_on_this_machine(opened: OpenContext, events: list[Event]) -> None:
    context = opened()
    pace = estimate._measure_pace(context, 2)
    assert pace.latency == 0 and min(pace[:-1]) > 0
    assert estimate._measure_pace(opened(minimize="latency", study="slow"), 1).latency > 0.2
    tell_estimate(context, 1)
    assert events[-1].eta_seconds is not None and events[-1].eta_seconds > 2 * 2 * 2 * 0.5
