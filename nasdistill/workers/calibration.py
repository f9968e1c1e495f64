"""Several students at once on one card: tried, and kept up only where it gains."""

from __future__ import annotations

import statistics
import time

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.results import keys
from nasdistill.training import WINDOW_STEPS, seconds_per_window, steps_per_second
from nasdistill.training.failures import FAILURES
from nasdistill.trials.autotune import example_run
from nasdistill.trials.context import StudyContext
from nasdistill.workers.process import WorkerPool

LEAST_GAIN = 1.25
"""How many times as many steps a second all workers together must make as one alone."""
OPENING_SECONDS = 180.0
"""After which a worker that has not opened the study is not waited for."""
READY_SECONDS, TIMED_SECONDS = 10.0, 2.0
"""That workers have to begin, the capture of a step included, and those that are timed."""
WINDOWS = 5
"""Timed windows of this process alone."""


def calibrate(workers: WorkerPool, context: StudyContext) -> None:
    """Keeps provisional workers, or sends them away; which it was is kept with the study.

    All train the same student, first this process alone and then all of them in the same seconds.
    Small students leave most of a card idle, but processes that take turns on it can also hold each
    other up: which it is depends on the card, its driver and the students.

    Args:
        workers: Started for the search, and provisional.
        context: The study's.
    """
    count = workers.size
    workers.assign("open", count)
    try:
        gain = _measure_gain(workers, context)
    except (UserError, *FAILURES):  # the trials will tell of it
        gain = None
    kept = gain is not None and gain >= LEAST_GAIN
    if not kept:
        workers.stop()
    if gain is None:
        context.note("students are tried one at a time: not all workers began")
        return
    context.study.write(keys.CONCURRENT_STUDENTS, count if kept else 1)
    text = f"{count} students at once on this card: {gain:.2f} times as many steps a second as one"
    context.note(f"{text}; {'kept' if kept else 'so one at a time'}", stage="search")


def _measure_gain(workers: WorkerPool, context: StudyContext) -> float | None:
    """Steps a second of all workers ÷ those of this process alone; None if some did not begin."""
    count, run = workers.size, example_run(context)
    if len(workers.wait_for_replies(OPENING_SECONDS)) < count - 1:
        return None
    with locks.busy(context.latency_lock):
        seconds_per_window(run)  # what is done once
        seconds = statistics.median(seconds_per_window(run) for _ in range(WINDOWS))
        begin = time.monotonic() + READY_SECONDS
        workers.assign("step", count, begin=begin, end=begin + TIMED_SECONDS)
        own = steps_per_second(run, begin, begin + TIMED_SECONDS)
        rates = [own, *workers.wait_for_replies(READY_SECONDS)]
    return sum(rates) * seconds / WINDOW_STEPS if len(rates) == count and all(rates) else None
