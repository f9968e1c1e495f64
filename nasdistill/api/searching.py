"""Studies: searched, gone on with, distilled, reported."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.analysis.audit import full_runs
from nasdistill.analysis.selection import contenders, select_finals
from nasdistill.api.paths import recipe_of
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, warning_once
from nasdistill.common.files import REPORTS, STUDIES
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.results import COUNTED, Candidate, StudyRecord, load_finals, load_study, study_names
from nasdistill.trials.loop import Deadlines, note_saved, run
from nasdistill.trials.plugins import check_plugins, load_plugins
from nasdistill.workers.calibration import settle
from nasdistill.workers.pool import WorkerPool, crew

if TYPE_CHECKING:
    from nasdistill.study import Study
    from nasdistill.trials.context import StudyContext
    from nasdistill.trials.plugins import Plugins


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left behind.

    Attributes:
        record: The study.
        report: Path of the HTML page.
        already_complete: Whether there was nothing left to do.
    """

    record: StudyRecord
    report: Path
    already_complete: bool


def search(
    recipe: Recipe | None = None,
    *,
    command: str = "",
    on_event: Emit | None = None,
    **options: Any,
) -> SearchOutcome:
    """Searches, distils the top-k in full, and writes the report.

    Calling it again with the same recipe goes on where it stopped.

    Args:
        recipe: The whole configuration; or give its keys as `options`.
        command: The command line that the report shows.
        on_event: Told what happens.
        **options: Keys of a recipe, as in YAML: `space="mobile"`, `trials=24`, ….

    Returns:
        The study's record and the report's path.

    Raises:
        UserError: For anything that the caller can mend.
    """
    begun = time.monotonic()
    recipe = recipe or load_recipe(None, options)
    emit = warning_once(on_event or silent)
    imported = load_plugins(recipe)
    from nasdistill.common.machine import set_threads
    from nasdistill.study import Study
    from nasdistill.trials.context import open_context

    study = Study.open(recipe, STUDIES, command)
    try:
        check_plugins(study, imported)
        if _is_complete(study):
            path = report(study.folder.name)
            return SearchOutcome(load_study(study.folder.name, STUDIES), path, True)
        study.set("stage", "searching")
        with crew(recipe, study, emit) as workers:
            if not workers.on_trial:
                workers.share("search", workers.size, begun=begun)
            bench = open_context(study, imported, emit)
            if workers.on_trial:
                settle(workers, study, bench, emit)
                workers.share("search", workers.size, begun=begun)
            set_threads(workers.size)
            deadlines = run(study, bench, begun, emit)
            _finish(study, imported, bench, deadlines, emit, workers)
    except UserError:
        # A search that could not begin leaves nothing behind that would bind the next try.
        if study.created and not any(c.state in COUNTED for c in study.candidates()):
            study.discard()
        raise
    return _outcome(study, emit)


def resume(
    study: str, *, overrides: Mapping[str, Any] | None = None, on_event: Emit | None = None
) -> SearchOutcome:
    """Goes on with a study.

    Args:
        study: Its name.
        overrides: New values of `trials`, `time_limit`, `top_k`, `workers` or `cache_size`.
        on_event: Told what happens.

    Raises:
        UserError: If there is no such study, or for anything else that the caller can mend.
    """
    record = load_study(study, STUDIES)
    return search(recipe_of(record, overrides), command=record.command, on_event=on_event)


def distill(
    study: str,
    *,
    trial: int | None = None,
    top_k: int | None = None,
    on_event: Emit | None = None,
) -> SearchOutcome:
    """Makes more finals of a study.

    Args:
        study: Its name.
        trial: The trial to distil in full; or
        top_k: how many finals to have in all.
        on_event: Told what happens.

    Raises:
        UserError: If there is no such trial, it has no score, or another process is making the
            study's finals.
    """
    from nasdistill.finals.pipeline import missing
    from nasdistill.study import Study

    emit = warning_once(on_event or silent)
    record = load_study(study, STUDIES)
    recipe = recipe_of(record)
    imported = load_plugins(recipe)
    opened = Study.open(recipe, STUDIES, record.command)
    check_plugins(opened, imported)
    if trial is not None:
        _check_trial(trial, opened.candidates())
        opened.set(f"final_failed:{trial}", None)  # Asked for by name, it is tried again.

    def wanted() -> list[int]:
        """Trials that are finals, or are to become some."""
        made = list(opened.attrs.get("finals", []))
        if trial is not None:
            return made if trial in made else [*made, trial]
        count, limit = top_k or recipe.top_k, opened.attrs.get("limits", {}).get("accuracy", 0.0)
        final_examples, full = opened.attrs.get("final_examples"), full_runs(opened.folder)
        ranked = select_finals(
            opened.candidates(), recipe.minimize, count, limit, final_examples, full
        )
        return made + [c.number for c in ranked if c.number not in made]

    with crew(recipe, opened, emit, finals=len(missing(opened, wanted()))) as workers:
        if not _finish(opened, imported, None, Deadlines(None, None), emit, workers, wanted):
            raise UserError(
                f"study {study!r}: another process is making its finals; ask again when it has "
                "ended"
            )
    return _outcome(opened, emit)


