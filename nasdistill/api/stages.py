"""The stages of a search: trials, the choice of finals, the finals."""

from __future__ import annotations

from collections.abc import Callable

from nasdistill.common.events import Emit, Event
from nasdistill.common.machine import set_threads
from nasdistill.data import Dataset
from nasdistill.finals.leading import choose_finals, finish, tell_prospects
from nasdistill.finals.pipeline import missing_finals
from nasdistill.results import keys
from nasdistill.study import Study
from nasdistill.trials.context import open_context
from nasdistill.trials.loop import search
from nasdistill.trials.plugins import Plugins
from nasdistill.workers import ray
from nasdistill.workers.calibration import calibrate
from nasdistill.workers.process import started_workers

FINALS_ARE_MADE = "another process is making the finals"


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
                finish(context, chosen, lambda count: workers.assign("finals", count))
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


def distill_more(
    study: Study, plugins: Plugins, wanted: Callable[[], list[int]], emit: Emit
) -> bool:
    """Makes more finals of a study.

    Args:
        study: The study.
        plugins: What the user's own file brings.
        wanted: Names the trials that are finals, or are to become some.
        emit: Told what happens.

    Returns:
        False if another process is making the study's finals.
    """
    count = len(missing_finals(study, wanted()))
    if study.recipe.engine == "ray":
        return _distill_on_ray(study, wanted, emit, count)
    with started_workers(study, emit, finals=count) as workers, study.finals_lease() as leased:
        if not leased:
            return False
        context = open_context(study, plugins, emit)
        chosen = wanted()
        study.write(keys.FINALS, chosen)
        finish(context, chosen, lambda count: workers.assign("finals", count))
        return True


def _distill_on_ray(study: Study, wanted: Callable[[], list[int]], emit: Emit, count: int) -> bool:
    """As `distill_more`, by workers on a cluster."""
    with study.finals_lease() as leased:
        if not leased:
            return False
        with ray.started_workers(study, emit, useful=max(count, 1)) as workers:
            chosen = wanted()
            study.write(keys.FINALS, chosen)
            workers.finish(chosen, None)
        return True
