"""Where studies and reports lie, and what a user's own file adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.errors import UserError
from nasdistill.recipe import Recipe, from_stored
from nasdistill.results import Emit, Event, StudyRecord, load_study, storage_of

if TYPE_CHECKING:
    from nasdistill.imported import Imported
    from nasdistill.study import Study

STUDIES = Path("studies")
REPORTS = Path("reports")


def final_folder(study: str, rank: str) -> Path:
    """The folder of a final.

    Raises:
        UserError: If there is no such study or final.
    """
    record = load_study(study, STUDIES)
    ranks = {str(final.rank): final.folder for final in record.finals}
    if rank not in ranks:
        there = ", ".join(ranks) or "none"
        raise UserError(f"study {study!r} has no final {rank!r} (there: {there})")
    return ranks[rank]


def recipe_of(record: StudyRecord, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that a study was made with; a few keys may be given anew."""
    stored = {"study": record.name, "storage": storage_of(record.folder)}
    return from_stored(record.recipe, {**(overrides or {}), **stored})


def read_import(recipe: Recipe) -> Imported:
    """Runs the file given by `--import`, and makes its families and sources known."""
    return import_own(recipe.import_file)


def import_own(file: str | None) -> Imported:
    """Runs a file of the user's own, if there is one, and makes its families and sources known."""
    from nasdistill.data import register_sources
    from nasdistill.imported import import_file
    from nasdistill.models import register_families

    imported = import_file(file)
    register_families(imported.families)
    register_sources(imported.sources)
    return imported


def silent(event: Event) -> None:
    """Says nothing."""


def warning_once(emit: Emit) -> Emit:
    """Passes events on; a warning that several workers give only once."""
    warned: set[str] = set()

    def told(event: Event) -> None:
        if event.kind == "warning":
            if event.text in warned:
                return
            warned.add(event.text)
        emit(event)

    return told


def check_import(study: Study, imported: Imported) -> None:
    """Holds the file given by `--import` against the one that a study was made with.

    Raises:
        UserError: If it has changed.
    """
    if study.once("import_fingerprint", lambda: imported.fingerprint) != imported.fingerprint:
        raise UserError(
            f"study {study.folder.name!r}: the file given by --import has changed since the study "
            "was made"
        )
