"""Studies and finals by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdistill.api.moving import check_name, check_places
from nasdistill.common.errors import UserError
from nasdistill.common.files import STUDIES
from nasdistill.common.types import MOST_NAME_BYTES, is_study_name
from nasdistill.recipe import Recipe, from_stored
from nasdistill.results import StudyRecord, load_study, storage_of


def study_record(name: str) -> StudyRecord:
    """Loads a study below `studies` that a user names.

    Raises:
        UserError: If there is no such study, or the name can be none.
    """
    if not is_study_name(name):
        quoted = repr(name) if len(name) <= 60 else repr(name[:57]) + "…"
        raise UserError(
            f"study {quoted}: no name of a study; allowed: at most {MOST_NAME_BYTES} bytes without "
            "'/' and control characters, the first not '.'"
        )
    return load_study(name, STUDIES)


def final_folder(study: str, rank: str) -> Path:
    """The folder of a final.

    Raises:
        UserError: If there is no such study or final.
    """
    record = study_record(study)
    ranks = {str(final.rank): final.folder for final in record.finals}
    if rank not in ranks:
        rank_list = ", ".join(ranks) or "none"
        damage = "".join(f"\n{sentence}" for sentence in record.damage)
        raise UserError(f"study {study!r} has no final {rank!r} (there: {rank_list}){damage}")
    return ranks[rank]


def recipe_of(record: StudyRecord, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that a study was made with; a few keys may be given anew.

    Raises:
        UserError: If the study cannot be gone on with under its folder's name, or files that the
            recipe names are not there.
    """
    check_name(record)
    stored = {"study": record.name, "storage": storage_of(record.folder)}
    recipe = from_stored(record.recipe, {**(overrides or {}), **stored})
    check_places(record, recipe)
    return recipe
