"""A study whose hosts have no disk in common: what they give each other, and when it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nasdistill.common.errors import UserError
from nasdistill.common.files import STUDIES
from nasdistill.common.shared_files import FilesAtURL, Place, SharedFiles, reach
from nasdistill.common.types import without_password
from nasdistill.common.yaml import read_yaml
from nasdistill.recipe import Recipe
from nasdistill.results import is_same_storage, noted_storage
from nasdistill.results.loading import final_folders
from nasdistill.study.place import is_study, note_storage

if TYPE_CHECKING:
    from nasdistill.study.study import Study


def reach_files(recipe: Recipe) -> Place | None:
    """Opens the URL by which the hosts of a study share its files; None where it names none.

    Raises:
        UserError: If it cannot be used, or the storage is one that other hosts do not see.
    """
    if recipe.files is None:
        return None
    if recipe.storage is None:
        raise UserError(
            f"--files {without_password(recipe.files)}: it is for hosts without a disk in common, "
            "but the study's storage is SQLite in its folder, which they do not see; give "
            "--storage, too, such as postgresql+psycopg://me@db.example/studies"
        )
    return reach(recipe.files)


def give_recipe(files: SharedFiles, folder: Path, recipe: Recipe) -> None:
    """Gives other hosts what a worker needs to join: the recipe, and small files that it names."""
    for name in _named_files(recipe.space, recipe.import_file):
        if Path(name).is_file():
            files.push(Path(name), f"named/{name}")
    files.push(folder / "recipe.yaml")


def take_study(url: str, name: str, storage: str | None) -> None:
    """Fetches what a worker needs to join a study, where its folder is not here.

    Files that the recipe names go to their path from the current folder; what is there stays.

    Args:
        url: Given by `--files`.
        name: The study's.
        storage: Its URL, as this host calls it; by default as the recipe says.

    Raises:
        UserError: If there is no such study at the URL, another one of its name is here, or its
            storage is not known.
    """
    folder = STUDIES / name
    if is_study(folder):
        _check_same_study(folder, storage)
        return
    files, recipe_file = FilesAtURL(reach(url), folder, name, _alone), folder / "recipe.yaml"
    beside = folder.with_name(f".{name}.recipe")  # recipe.yaml makes the folder a study
    beside.parent.mkdir(exist_ok=True)
    if not files.fetch(beside, "recipe.yaml"):
        raise UserError(
            f"--files {without_password(url)}: there is no {name}/recipe.yaml. Give the URL with "
            f"which the study {name!r} was begun; its search puts it there as it begins"
        )
    try:
        values = read_yaml(beside)
        known = storage or values.get("storage")
        if known is None or (storage is None and ":***@" in known):
            raise UserError(
                f"study {name!r}: its storage {known} needs a password; give the URL by "
                "NASDISTILL_STORAGE"
            )
        for path in _named_files(values.get("space"), values.get("import")):
            if not Path(path).exists():
                files.fetch(Path(path), f"named/{path}")
        folder.mkdir(exist_ok=True)
        note_storage(folder, known, name)
        beside.rename(recipe_file)
    finally:
        beside.unlink(missing_ok=True)


def _check_same_study(folder: Path, storage: str | None) -> None:
    """Refuses a folder that is another study's: its files would be taken for this one's."""
    noted = noted_storage(folder)
    if noted is None or (storage is not None and not is_same_storage(noted.url, storage)):
        where = "its folder" if noted is None else without_password(noted.url)
        raise UserError(
            f"study {folder.name!r}: {folder} is that of a study stored in {where}; join from "
            "another folder, or give the storage by the URL that is noted there"
        )


def _named_files(*values: object) -> list[str]:
    """Those of a recipe's values that are paths from the current folder."""
    paths = [Path(v) for v in values if isinstance(v, str) and v.endswith((".yaml", ".yml", ".py"))]
    return [path.as_posix() for path in paths if not path.is_absolute() and ".." not in path.parts]


@contextmanager
def _alone(name: str, wait: bool) -> Iterator[bool]:
    """The claim of a host that has not opened the study's storage yet, and makes nothing."""
    yield True


def take_finals(study: Study) -> None:
    """Fetches finals that other hosts have made: choices and forecasts go by them."""
    here = {folder.name for folder in final_folders(study.folder)}
    finals = study.folder / "finals"
    names = study.files.names(finals)
    for rank in sorted(name for name in names if name.isdigit() and name not in here):
        if "metrics.json" in study.files.names(finals / rank):  # else it is being given
            study.files.fetch(finals / rank)
    if "recommended.json" in names:
        study.files.fetch(finals / "recommended.json")


def take_results(study: Study) -> None:
    """Fetches what a report is made of, where workers on other hosts have made it."""
    take_finals(study)
    study.files.fetch(study.folder / "artifacts")
