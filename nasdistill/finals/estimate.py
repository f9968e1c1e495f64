"""How long a search will take on this machine: from a few steps, before its first trial."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from nasdistill.common import formats, locks
from nasdistill.common.errors import UserError
from nasdistill.evaluation.comparison import CORRUPTED
from nasdistill.evaluation.corruptions import CORRUPTIONS
from nasdistill.models.inference import SMALL
from nasdistill.teachers import LogitPrecision
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import CachedTargets, needed_students
from nasdistill.training import quick_seconds_per_step
from nasdistill.training.failures import FAILURES
from nasdistill.trials.autotune import NO_LEARNING, draw_within_limits, precision_for
from nasdistill.trials.context import StudyContext
from nasdistill.trials.loop import expected_examples, expected_trials, full_runs
from nasdistill.trials.training_setup import TrainingSetup

STUDENTS = 6
"""Students that are drawn and timed: they differ by a factor of ten."""
TEACHER_IMAGES = 64
"""Images of which the teacher's logits are timed."""
FORWARD = 1 / 3
"""Share of a training step that is its forward pass: backwards it is gone through twice."""
ASK_SECONDS, EXPORT_SECONDS = 0.2, 5.5
"""The sampler's for a trial, and those of a final's export with latencies, which are timed for a
fixed time: of one machine (docs/time.md)."""


class Pace(NamedTuple):
    """Seconds of one process, while the others are at work.

    Attributes:
        example: Of training the students of a run on an example, in the mean over some.
        answer: Of the teacher's logits of an image, as they are kept.
        tested: The same in fp32, as it is tested on the test split.
        latency: Of a measurement of latency; 0 where there are none.
    """

    example: float
    answer: float
    tested: float
    latency: float


class Parts(NamedTuple):
    """Seconds of all workers together, from the beginning to the end of each part.

    Attributes:
        trials: Asked for, measured, trained and scored.
        answers: That all wait for the teacher's logits.
        finals: Trained, tested, exported, evaluated.
    """

    trials: float
    answers: float
    finals: float


def tell_estimate(context: StudyContext, workers: int) -> None:
    """Tells how long a study that has not begun will take, if the machine stays as busy as it is.

    Only on a CPU.

    Args:
        context: The study's.
        workers: Local processes that share the work.
    """
    begun = any(candidate.rungs for candidate in context.study.candidates())
    if begun or context.dataset.train.labels.device.type != "cpu":  # a card's steps are captured
        return
    if max(context.dataset.input.size) > SMALL:
        context.note("timing some students, to tell how long the search takes", stage="search")
    try:
        pace = _measure_pace(context, workers)
    except (*FAILURES, UserError):  # the trials will tell of it
        return
    examples, seconds = expected_examples(context), sum(duration(context, pace, workers))
    context.note(
        f"about {formats.seconds(seconds)} on this machine, as busy as it is now: "
        f"{examples.trials + examples.finals:,.0f} training images at "
        f"{workers / pace.example:,.0f} a second",
        stage="teacher",
        eta_seconds=seconds,
    )


def duration(context: StudyContext, pace: Pace, workers: int) -> Parts:
    """The seconds of a study from here on: what workers share, and what one alone is at.

    Args:
        context: The study's.
        pace: Of this machine.
        workers: Local processes. As many as there are trials share these; finals are fewer, and the
            last of them keeps the others waiting.
    """
    recipe, data = context.recipe, context.dataset
    examples, reached = expected_examples(context), expected_trials(context)
    live = pace.example + _live(context.scoring, pace)
    score = len(data.score) * FORWARD * pace.example
    shared = examples.trials * live + sum(reached) * score + recipe.trials * ASK_SECONDS
    trials = shared / min(workers, recipe.trials) + recipe.trials * pace.latency  # others pause
    finals = _finals_seconds(context, pace, workers)
    return Parts(trials, _answers_seconds(context, pace, workers), finals)


def _live(setup: TrainingSetup, pace: Pace) -> float:
    """Seconds of the teacher for a training example: none where its logits are kept and enough."""
    reads = setup.objective.reads_layers and bool(setup.needed_targets)
    return pace.answer if reads else 0.0


