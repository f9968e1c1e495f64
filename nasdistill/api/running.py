"""Trials in this process and in local workers."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasdistill.api.places import STUDIES, OnEvent, read_import
from nasdistill.errors import UserError
from nasdistill.recipe import Recipe
from nasdistill.results import Event

if TYPE_CHECKING:
    from nasdistill.bench import Bench
    from nasdistill.imported import Imported
    from nasdistill.study import Study


@dataclass(frozen=True)
class Deadlines:
    """`time.monotonic()` at which searching and the whole command must end."""

    search: float | None
    whole: float | None


def run(study: Study, imported: Imported, begun: float, emit: OnEvent) -> Deadlines:
    """Runs trials until none is left for this process."""
    from nasdistill import trials
    from nasdistill.bench import open_bench

    bench = open_bench(study, imported, emit)
    study.bench = bench
    deadlines = _deadlines(study, bench, begun)
    emit(Event("stage", f"searching: {study.recipe.trials} trials", stage="search"))
    exhausted = False
    while True:
        if not exhausted or study.has_abandoned():
            ended = trials.search(study, bench, emit, deadlines.search)
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


def note_saved(study: Study, bench: Bench) -> None:
    """Stores how many answers the cache gave this worker without asking the teacher."""
    saved = sum(cache.served - cache.asked for cache in bench.faculty.caches.values())
    study.set(f"saved:cache:{study.worker}", max(0, saved))


def _deadlines(study: Study, bench: Bench, begun: float) -> Deadlines:
    """Divides the time limit between search and finals by the examples that each will see."""
    recipe, ladder = study.recipe, bench.ladder
    if recipe.time_limit is None:
        return Deadlines(None, None)
    whole = begun + recipe.time_limit
    final = recipe.final_budget.examples(len(bench.final.feed.dataset.train))
    final *= _full_runs(recipe)
    going, searching = float(recipe.trials), 0.0
    for rung in range(len(ladder.budgets)):
        before = ladder.examples(rung - 1) if rung else 0
        searching += going * (ladder.examples(rung) - before)
        going /= ladder.eta if recipe.stopping else 1
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


@contextmanager
def children(recipe: Recipe, name: str, emit: OnEvent) -> Iterator[None]:
    """Starts `workers - 1` further processes on the study; their events come here, too."""
    if recipe.workers == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    events: multiprocessing.Queue[Event] = context.Queue()
    processes = [
        context.Process(target=_worker, args=(recipe, name, events))
        for _ in range(recipe.workers - 1)
    ]
    for process in processes:
        process.start()
    over = threading.Event()

    def forward() -> None:
        while not over.is_set():
            try:
                emit(events.get(timeout=0.2))
            except queue.Empty:
                continue

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
        over.set()
        thread.join()


def _worker(recipe: Recipe, name: str, events: multiprocessing.Queue[Event]) -> None:
    """A further process: it runs trials, and leaves the finals to the first one."""
    from nasdistill.study import Study

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        imported = read_import(recipe)
        study = Study.open(recipe, STUDIES, "")
        run(study, imported, time.monotonic(), events.put)
    except UserError as error:
        events.put(Event("warning", f"a worker of {name} ended: {error}"))
    except KeyboardInterrupt:
        pass


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on behind the user's back."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
