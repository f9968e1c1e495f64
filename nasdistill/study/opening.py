"""The opening of a study: created where there is none, else held against its recipe."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from nasdistill.common.locks import alone
from nasdistill.common.types import without_password
from nasdistill.recipe import Recipe
from nasdistill.results import keys, storage_errors, storage_url
from nasdistill.space import SearchSpace
from nasdistill.study.place import (
    check_same_recipe,
    check_same_space,
    create_folder,
    is_study,
)
from nasdistill.study.study import MakeSpace, Study


def open_study(
    recipe: Recipe,
    root: Path,
    command: str,
    *,
    moving: bool = False,
    make_space: MakeSpace | None = None,
) -> Study:
    """Opens the study that a recipe names, creating it where there is none.

    Args:
        recipe: The resolved recipe.
        root: Folder of studies.
        command: The command line, for the report of a new study.
        moving: Whether the recipe may name files at new places, until `store_recipe` says that
            they are the same.
        make_space: Makes the tree of a space that needs a net for it, for a new study; one that
            exists holds its tree.

    Raises:
        UserError: If the study exists and was made with another recipe.
    """
    folder = root / recipe.study_name()
    space, new = SearchSpace.load(recipe.space), not folder.exists()
    create_folder(folder)
    with alone(folder / "open.lock"):  # Optuna creates its tables without a lock.
        try:
            with storage_errors(storage_url(folder, recipe.storage)):
                study = Study(folder, recipe, space)
                if space.needs_base:
                    study.space = _with_tree(study, make_space)
                _adopt(study, recipe, command, moving)
                return study
        except BaseException:
            if new and not is_study(folder):  # nobody else has made it a study
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _with_tree(study: Study, make_space: MakeSpace | None) -> SearchSpace:
    """The study's space with its tree: the stored one, else one that is made now."""
    stored = study.read(keys.SPACE)
    if stored is not None and "template" in stored:
        return study.space.with_tree_of(stored)
    if stored is not None:  # of another space: refused below
        return study.space
    assert make_space is not None
    return make_space(study.space)


def _adopt(study: Study, recipe: Recipe, command: str, moving: bool) -> None:
    """Writes what a new study is made with; holds an old one's against the recipe."""
    name, stored = study.folder.name, study.read(keys.RECIPE)
    if stored is None:
        study.write(keys.SPACE, study.space.to_dict())
        study.write(keys.SPACE_FINGERPRINT, study.space.fingerprint)
        study.write(keys.COMMAND, without_password(command))
        study.write(keys.CREATED, time.time())
        study.created = True
    else:
        check_same_recipe(name, Recipe.model_validate(stored), recipe, moving=moving)
        check_same_space(name, recipe, study.space, study.attributes)
    if not moving:
        study.store_recipe()
