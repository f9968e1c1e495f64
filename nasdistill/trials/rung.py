"""One rung of a trial: trained up to it, cooled down, scored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import nn

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.events import Event, telling
from nasdistill.common.seeds import hash_seed
from nasdistill.results import Candidate, RungScore
from nasdistill.study import architecture_of
from nasdistill.training import LRSchedule, Run
from nasdistill.training.metrics import accuracy
from nasdistill.trials.autotune import choose_capture, inference_for, precision_for
from nasdistill.trials.context import StudyContext
from nasdistill.trials.training_setup import TrainingSetup

Result = TypeVar("Result")


def start_run(
    context: StudyContext,
    setup: TrainingSetup,
    candidate: Candidate,
    seed: int,
    micro_batch: int | None,
) -> Run:
    """The run that rungs branch off from, at its beginning.

    Args:
        context: The study's.
        setup: The parts of the run.
        candidate: Whose architecture.
        seed: Of weights and dropout, with the architecture's fingerprint.
        micro_batch: Most examples that the student sees at once; None for whole batches.
    """
    students = setup.students(architecture_of(candidate), context.dataset, seed)
    run = setup.run(
        students,
        horizon=context.ladder.budgets[-1],
        lr_schedule=_trunk_schedule(context, setup),
        seed=hash_seed((seed, candidate.fingerprint)),
        precision=precision_for(context, setup, students, micro_batch),
        micro_batch=micro_batch,
    )
    choose_capture(context, setup, run)
    return run


def _trunk_schedule(context: StudyContext, setup: TrainingSetup) -> LRSchedule:
    """Warms up over a third of the first rung, then holds."""
    rate = context.recipe.rate(setup.beginning.kind)
    budgets = context.ladder.budgets
    return LRSchedule(rate, budgets[0] // 3, None, budgets[-1])


def train_rung(
    context: StudyContext, setup: TrainingSetup, run: Run, rung: int, number: int
) -> RungScore:
    """Trains the trunk up to a rung, cools a copy of it down, and scores the copy.

    Args:
        context: The study's.
        setup: The parts of the run.
        run: The trunk; changed in place.
        rung: Index from 0.
        number: The trial's, for events.

    Raises:
        OutOfTime: At the search's deadline.
    """
    budget, turn = context.ladder.budgets[rung], context.ladder.trunk_end(rung)
    with locks.busy(context.latency_lock):
        setup.prepare(budget, run.step)
    start = time.perf_counter()
    _train_until(context, run, turn, f"trunk of rung {rung}", rung, number)
    schedule = run.lr_schedule
    cooled = run.branch(LRSchedule(schedule.peak, schedule.warm_up, turn, budget))
    _train_until(context, cooled, budget, f"branch of rung {rung}", rung, number)
    return _score(context, cooled, rung, number, start)


def _train_until(
    context: StudyContext, run: Run, until: int, text: str, rung: int, number: int
) -> None:
    """Trains while no other worker measures, and tells how it goes."""
    for progress in locks.pausing(training.train(run, until), context.latency_lock):
        context.deadlines.check_search()
        context.emit(
            Event(
                "progress",
                text,
                stage="search",
                trial=number,
                rung=rung,
                done=progress.examples,
                total=context.ladder.budgets[rung],
                images_per_second=progress.images_per_second,
            )
        )


def _score(context: StudyContext, run: Run, rung: int, number: int, start: float) -> RungScore:
    """Scores a run's best student on the score half; `start` is `time.perf_counter()`."""

    def emit(event: Event) -> None:
        context.emit(replace(event, trial=number, rung=rung))

    data, predictions = context.dataset, []
    with_progress = telling(f"scoring rung {rung}", "search", len(data.score), emit)
    for student in run.students:
        inference = inference_for(context, student)  # which locks in another order
        with locks.busy(context.latency_lock):
            prediction = training.predict(
                student, data.score, data.input.size, with_progress, inference
            )
        predictions.append(prediction)
    peers = tuple(context.score_of(prediction).share for prediction in predictions)
    logits, labels = chosen = predictions[peers.index(max(peers))]
    best = context.score_of(chosen)
    loss = float(nn.functional.cross_entropy(logits, labels))
    return RungScore(
        rung,
        context.ladder.budgets[rung],
        accuracy(logits, labels),
        best.low,
        best.high,
        loss,
        time.perf_counter() - start,
        peers if len(peers) > 1 else (),
        None if context.recipe.score == "accuracy" else best.share,
    )


def fit_in_memory(
    setup: TrainingSetup,
    train: Callable[[int | None], Result],
    *,
    micro_batch: int | None,
    remember: Callable[[int], None],
    warn: Callable[[str], None],
    place: str = "",
) -> Result:
    """Trains with whole batches and, where memory runs out, once more in micro-batches.

    Args:
        setup: The parts of the run.
        train: See `training.with_micro_batches`.
        micro_batch: Examples in a micro-batch where that was decided before, else None.
        remember: Stores that the run goes on in micro-batches of so many examples.
        warn: Told in words.
        place: Where memory ran out, in words that follow "out of memory".
    """

    def mark(examples: int) -> None:
        remember(examples)
        warn(f"out of memory{place}; tried again in micro-batches of {examples}")

    return training.with_micro_batches(
        train,
        batch=setup.stream.batch_size,
        coupled=setup.objective.coupled,
        micro_batch=micro_batch,
        mark=mark,
    )
