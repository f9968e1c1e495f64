"""How long a search will take on this machine: from a few steps, before its first trial."""

from __future__ import annotations

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nasdistill.common import formats, locks
from nasdistill.common.errors import UserError
from nasdistill.data import Split
from nasdistill.evaluation.comparison import CORRUPTED
from nasdistill.evaluation.corruptions import CORRUPTIONS
from nasdistill.finals.measurement import TIMED_BATCHES, TIMED_SECONDS
from nasdistill.models.counts import count_architecture
from nasdistill.models.inference import SMALL
from nasdistill.teachers import LogitPrecision
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import CachedTargets, needed_students
from nasdistill.training import Run, quick_seconds_per_step
from nasdistill.training.failures import FAILURES
from nasdistill.trials.autotune import NO_LEARNING, draw_within_limits, precision_for
from nasdistill.trials.candidate_pool import POOL
from nasdistill.trials.channels import LOOKED_AT
from nasdistill.trials.context import StudyContext
from nasdistill.trials.cutting import CutFrom, step_epochs, steps_to_make
from nasdistill.trials.loop import expected_examples, expected_trials, full_runs
from nasdistill.trials.screening import draws_candidates
from nasdistill.trials.training_setup import TrainingSetup

STUDENTS = 6
"""Students that are drawn and timed: they differ by a factor of ten."""
TIMED_IMAGES = 64
"""Images of which the logits of students and of the teacher are timed."""
ASKS, EXPORTS = 3, 80
"""What asking for a trial, and a final's export, take in architectures counted: all three are
Python's own work, of which one is timed here (docs/time.md)."""


class Pace(NamedTuple):
    """Seconds of one process, while the others are at work.

    Attributes:
        example: Of training the students of a run on an example, in the mean over some.
        forward: Of a student's logits of an image in fp32, in the mean over these.
        macs: Multiply-adds of a student, in the mean over these; no seconds.
        counted: Of drawing an architecture within the limits and counting it.
        answer: Of the teacher's logits of an image, as they are kept.
        tested: The same in fp32, as it is tested on the test split.
        latency: Of a measurement of latency; 0 where there are none.
    """

    example: float
    forward: float
    macs: float
    counted: float
    answer: float
    tested: float
    latency: float


class Parts(NamedTuple):
    """Seconds of all workers together, from the beginning to the end of each part.

    Attributes:
        cutting: Of the net that students are cut from, step by step, for which all wait.
        trials: Asked for, measured, trained and scored.
        answers: That all wait for the teacher's logits.
        finals: Trained, tested, exported, evaluated.
    """

    cutting: float
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
    examples, trials_by_rung = expected_examples(context), expected_trials(context)
    live = pace.example + _live(context.scoring, pace)
    score = len(data.score) * pace.forward
    each = ASKS * pace.counted + _begin_seconds(context, pace)
    shared = examples.trials * live + sum(trials_by_rung) * score + recipe.trials * each
    trials = shared / min(workers, recipe.trials) + recipe.trials * pace.latency  # others pause
    known = len(context.study.space.start)  # the space's own designs are tried first
    if draws_candidates(context) and recipe.trials > known:  # the other workers wait
        trials += POOL * pace.counted
    answers, finals = (
        _answers_seconds(context, pace, workers),
        _finals_seconds(context, pace, workers),
    )
    return Parts(_cutting_seconds(context, pace), trials, answers, finals)


def _cutting_seconds(context: StudyContext, pace: Pace) -> float:
    """Steps of the cut, each trained, and its channels judged, as long as its size says.

    All that students may ask for count: trials of small ones ask for them early.
    """
    per_epoch, seconds = context.final.stream.examples_per_epoch, 0.0
    for step in steps_to_make(context):
        macs = count_architecture(step, context.dataset.input, context.classes).macs
        share = macs / pace.macs
        learned = (
            step_epochs(context) * per_epoch * (pace.example * share + _live(context.final, pace))
        )
        judged = LOOKED_AT * (pace.example + pace.forward) * share
        seconds += learned + judged
    return seconds


