"""The place of a study: its folder, which may be copied, renamed or moved, and its storage."""

from __future__ import annotations

import shlex
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection

from nasdistill.common.errors import UserError
from nasdistill.common.files import write_private
from nasdistill.common.types import Cost, without_password
from nasdistill.recipe import FREE, MOVABLE, Recipe, changed_keys
from nasdistill.results import (
    STORAGE_FILE,
    check_writable,
    is_same_storage,
    keys,
    no_study_in,
    noted_storage,
    storage_of,
    storage_url,
    study_in,
)
from nasdistill.results.storage import storage_path

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / "recipe.yaml").exists()


def create_folder(folder: Path) -> None:
    """Makes a study's folder where there is none.

    Raises:
        UserError: If it cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the study's folder {folder}: {error.strerror}") from None
    check_writable(folder)


def locate_storage(folder: Path, given: str | None) -> str | None:
    """Finds the storage of a study; its file may have been moved along with the folder.

    Args:
        folder: The study's; it may be new.
        given: The URL that the user gives; None for SQLite in the folder.

    Returns:
        The URL; None for SQLite in the folder.

    Raises:
        UserError: If the study is stored elsewhere than given.
    """
    if not is_study(folder):
        return given
    noted, stored = noted_storage(folder), storage_of(folder)
    old, new = storage_url(folder, stored), storage_url(folder, given)
    if is_same_storage(old, new):
        return given
    if noted is not None and is_same_storage(noted.url, new):
        return stored  # given by its old path
    option = "without --storage" if stored is None else f"with --storage {without_password(old)}"
    raise UserError(
        f"study {folder.name!r} is stored in {without_password(old)}, not in "
        f"{without_password(new)}: give the command {option}, or another --study NAME"
    )


def name_in_storage(storage: BaseStorage, folder: Path, url: str) -> str:
    """The name in its storage of a study that may be new, renamed or copied.

    A folder that was copied beside its original, while the trials of both lie in one storage
    elsewhere, gets a copy of them under its own name.

    Args:
        storage: Opened.
        folder: The study's.
        url: The storage's.

    Raises:
        UserError: If the storage does not hold the study.
    """
    name = study_in(storage, folder, url)
    if name is None:
        if is_study(folder):
            raise no_study_in(storage, folder, url)
        return folder.name
    original, noted = folder.with_name(name), noted_storage(folder)
    if name == folder.name or noted is None or not is_study(original):
        return name
    theirs = noted_storage(original)
    if theirs is None or not is_same_storage(theirs.url, noted.url):
        return name
    if folder.name in optuna.get_all_study_names(storage):
        raise UserError(
            f"{folder} is a copy of {original}, and the storage {without_password(url)} holds "
            f"another study {folder.name!r} already: give the folder another name"
        )
    optuna.copy_study(
        from_study_name=name,
        from_storage=storage,
        to_storage=storage,
        to_study_name=folder.name,
    )
    note_storage(folder, noted.url, folder.name)
    return folder.name


def open_in(storage: BaseStorage, folder: Path, url: str, costs: Sequence[Cost]) -> optuna.Study:
    """Opens the study of a folder in its storage; makes it there if it is new.

    Args:
        storage: Opened.
        folder: The study's.
        url: The storage's.
        costs: All minimised; accuracy comes first.

    Raises:
        UserError: If the storage does not hold the study.
    """
    study = optuna.create_study(
        study_name=name_in_storage(storage, folder, url),
        storage=storage,
        directions=[StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * len(costs),
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )
    if keys.RECIPE.name not in study.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls this experimental
            study.set_metric_names(["accuracy", *costs])
    return study


def note_storage(folder: Path, url: str, name: str) -> None:
    """Writes down where a study is stored that is not stored in its folder, and its name there."""
    write_private(folder / STORAGE_FILE, f"{url}\n{name}\n")


def check_same_recipe(name: str, stored: Recipe, given: Recipe, *, moving: bool = False) -> None:
    """Holds the recipe of a command against the one that a study was made with.

    Args:
        name: The study's.
        stored: What the study was made with.
        given: What the command says.
        moving: Whether the keys that name files may differ.

    Raises:
        UserError: If they differ in what may not change.
    """
    changed = changed_keys(stored, given)
    changed = [change for change in changed if not (moving and change[0] in MOVABLE)]
    if not changed:
        return
    lines = [f"  {key}: was {old!r}, now {new!r}" for key, old, new in changed]
    moved = ""
    if all(key in MOVABLE and isinstance(new, str) for key, _, new in changed):
        flags = " ".join(f"--{key.replace('_', '-')} {shlex.quote(new)}" for key, _, new in changed)
        moved = f" If it was only moved: nasdistill resume {shlex.quote(name)} {flags}"
    raise UserError(
        f"study {name!r} was made with another recipe:\n"
        + "\n".join(lines)
        + f"\nOnly {', '.join(FREE)} may change. Give the old values, or another --study NAME."
        + moved
    )


def identity_of(url: str, name: str) -> str:
    """What a study and its copy differ in: the file on its disk, else the name in its storage."""
    path = storage_path(url)
    if path is None or not path.exists():
        return name
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino} {name}"


def is_of_original(lease: Mapping[str, Any], identity: str) -> bool:
    """Whether a lease was copied along with the study from another, whose process may live on.

    Args:
        lease: As stored; those of earlier releases do not say which study they are of.
        identity: This study's; it says nothing on other machines.
    """
    own_host = lease["host"] == socket.gethostname()
    return bool(own_host and lease.get("study", identity) != identity)
