"""How long a search will take on this machine: from a few steps, before its first trial."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nasdistill.common import formats, locks
from nasdistill.common.errors import UserError
from nasdistill.training import quick_seconds_per_step
from nasdistill.training.failures import FAILURES
from nasdistill.trials.autotune import NO_LEARNING, draw_within_limits
from nasdistill.trials.context import StudyContext
from nasdistill.trials.loop import expected_examples

STUDENTS = 4
"""Students that are drawn and timed: they differ by a factor of ten."""
TEACHER_IMAGES = 64
"""Images of which the teacher's logits are timed."""
TRIAL_SECONDS, FINAL_SECONDS = 1.5, 15.0
"""Besides training: asking, latency and scoring of a trial; test, export and quality of a final. Of
one worker, on the shipped data (docs/time.md)."""


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
    try:
        with locks.busy(context.latency_lock), _others_at_work(workers - 1):
            student, teacher = _seconds_per_example(context), _seconds_per_answer(context)
    except (*FAILURES, UserError):  # the trials will tell of it
        return
    recipe, examples = context.recipe, expected_examples(context)
    training = (examples.searching + examples.finals) * student
    asked = len(context.final.stream.dataset.train)
    answers = min(recipe.views, context.final_epochs) * asked * teacher
    rest = recipe.trials * TRIAL_SECONDS + recipe.top_k * FINAL_SECONDS
    seconds = (training + answers + rest) / workers
    context.note(
        f"about {formats.seconds(seconds)} on this machine, as busy as it is now: "
        f"{examples.searching + examples.finals:,.0f} training images at "
        f"{workers / student:,.0f} a second",
        stage="teacher",
        eta_seconds=seconds,
    )


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


def _seconds_per_example(context: StudyContext) -> float:
    """Seconds of one process for a training example, in the mean over some students."""
    rng, setup = random.Random(context.recipe.seed), context.scoring.labels_only()
    seconds = []
    for _ in range(STUDENTS):
        students = setup.students(draw_within_limits(context, rng), context.dataset, 0)[:1]
        run = setup.run(students, horizon=1, lr_schedule=NO_LEARNING, seed=0, precision="fp32")
        seconds.append(quick_seconds_per_step(run))
    return sum(seconds) / len(seconds) / setup.stream.batch_size


def _seconds_per_answer(context: StudyContext) -> float:
    """Seconds of one process for the teacher's logits of an image; 0 where they are recorded."""
    if not context.teacher.runs or not context.scoring.needed_targets:
        return 0.0
    train = context.scoring.stream.dataset.train
    ids = torch.arange(min(TEACHER_IMAGES, len(train)))
    [batch] = train.batches([(ids, None)], context.teacher.input.size)
    context.teacher.logits(batch.images[:8]).cpu()  # the first chooses kernels
    start = time.perf_counter()
    context.teacher.logits(batch.images).cpu()
    return (time.perf_counter() - start) / len(ids)