def _finals_seconds(context: StudyContext, pace: Pace, workers: int) -> float:
    """All workers train finals; one of them tests, exports and evaluates all, one by one."""
    data, count = context.dataset, context.recipe.top_k
    a_run = context.final_examples * (pace.example + _live(context.final, pace))
    each = full_runs(context.recipe) / count
    corrupted = len(CORRUPTIONS) * min(CORRUPTED, len(data.test))
    seen = len(data.test) + corrupted
    tested = (seen + len(data.audit)) * FORWARD * pace.example + EXPORT_SECONDS
    turns = math.ceil(count / workers)
    return turns * each * a_run + count * tested + seen * pace.tested


def _answers_seconds(context: StudyContext, pace: Pace, workers: int) -> float:
    """Seconds in which all wait for the teacher, view by view; those of some share the cost.

    All begin with the first view, which one of them asks for. Further views are asked for when a
    trial climbs, while others train; those that the finals begin with keep all waiting again.
    """
    per_epoch, most = context.scoring.stream.examples_per_epoch, context.recipe.views
    a_view = len(context.final.stream.dataset.train) * pace.answer
    budgets = context.ladder.budgets

    def views(examples: int) -> int:
        return min(most, math.ceil(examples / per_epoch))

    seen, waiting = 0, 0.0
    scoring, final = _caches(context.scoring), _caches(context.final)
    if scoring:
        first, seen = views(budgets[0]), views(budgets[-1])
        waiting += math.ceil(first / workers) + (seen - first) / workers
    if final:
        seen = seen if final == scoring else 0
        waiting += math.ceil(max(0, min(most, context.final_epochs) - seen) / workers)
    return waiting * a_view


def _caches(setup: TrainingSetup) -> list[LogitCache]:
    """Where logits are kept for its runs."""
    return [each.cache for each in setup.needed_targets.values() if isinstance(each, CachedTargets)]


def _measure_pace(context: StudyContext, workers: int) -> Pace:
    """Times steps of some students, and the teacher, while the other workers pause.

    Other threads stand for them: whether they have begun yet is chance.
    """
    rng, setup = random.Random(context.recipe.seed), context.scoring.labels_only()
    runs = []
    for _ in range(STUDENTS):
        students = setup.students(draw_within_limits(context, rng), context.dataset, 0)[:1]
        precision = precision_for(context, setup, students)  # probed here, the trials need not
        runs.append(
            setup.run(students, horizon=1, lr_schedule=NO_LEARNING, seed=0, precision=precision)
        )
    with locks.quiet(context.latency_lock):  # that it waits for others to pause is not timed
        start = time.perf_counter()
        if context.needs_latency:
            context.latency_now(students[0])
        latency = time.perf_counter() - start if context.needs_latency else 0.0
        with _others_at_work(workers - 1):
            step = sum(map(quick_seconds_per_step, runs)) / len(runs)
            answer = _seconds_per_answer(context, context.teacher.precision)
            tested = _seconds_per_answer(context, "fp32")
    together = needed_students(context.scoring.needed_targets)
    return Pace(together * step / setup.stream.batch_size, answer, tested, latency)


@contextmanager
def _others_at_work(count: int) -> Iterator[None]:
    """Keeps cores as busy as the other workers will: alone, a process is up to twice as fast."""
    done = threading.Event()

    def multiply() -> None:
        matrix = torch.ones(512, 512)
        while not done.is_set():
            torch.mm(matrix, matrix)

    threads = [threading.Thread(target=multiply, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _seconds_per_answer(context: StudyContext, precision: LogitPrecision) -> float:
    """Seconds of one process for the teacher's logits of an image; 0 where they are recorded."""
    if not context.teacher.runs:
        return 0.0
    teacher = replace(context.teacher, precision=precision)
    train = context.scoring.stream.dataset.train
    ids = torch.arange(min(TEACHER_IMAGES, len(train)))
    [batch] = train.batches([(ids, None)], teacher.input.size)
    teacher.logits(batch.images).cpu()  # the first of a shape chooses kernels
    start = time.perf_counter()
    teacher.logits(batch.images).cpu()
    return (time.perf_counter() - start) / len(ids)
