"""The stages of a search: trials, the choice of finals, the finals."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from nasdistill.common.events import Emit, Event
from nasdistill.common.machine import set_threads
from nasdistill.data import Dataset
from nasdistill.finals.leading import choose_finals, finish, is_complete, tell_prospects
from nasdistill.finals.pipeline import missing_finals, train_ahead
from nasdistill.finals.several import check_cards
from nasdistill.results import keys
from nasdistill.study import Study
from nasdistill.trials.context import StudyContext, open_context
from nasdistill.trials.loop import record_saved_answers, search
from nasdistill.trials.plugins import Plugins
from nasdistill.workers import ray
from nasdistill.workers.calibration import calibrate
from nasdistill.workers.process import WorkerPool, started_workers

FINALS_ARE_MADE = "another process is making the finals"
LEADERLESS_SECONDS = 60.0
"""How long a worker that has joined a study waits for finals to be chosen."""


def run_search(
    study: Study, plugins: Plugins, begun: float, emit: Emit, dataset: Dataset | None = None
) -> None:
    """Runs the trials that are missing, and makes the finals.

    Args:
        study: The study.
        plugins: What the user's own file brings.
        begun: `time.monotonic()` at which the command began.
        emit: Told what happens.
        dataset: See `open_context`.
    """
    study.write(keys.STATE, "searching")
    if study.recipe.engine == "ray":
        _search_on_ray(study, begun, emit)
        return
    check_cards(study.recipe)
    with started_workers(study, emit) as workers:
        if not workers.provisional:
            workers.assign("search", workers.size, begun=begun)
        context = open_context(study, plugins, emit, dataset)
        if workers.provisional:
            calibrate(workers, context)
            workers.assign("search", workers.size, begun=begun)
        set_threads(workers.size)
        tell_prospects(context, workers.size)
        search(context, begun)
        with study.finals_lease() as leased:
            if leased:
                chosen = choose_finals(context)
                finish(context, chosen, lambda count: _share_finals(workers, context, count))
            else:
                context.note(FINALS_ARE_MADE)


def _search_on_ray(study: Study, begun: float, emit: Emit) -> None:
    """As `run_search`, by workers on a cluster: this process only says who does what."""
    with ray.started_workers(study, emit, useful=max(study.recipe.trials, 1)) as workers:
        workers.search(begun)
        with study.finals_lease() as leased:
            if leased:
                workers.finish(None, begun)
            else:
                emit(Event("note", FINALS_ARE_MADE))


def take_part(study: Study, plugins: Plugins, begun: float, emit: Emit) -> None:
    """Runs trials of a study that another command began, and trains finals once it has chosen them.

    Args:
        study: The study.
        plugins: What the user's own file brings.
        begun: `time.monotonic()` at which this command began.
        emit: Told what happens.
    """
    with started_workers(study, emit, tries_out=False) as workers:
        workers.assign("search", workers.size, begun=begun)
        context = open_context(study, plugins, emit)
        set_threads(workers.size)
        search(context, begun)
        alone_since = time.monotonic()
        while not is_complete(study):
            if study.read(keys.STATE) == "distilling" and study.finals_held():
                missing = len(missing_finals(study, study.require(keys.FINALS)))
                _share_finals(workers, context, missing)
                train_ahead(context)
                context.note("no final is left to train; another process tests and exports them")
                break
            if time.monotonic() - alone_since > LEADERLESS_SECONDS:
                name = shlex.quote(study.folder.name)
                context.warn(
                    "no trial is left to run, and no command makes the finals: give "
                    f"`nasdistill resume {name}` where the study was begun"
                )
                break
            time.sleep(1.0)
        record_saved_answers(context)
        workers.assign("leave", 1)
        while workers.size > 1:  # they end what they are at
            time.sleep(0.5)


def distill_more(
    study: Study, plugins: Plugins, final_numbers: Callable[[], list[int]], emit: Emit
) -> bool:
    """Makes more finals of a study.

    Args:
        study: The study.
        plugins: What the user's own file brings.
        final_numbers: Names the trials that are finals, or are to become some.
        emit: Told what happens.

    Returns:
        False if another process is making the study's finals.
    """
    count = len(missing_finals(study, final_numbers()))
    if study.recipe.engine == "ray":
        return _distill_on_ray(study, final_numbers, emit, count)
    check_cards(study.recipe)
    with started_workers(study, emit, finals=count) as workers, study.finals_lease() as leased:
        if not leased:
            return False
        context = open_context(study, plugins, emit)
        chosen = final_numbers()
        study.write(keys.FINALS, chosen)
        finish(context, chosen, lambda count: _share_finals(workers, context, count))
        return True


def _share_finals(workers: WorkerPool, context: StudyContext, count: int) -> None:
    """Has the other local workers train finals, too; one that takes several GPUs needs them all."""
    if context.recipe.final_gpus == 1:
        workers.assign("finals", count)


def _distill_on_ray(
    study: Study, final_numbers: Callable[[], list[int]], emit: Emit, count: int
) -> bool:
    """As `distill_more`, by workers on a cluster."""
    with study.finals_lease() as leased:
        if not leased:
            return False
        with ray.started_workers(study, emit, useful=max(count, 1)) as workers:
            chosen = final_numbers()
            study.write(keys.FINALS, chosen)
            workers.finish(chosen, None)
        return True
