"""Workers that join a study from wherever its folder and its storage can be reached."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nasdistill.api.moving import check_places
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, silent, warning_once
from nasdistill.common.files import STUDIES
from nasdistill.common.types import without_password
from nasdistill.recipe import Recipe, from_stored, load_recipe
from nasdistill.results import load_study, storage_errors, storage_of

NEEDS = (
    "A worker needs the study's folder as well as its storage: checkpoints and the teachers' "
    "answers lie there. Give the command in the folder in which the study was begun, on a disk "
    "that both hosts share, or name the study's folder: nasdistill worker /SHARED/studies/{}. "
    "Without a disk in common, begin the study with --files URL, and give that URL here, too"
)


def enter(place: str) -> str:
    """Goes to where a study was begun: files that its recipe names lie by their path from there.

    Args:
        place: A study's folder, or its name below ./studies.

    Returns:
        Its name.

    Raises:
        UserError: If it is a folder, but none of a study.
    """
    if "/" not in place and place not in (".", ".."):
        return place
    folder = Path(place).resolve()
    if folder.parent.name != STUDIES.name or not (folder / "recipe.yaml").is_file():
        raise UserError(
            f"{place}: no study's folder. It is called …/{STUDIES}/NAME and holds recipe.yaml"
        )
    os.chdir(folder.parent.parent)
    return folder.name


def join(
    study: str,
    *,
    storage: str | None = None,
    files: str | None = None,
    workers: int | None = None,
    on_event: Emit | None = None,
) -> bool:
    """Works at a study that another command began: runs trials, trains finals, leaves.

    That command chooses the finals, tests and exports them, and writes the report.

    Args:
        study: Its name; the current folder is the one in which it was begun.
        storage: Its URL where this host calls it otherwise than the study's folder does.
        files: The URL by which hosts share the study's files, where this one does not see its
            folder: what is needed to join is fetched from there.
        workers: Local processes; by default as a search on this machine has.
        on_event: Told what happens.

    Returns:
        Whether the study is complete.

    Raises:
        UserError: If folder or storage cannot be reached, are not of one study, or for anything
            else that the caller can mend.
    """
    begun, emit = time.monotonic(), warning_once(on_event or silent)
    from nasdistill.finals.leading import is_complete
    from nasdistill.study import Study
    from nasdistill.study.sharing import take_study
    from nasdistill.trials.plugins import check_plugins, load_plugins

    if files is not None:
        files = load_recipe(None, {"files": files}).files
        take_study(str(files), study, storage)
    recipe = _stored_recipe(study, storage, files)
    plugins = load_plugins(recipe.import_file)
    opened = Study.open(recipe, STUDIES, "", joining=True)
    opened.recipe = opened.recipe.model_copy(update={"engine": "local", "workers": workers})
    with storage_errors(opened.url):
        check_plugins(opened, plugins)
        if not is_complete(opened):
            from nasdistill.api import stages

            stages.take_part(opened, plugins, begun, emit)
        return is_complete(opened)


def _stored_recipe(study: str, storage: str | None, files: str | None) -> Recipe:
    """The recipe that a study was begun with, read from its storage."""
    folder = STUDIES / study
    if not (folder / "recipe.yaml").is_file():
        where = "" if storage is None else f", whatever {without_password(storage)} holds"
        raise UserError(
            f"study {study!r}: there is no {folder}/recipe.yaml in {Path.cwd()}{where}. "
            + NEEDS.format(study)
        )
    record = load_study(study, STUDIES, storage=storage)
    url = storage or storage_of(folder)
    here = {} if files is None else {"files": files}  # as this host calls the URL
    recipe = from_stored(record.recipe, {"study": study, "storage": url, **here})
    check_places(record, recipe)
    return recipe
