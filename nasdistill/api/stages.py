"""The stages of a search: trials, the choice of finals, the finals."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from nasdistill.analysis.selection import SelectionRule, select_finals
from nasdistill.common.events import Emit, Event
from nasdistill.common.machine import set_threads
from nasdistill.data import Dataset
from nasdistill.deployment.files import missing_files
from nasdistill.finals.estimate import tell_estimate
from nasdistill.finals.pipeline import make_finals, missing_finals
from nasdistill.results import COUNTED, keys, load_finals
from nasdistill.study import Study
from nasdistill.trials.context import StudyContext, open_context
from nasdistill.trials.experience import keep_experience, tell_experience
from nasdistill.trials.loop import record_saved_answers, search
from nasdistill.trials.plugins import Plugins
from nasdistill.workers.calibration import calibrate
from nasdistill.workers.pool import WorkerPool, started_workers


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
    with started_workers(study, emit) as workers:
        if not workers.provisional:
            workers.assign("search", workers.size, begun=begun)
        context = open_context(study, plugins, emit, dataset)
        if workers.provisional:
            calibrate(workers, context)
            workers.assign("search", workers.size, begun=begun)
        set_threads(workers.size)
        tell_experience(context)
        tell_estimate(context, workers.size)
        search(context, begun)
        with study.finals_lease() as leased:
            if leased:
                finish(context, workers, choose_finals(context))
            else:
                context.note("another process is making the finals")


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
    with started_workers(study, emit, finals=count) as workers, study.finals_lease() as leased:
        if not leased:
            return False
        context = open_context(study, plugins, emit)
        chosen = wanted()
        study.write(keys.FINALS, chosen)
        finish(context, workers, chosen)
        return True


def finish(context: StudyContext, workers: WorkerPool, chosen: list[int]) -> None:
    """Makes the finals: all workers train them, this process tests and exports them."""
    study = context.study
    study.write(keys.STATE, "distilling")
    context.emit(Event("stage", f"finals to distil in full: {len(chosen)}", stage="finals"))
    workers.assign("finals", len(missing_finals(study, chosen)))
    if chosen:
        make_finals(context, chosen)
        keep_experience(context)
    record_saved_answers(context)
    study.write(keys.STATE, "complete" if is_complete(study) else "searching")


def choose_finals(context: StudyContext) -> list[int]:
    """Chooses the top-k; once for a number of trials and finals."""
    study, recipe = context.study, context.recipe
    finals = list(study.read(keys.FINALS) or ())
    basis = _basis(study)
    if study.read(keys.CHOSEN_FROM) == basis:
        return finals
    floor, full_accuracy = context.limits["accuracy"], context.full_runs.accuracy()
    rule = SelectionRule(
        recipe.minimize,
        recipe.top_k,
        floor,
        context.final_examples,
        full_accuracy,
        context.experience,
        1 / context.classes,
    )
    candidates = study.candidates()
    chosen = [c.number for c in select_finals(candidates, rule)]
    finals += [number for number in chosen if number not in finals]
    if not finals:
        best = max((c.score or 0.0 for c in candidates), default=0.0)
        context.warn(
            f"no trial reached the {context.score_name} floor of {floor:.3f} (best score "
            f"{best:.3f}): no finals. Lower --min-accuracy, raise the rungs' budgets, or run "
            "more trials"
        )
    study.write(keys.FINALS, finals)
    study.write(keys.CHOSEN_FROM, basis)
    return finals


def is_complete(study: Study) -> bool:
    """Whether nothing is left to do: trials counted, the top-k distilled."""
    attributes, recipe = study.attributes, study.recipe
    if not study.has(keys.LIMITS) or study.others_running():
        return False
    counted = sum(c.state in COUNTED for c in study.candidates())
    if counted < recipe.trials and study.read(keys.EXHAUSTED_AT) != recipe.trials:
        return False
    finals = load_finals(study.folder)
    if any(missing_files(final.folder, final.metrics, recipe.shipped_formats) for final in finals):
        return False
    done = {final.number for final in finals}
    failed = keys.FINAL_FAILED.among(attributes).items()
    done |= {int(number) for (number,), reason in failed if reason}
    return study.read(keys.CHOSEN_FROM) == _basis(study) and done >= set(study.require(keys.FINALS))


def _basis(study: Study) -> list[int]:
    """The basis of a choice of finals: trials that have ended, finals wanted."""
    ended = sum(c.state in COUNTED and c.state != "running" for c in study.candidates())
    return [ended, study.recipe.top_k]


def close(study: Study) -> None:
    """Removes checkpoints that nobody will go on from, and notes that a study is complete."""
    running = {str(c.number) for c in study.candidates() if c.state == "running"}
    for work in (study.folder / "trials").glob("*"):
        if work.name not in running:
            shutil.rmtree(work, ignore_errors=True)
    if is_complete(study):
        study.write(keys.STATE, "complete")