def _begin_seconds(context: StudyContext, pace: Pace) -> float:
    """Seconds until a student can begin: batch norm of those that are cut is estimated anew."""
    cut = isinstance(context.scoring.beginning, CutFrom)
    return LOOKED_AT * pace.forward if cut else 0.0


def _live(setup: TrainingSetup, pace: Pace) -> float:
    """Seconds of the teacher for a training example: none where its logits are kept and enough."""
    reads = setup.objective.reads_layers and bool(setup.needed_targets)
    return pace.answer if reads else 0.0


def _finals_seconds(context: StudyContext, pace: Pace, workers: int) -> float:
    """All workers train finals; one of them tests, exports and evaluates all, one by one."""
    data, count = context.dataset, context.recipe.top_k
    a_run = context.final_examples * (pace.example + _live(context.final, pace))
    a_run += _begin_seconds(context, pace)
    each = full_runs(context.recipe) / count
    corrupted = len(CORRUPTIONS) * min(CORRUPTED, len(data.test))
    seen = len(data.test) + corrupted
    models = 1 + context.teacher.runs
    exported = EXPORTS * pace.counted + models * len(TIMED_BATCHES) * TIMED_SECONDS
    tested = (seen + len(data.audit)) * pace.forward + exported
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
    if final and steps_to_make(context):  # one worker cuts, and the others wait
        waiting = seen = min(most, step_epochs(context))
    if scoring:
        known = seen if final == scoring else 0
        first, last = (max(known, views(budgets[place])) for place in (0, -1))
        waiting += math.ceil((first - known) / workers) + (last - first) / workers
        seen = max(seen, last) if final == scoring else seen
    if final:
        waiting += math.ceil(max(0, min(most, context.final_epochs) - seen) / workers)
    return waiting * a_view


def _caches(setup: TrainingSetup) -> list[LogitCache]:
    """Where logits are kept for its runs."""
    return [each.cache for each in setup.needed_targets.values() if isinstance(each, CachedTargets)]


def _measure_pace(context: StudyContext, workers: int) -> Pace:
    """Times steps of some students, and the teacher, while the other workers pause.

    Other threads stand for them: whether they have begun yet is chance.
    """
    rng, setup = random.Random(context.recipe.seed), context.scoring.labels_only().begun_fresh()
    draw_within_limits(context, rng)  # the first one imports
    start = time.perf_counter()
    drawn = [draw_within_limits(context, rng) for _ in range(STUDENTS)]
    counted = (time.perf_counter() - start) / STUDENTS
    shape, classes = context.dataset.input, context.classes
    macs = statistics.fmean(count_architecture(each, shape, classes).macs for each in drawn)
    runs, split = list[Run](), context.dataset.score
    for architecture in drawn:
        students = setup.students(architecture, context.dataset, 0)[:1]
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
            step = statistics.fmean(map(quick_seconds_per_step, runs))
            modules = (run.student.eval() for run in runs)
            forward = statistics.fmean(_seconds_per_image(m, split, shape.size) for m in modules)
            answer = _seconds_per_answer(context, context.teacher.precision)
            tested = _seconds_per_answer(context, "fp32")
    together = needed_students(context.scoring.needed_targets)
    example = together * step / setup.stream.batch_size
    return Pace(example, forward, macs, counted, answer, tested, latency)


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
    return _seconds_per_image(teacher.logits, train, teacher.input.size)


def _seconds_per_image(
    logits_of: Callable[[Tensor], Tensor], split: Split, size: tuple[int, int]
) -> float:
    ids = torch.arange(min(TIMED_IMAGES if max(size) <= SMALL else TIMED_IMAGES // 4, len(split)))
    [batch] = split.batches([(ids, None)], size)
    with torch.inference_mode():
        logits_of(batch.images)  # the first of a shape chooses kernels
        start = time.perf_counter()
        logits_of(batch.images)
    return (time.perf_counter() - start) / len(ids)
