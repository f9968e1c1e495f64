"""Trials in this process, within their time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from nasdistill.common.events import Emit, Event
from nasdistill.recipe import Recipe
from nasdistill.study import Study
from nasdistill.trials.context import StudyContext
from nasdistill.trials.proposals import counted, give_up_on_failures, propose
from nasdistill.trials.trial import OutOfTime, run_trial


@dataclass(frozen=True)
class Deadlines:
    """`time.monotonic()` at which searching and the whole command must end."""

    search: float | None
    whole: float | None


def run(study: Study, bench: StudyContext, begun: float, emit: Emit) -> Deadlines:
    """Runs trials until none is left for this process.

    Args:
        study: The study.
        bench: What its trials share.
        begun: `time.monotonic()` at which the command began.
        emit: Told what happens.

    Returns:
        When the command must end.

    Raises:
        UserError: If no trial can be run.
    """
    deadlines = _deadlines(study, bench, begun)
    emit(Event("stage", f"searching: {study.recipe.trials} trials", stage="search"))
    exhausted = False
    while True:
        if not exhausted or study.has_abandoned():
            ended = search(study, bench, emit, deadlines.search)
            note_saved(study, bench)
        if ended == "exhausted" and not exhausted:
            exhausted = True
            emit(Event("warning", "the space has no new architecture to offer within the limits"))
            study.set("exhausted_at", study.recipe.trials)
        late = deadlines.search is not None and time.monotonic() > deadlines.search
        if ended == "time" or (late and study.others_running()):
            emit(Event("warning", "the search's share of the time limit is used up"))
            return deadlines
        if not study.others_running():
            return deadlines
        time.sleep(1.0)


def note_saved(study: Study, bench: StudyContext) -> None:
    """Stores how many answers the cache gave this worker, less those that it asked for.

    The worker that asks is not always the one that uses the answer: only the sum over workers means
    something.
    """
    saved = sum(cache.served - cache.asked for cache in bench.faculty.caches.values())
    study.set(f"saved:cache:{study.worker}", saved)


def _deadlines(study: Study, bench: StudyContext, begun: float) -> Deadlines:
    """Divides the time limit between search and finals by the examples that each will see."""
    recipe, ladder = study.recipe, bench.ladder
    if recipe.time_limit is None:
        return Deadlines(None, None)
    whole = begun + recipe.time_limit
    final = bench.final_examples * _full_runs(recipe)
    going, searching = float(recipe.trials), 0.0
    for rung in range(len(ladder.budgets)):
        before = ladder.examples(rung - 1) if rung else 0
        searching += going * (ladder.examples(rung) - before)
        going /= ladder.eta if recipe.stopping else 1
    if recipe.race:
        searching += 2 * recipe.top_k * ladder.with_race(bench.final_examples).budgets[-1]
    left = whole - time.monotonic()
    return Deadlines(time.monotonic() + left * searching / (searching + final), whole)


def _full_runs(recipe: Recipe) -> int:
    """How many trainings at the final budget are to come."""
    each, shared = 1 + recipe.baseline, 0
    if recipe.iterate is not None and recipe.iterate.generations is not None:
        each += recipe.iterate.generations - 1
    elif recipe.iterate is not None:
        each, shared = each + 1, len(recipe.iterate.assistants or ())
    return each * recipe.top_k + shared


def search(study: Study, bench: StudyContext, emit: Emit, deadline: float | None) -> str:
    """Runs trials until the study's total is reached.

    Args:
        study: The study.
        bench: What its trials share.
        emit: Told what happens.
        deadline: `time.monotonic()` at which the search must end.

    Returns:
        Why it ended: `complete`, `time` or `exhausted`. Other workers may still hold trials.

    Raises:
        UserError: If no architecture of the space keeps the limits, or the first trials all fail.
    """
    while True:
        number = study.take_up()
        if number is None:
            if counted(study) >= study.recipe.trials:
                return "complete"
            if deadline is not None and time.monotonic() > deadline:
                return "time"
            start = time.perf_counter()
            number = propose(study, bench, emit)
            study.add_seconds("gates", time.perf_counter() - start)
            if number is None and counted(study) < study.recipe.trials:
                return "exhausted"
            if number is None:  # Another worker was quicker to take the last slot.
                continue
        try:
            with study.holding(number):
                run_trial(study, bench, number, emit, deadline)
        except OutOfTime:
            return "time"
        give_up_on_failures(study)
