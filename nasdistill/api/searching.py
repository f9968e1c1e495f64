"""Studies: searched, gone on with, distilled, reported."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.api.moving import has_moved, relocate, teachers_at
from nasdistill.api.paths import recipe_of, study_record
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, warning_once
from nasdistill.common.files import REPORTS, STUDIES
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.results import (
    COUNTED,
    Candidate,
    DamagedStudy,
    StudyRecord,
    keys,
    load_studies,
    load_study,
    storage_errors,
    storage_url,
)

if TYPE_CHECKING:  # a study's storage is slow to import, and reports need none
    from nasdistill.data import Dataset
    from nasdistill.study import Study


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of a search.

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
    emit = warning_once(on_event or silent)
    return _search(recipe or load_recipe(None, options), command, time.monotonic(), emit)


def _search(
    recipe: Recipe, command: str, begun: float, emit: Emit, dataset: Dataset | None = None
) -> SearchOutcome:
    """See `search`; `dataset` holds the study's data where they are loaded already."""
    from nasdistill.api import stages
    from nasdistill.deployment.formats import check_formats
    from nasdistill.finals import leading
    from nasdistill.models.latency import check_engine
    from nasdistill.study import Study
    from nasdistill.study.sharing import take_results
    from nasdistill.trials.plugins import check_plugins, load_plugins

    check_formats(recipe.shipped_formats)
    check_engine(recipe.latency_engine)
    plugins = load_plugins(recipe.import_file)
    study = Study.open(recipe, STUDIES, command)
    with storage_errors(study.url):
        try:
            check_plugins(study, plugins)
            if leading.is_complete(study):
                leading.close(study)  # whoever made the last final may have ended before it could
                take_results(study)
                path = report(study.folder.name)
                return SearchOutcome(load_study(study.folder.name, STUDIES), path, True)
            stages.run_search(study, plugins, begun, emit, dataset)
        except UserError:
            # A search that could not begin leaves nothing behind that would bind the next try.
            if study.created and not any(c.state in COUNTED for c in study.candidates()):
                study.discard()
            raise
        return _outcome(study, emit)


def resume(
    study: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    teachers: Mapping[str, str] | None = None,
    on_event: Emit | None = None,
) -> SearchOutcome:
    """Goes on with a study.

    Args:
        study: Its name.
        overrides: New values of the keys in `recipe.FREE`, such as `trials` or `workers`; and new
            places of what was moved: `space`, `data`, `data_root`, `teacher`, `weights`, `import`.
        teachers: New places of further teachers, by name: `folder:PATH`, `table:FILE`, ….
        on_event: Told what happens.

    Raises:
        UserError: If there is no such study, what lies at a new place is not what the study was
            made with, or for anything else that the caller can mend.
    """
    begun, emit, dataset = time.monotonic(), warning_once(on_event or silent), None
    record = study_record(study)
    values = dict(overrides or {})
    if teachers:
        values["teachers"] = teachers_at(record, teachers)
    recipe = recipe_of(record, values)
    if has_moved(record, recipe):
        with storage_errors(storage_url(record.folder, recipe.storage)):
            dataset = relocate(record, recipe, emit)
    return _search(recipe, record.command, begun, emit, dataset)


def distill(
    study: str,
    *,
    trial: int | None = None,
    top_k: int | None = None,
    final_gpus: int | None = None,
    on_event: Emit | None = None,
) -> SearchOutcome:
    """Makes more finals of a study.

    A whole final is not made again; one whose folder has lost a file is, if its trial is named.

    Args:
        study: Its name.
        trial: The trial to distil in full; or
        top_k: how many finals to have in all.
        final_gpus: On how many GPUs each is trained; by default as before.
        on_event: Told what happens.

    Raises:
        UserError: If there is no such trial, it has no score, there are fewer GPUs, or another
            process is making the study's finals.
    """
    from nasdistill.api import stages
    from nasdistill.finals.pipeline import set_aside_incomplete
    from nasdistill.study import Study
    from nasdistill.trials.plugins import check_plugins, load_plugins

    emit = warning_once(on_event or silent)
    record = study_record(study)
    recipe = recipe_of(record, {} if final_gpus is None else {"final_gpus": final_gpus})
    plugins = load_plugins(recipe.import_file)
    opened = Study.open(recipe, STUDIES, record.command)
    check_plugins(opened, plugins)
    if trial is not None:
        _check_trial(trial, opened.candidates())
        set_aside_incomplete(opened, trial, emit)
        opened.write(keys.FINAL_FAILED.of(trial), None)  # Asked for by name, it is tried again.

    def final_numbers() -> list[int]:
        return _wanted_finals(opened, trial, top_k)

    with storage_errors(opened.url):
        done = stages.distill_more(opened, plugins, final_numbers, emit)
    if not done:
        emit(Event("note", "another process is making the finals"))
        raise UserError(
            f"study {study!r}: another process is making its finals; ask again when it has ended"
        )
    return _outcome(opened, emit)


def _wanted_finals(study: Study, trial: int | None, top_k: int | None) -> list[int]:
    """Trials that are finals, or are to become some, by rank."""
    from nasdistill.analysis.audit import FullRuns
    from nasdistill.analysis.selection import SelectionRule, select_finals
    from nasdistill.study.experience import experience_of

    finals = list(study.read(keys.FINALS) or ())
    if trial is not None:
        return finals if trial in finals else [*finals, trial]
    rule = SelectionRule(
        costs=study.recipe.minimize,
        count=top_k or study.recipe.top_k,
        min_accuracy=(study.read(keys.LIMITS) or {}).get("accuracy", 0.0),
        final_examples=study.read(keys.FINAL_EXAMPLES),
        full_accuracy=FullRuns(study.folder).accuracy(),
        experience=experience_of(study),
        chance=1 / max(1, len((study.read(keys.DATA) or {}).get("classes") or ())),
    )
    chosen = (candidate.number for candidate in select_finals(study.candidates(), rule))
    return finals + [number for number in chosen if number not in finals]


def _check_trial(number: int, candidates: Sequence[Candidate]) -> None:
    scored = [c.number for c in candidates if c.state in ("complete", "stopped")]
    if number not in scored:
        number_list = ", ".join(map(str, scored)) or "none"
        raise UserError(f"--trial {number}: no such trial with a score (there: {number_list})")


def report(study: str, *, on_event: Emit | None = None) -> Path:
    """Writes `reports/<study>/index.html` anew and gives its path.

    Args:
        study: Its name.
        on_event: Told what could not be read and is not in the report.

    Raises:
        UserError: If there is no such study, or it has nothing to report.
    """
    from nasdistill.report import write_report

    record = study_record(study)
    path = REPORTS / study / "index.html"
    for damage in write_report(record, path):
        (on_event or silent)(Event("warning", f"not in the report: {damage}", stage="report"))
    return path


def studies() -> list[StudyRecord | DamagedStudy]:
    """All studies below `./studies`, by name; one that cannot be read says why."""
    return load_studies(STUDIES)


def _outcome(study: Study, emit: Emit) -> SearchOutcome:
    from nasdistill.finals import leading
    from nasdistill.study.sharing import take_results

    emit(Event("stage", "writing the report", stage="report"))
    start = time.perf_counter()
    take_results(study)
    path = report(study.folder.name, on_event=emit)
    study.add_seconds("report", time.perf_counter() - start)
    leading.close(study)
    return SearchOutcome(load_study(study.folder.name, STUDIES), path, False)