def report(study: str) -> Path:
    """Writes `reports/<study>/index.html` anew and gives its path.

    Raises:
        UserError: If there is no such study, or it has nothing to report.
    """
    from nasdistill.report import write_report

    record = load_study(study, STUDIES)
    path = REPORTS / study / "index.html"
    write_report(record, path)
    return path


def studies() -> list[StudyRecord]:
    """All studies below `./studies`, by name."""
    return [load_study(name, STUDIES) for name in study_names(STUDIES)]


def _finish(
    study: Study,
    imported: Plugins,
    bench: StudyContext | None,
    deadlines: Deadlines,
    emit: Emit,
    workers: WorkerPool,
    wanted: Callable[[], list[int]] | None = None,
) -> bool:
    """Makes the finals: all workers train them, this process tests and exports them.

    Args:
        study: The study.
        imported: What the user's own file brings.
        bench: What its finals share; opened here if None.
        deadlines: When search and command must end.
        emit: Told what happens.
        workers: Who trains.
        wanted: Names the trials; the search's own choice if None.

    Returns:
        False if another process is at it.
    """
    from nasdistill.finals.pipeline import distill_finals, missing
    from nasdistill.trials.context import open_context

    with study.finals_lease() as mine:
        if not mine:
            emit(Event("note", "another process is making the finals"))
            return False
        bench = bench or open_context(study, imported, emit)
        if wanted is None:
            chosen = _choose(study, bench, deadlines, emit, workers)
        else:
            chosen = wanted()
            study.set("finals", chosen)
        study.set("stage", "distilling")
        emit(Event("stage", f"finals to distil in full: {len(chosen)}", stage="finals"))
        workers.share("finals", len(missing(study, chosen)))
        if chosen:
            distill_finals(study, bench, chosen, emit, deadlines.whole)
        note_saved(study, bench)
        study.set("stage", "complete" if _is_complete(study) else "searching")
    return True


def _choose(
    study: Study, bench: StudyContext, deadlines: Deadlines, emit: Emit, workers: WorkerPool
) -> list[int]:
    """Lets the last rungs race, and chooses the top-k; once for a number of trials and finals."""
    from nasdistill.trials.race import run_race

    recipe, made = study.recipe, list(study.attrs.get("finals", []))
    if study.attrs.get("chosen_from") == _choice(study):
        return made
    limit, full = study.attrs["limits"]["accuracy"], full_runs(study.folder)
    rule = (recipe.minimize, recipe.top_k, limit, bench.final_examples, full)
    if recipe.race and study.attrs.get("raced_from") != _choice(study):
        study.set("race", [c.number for c in contenders(study.candidates(), *rule)])
        study.set("raced_from", _choice(study))
    left = [n for n in study.attrs.get("race", []) if f"race:{n}" not in study.attrs]
    if recipe.race and left:
        emit(Event("stage", f"forecasts overlap: {len(left)} trials race", stage="search"))
        workers.share("race", len(left))
        run_race(study, bench, left, emit, deadlines.search, wait=True)
    candidates = study.candidates()
    chosen = made + [c.number for c in select_finals(candidates, *rule) if c.number not in made]
    if not chosen:
        best = max((c.score or 0.0 for c in candidates), default=0.0)
        emit(
            Event(
                "warning",
                f"no trial reached the accuracy floor of {limit:.3f} (best score {best:.3f}): "
                "no finals. Lower --min-accuracy, raise the rungs' budgets, or run more trials",
            )
        )
    study.set("finals", chosen)
    study.set("chosen_from", _choice(study))
    return chosen


def _choice(study: Study) -> list[int]:
    """What a choice of finals rests on: trials that have ended, finals wanted."""
    ended = sum(c.state in COUNTED and c.state != "running" for c in study.candidates())
    return [ended, study.recipe.top_k]


def _outcome(study: Study, emit: Emit) -> SearchOutcome:
    emit(Event("stage", "writing the report", stage="report"))
    start = time.perf_counter()
    path = report(study.folder.name)
    study.add_seconds("report", time.perf_counter() - start)
    running = {str(c.number) for c in study.candidates() if c.state == "running"}
    for work in (study.folder / "trials").glob("*"):
        if work.name not in running:
            shutil.rmtree(work, ignore_errors=True)
    if _is_complete(study):  # no worker looks for the race's files any more
        shutil.rmtree(study.folder / "race", ignore_errors=True)
    return SearchOutcome(load_study(study.folder.name, STUDIES), path, False)


def _is_complete(study: Study) -> bool:
    """Whether nothing is left to do: trials counted, the top-k distilled."""
    attrs, candidates, recipe = study.attrs, study.candidates(), study.recipe
    if "limits" not in attrs or study.others_running():
        return False
    counted = sum(c.state in COUNTED for c in candidates)
    if counted < recipe.trials and attrs.get("exhausted_at") != recipe.trials:
        return False
    made = {final.number for final in load_finals(study.folder)}
    failed = (key for key, why in attrs.items() if key.startswith("final_failed:") and why)
    made |= {int(key.split(":")[1]) for key in failed}
    return attrs.get("chosen_from") == _choice(study) and made >= set(attrs["finals"])


def _check_trial(number: int, candidates: list[Candidate]) -> None:
    scored = [c.number for c in candidates if c.state in ("complete", "stopped")]
    if number not in scored:
        there = ", ".join(map(str, scored)) or "none"
        raise UserError(f"--trial {number}: no such trial with a score (there: {there})")
