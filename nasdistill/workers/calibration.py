"""Several students at once on one card: tried, and kept up only where it gains."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.workers.pool import WorkerPool

if TYPE_CHECKING:
    from nasdistill.study import Study
    from nasdistill.trials.context import StudyContext

GAIN = 1.25
"""How many times as many steps a second all workers together must make as one alone."""
OPENING = 180.0
"""Seconds after which a worker that has not opened the study is not waited for."""
GETTING_READY, WINDOW = 10.0, 2.0
"""Seconds that workers have to begin, the capture of a step included, and those that are timed."""
LAPS = 5
"""Laps of this process alone."""


def settle(workers: WorkerPool, study: Study, bench: StudyContext, emit: Emit) -> None:
    """Keeps workers that are on trial, or sends them away; which it was is kept with the study.

    All train the same student, first this process alone and then all of them in the same seconds.
    Small students leave most of a card idle, but processes that take turns on it can also hold each
    other up: which it is depends on the card, its driver and the students.

    Args:
        workers: Opened for the search, and on trial.
        study: The study.
        bench: What its trials share.
        emit: Told what was found.
    """
    from nasdistill.trials.trial import FAILURES

    count = workers.size
    workers.share("open", count)
    try:
        gain = _gain(workers, study, bench)
    except (UserError, *FAILURES):  # the trials will tell of it
        gain = None
    kept = gain is not None and gain >= GAIN
    if not kept:
        workers.dismiss()
    if gain is None:
        emit(Event("note", "students are tried one at a time: not all workers began"))
        return
    study.set("at_once", count if kept else 1)
    told = f"{count} students at once on this card: {gain:.2f} times as many steps a second as one"
    emit(Event("note", f"{told}; {'kept' if kept else 'so one at a time'}", stage="search"))


def _gain(workers: WorkerPool, study: Study, bench: StudyContext) -> float | None:
    """Steps a second of all workers ÷ those of this process alone; None if some did not begin."""
    from nasdistill.common import locks
    from nasdistill.training import PROBE_STEPS, seconds_a_lap, steps_a_second
    from nasdistill.trials.autotune import example_run

    count, run = workers.size, example_run(study, bench)
    if len(workers.answers(OPENING)) < count - 1:
        return None
    with locks.busy(bench.lock):
        seconds_a_lap(run)  # what is done once
        alone = PROBE_STEPS / statistics.median(seconds_a_lap(run) for _ in range(LAPS))
        begin = time.monotonic() + GETTING_READY
        workers.share("step", count, begin=begin, end=begin + WINDOW)
        steps = [steps_a_second(run, begin, begin + WINDOW), *workers.answers(GETTING_READY)]
    return sum(steps) / alone if len(steps) == count and all(steps) else None
