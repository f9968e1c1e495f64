"""The end of a search, led by one worker: the choice of finals, the finals, whether all is done."""

from __future__ import annotations

from collections.abc import Callable

from nasdistill.analysis.selection import SelectionRule, select_finals
from nasdistill.common.events import Event
from nasdistill.deployment.files import missing_files
from nasdistill.finals.estimate import tell_estimate
from nasdistill.finals.pipeline import make_finals, missing_finals
from nasdistill.results import COUNTED, keys, load_finals
from nasdistill.study import Study
from nasdistill.study.sharing import take_finals
from nasdistill.trials.context import StudyContext
from nasdistill.trials.experience import keep_experience, tell_experience
from nasdistill.trials.loop import record_saved_answers


def tell_prospects(context: StudyContext, workers: int) -> None:
    """Tells what a study that has not begun learns from, and how long it will take.

    Args:
        context: The study's.
        workers: Processes that share the work.
    """
    tell_experience(context)
    tell_estimate(context, workers)


def finish(context: StudyContext, chosen: list[int], share: Callable[[int], None]) -> None:
    """Makes the finals: all workers train them, this process tests and exports them.

    Args:
        context: The study's.
        chosen: Trials that are finals, or are to become some, by rank.
        share: Has the other workers train finals, of which so many are missing.
    """
    study = context.study
    study.write(keys.STATE, "distilling")
    context.emit(Event("stage", f"finals to distil in full: {len(chosen)}", stage="finals"))
    share(len(missing_finals(study, chosen)))
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
    count = sum(c.state in COUNTED for c in study.candidates())
    if count < recipe.trials and study.read(keys.EXHAUSTED_AT) != recipe.trials:
        return False
    take_finals(study)
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
            study.files.remove(work)
    if is_complete(study):
        study.write(keys.STATE, "complete")
