"""The estimate of a search's duration, against sums worked by hand."""

from __future__ import annotations

import pytest
from small_study import OpenContext

from nasdistill.common.events import Event
from nasdistill.trials import estimate
from nasdistill.trials.estimate import tell_estimate
from nasdistill.trials.loop import search


def test_the_estimate_is_told_before_the_first_trial_and_once(
    opened: OpenContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened(trials=4)
    monkeypatch.setattr(estimate, "quick_seconds_per_step", lambda run: 0.05)  # of 50 examples
    monkeypatch.setattr(estimate, "_seconds_per_answer", lambda context: 0.002)
    tell_estimate(context, 2)
    # Rungs of 200, 400 and 800 cost 200, 280 and 560 examples; half the trials go on at each. Two
    # finals of 4 epochs of 500, and up to four in the race with 1,000 each.
    training = 4 * 200 + 2 * 280 + 1 * 560 + 4 * 1000 + 2 * 2000
    seconds = (training * 0.001 + 2 * 501 * 0.002 + 4 * 1.5 + 2 * 15) / 2
    assert events[-1].eta_seconds == pytest.approx(seconds)
    assert events[-1].text == (
        "about 24 s on this machine, as busy as it is now: 9,920 training images at 2,000 a second"
    )
    search(context, 0.0)
    count = len(events)
    tell_estimate(context, 2)
    assert len(events) == count, "it has begun"


def test_it_is_measured_on_this_machine(opened: OpenContext, events: list[Event]) -> None:
    tell_estimate(opened(), 1)
    assert events[-1].eta_seconds is not None
    assert 40.5 < events[-1].eta_seconds < 40.5 + 60, (
        "beside trials and finals, seconds of training"
    )
