"""Studies whose folder was renamed, or whose data, teachers or files lie elsewhere now."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import STUDIES
from nasdistill.common.types import nearest
from nasdistill.recipe import MOVABLE, Recipe, changed_keys, from_stored
from nasdistill.results import StudyRecord, keys

if TYPE_CHECKING:  # slow to import
    from nasdistill.data import Dataset

NAME = re.compile(r"[^-?%][^?%]*")
"""Names that a study that is there can be gone on with under: `-` would begin a flag; `?` and `%`
mean something in its storage's URL."""


class MissingFile(NamedTuple):
    """A file that a recipe names and that is not there.

    Attributes:
        what: The recipe's key and value.
        flag: The flag of `resume` that gives its new place.
    """

    what: str
    flag: str


def check_places(record: StudyRecord, recipe: Recipe) -> None:
    """Checks that a study can be gone on with under its folder's name, and finds its files.

    Args:
        record: The study.
        recipe: Its recipe, with the new places that the user gives.

    Raises:
        UserError: If not; the message has the command that mends it.
    """
    missing = list(missing_files(recipe, record.folder.parent))
    if missing:
        flags = " ".join(file.flag for file in missing)
        name = shlex.quote(record.name)
        raise UserError(
            f"study {record.name!r}: no longer there: "
            + ", ".join(file.what for file in missing)
            + f". If it was moved, say where to: nasdistill resume {name} {flags}"
        )


def check_name(record: StudyRecord) -> None:
    """Checks that a study's folder has a name that commands can go on with.

    Raises:
        UserError: If it has not; the message has the command that renames it.
    """
    if NAME.fullmatch(record.name) is None:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", record.name).strip("-.") or "study"
        old, new = (shlex.quote(str(record.folder.with_name(n))) for n in (record.name, plain))
        raise UserError(
            f"the folder {record.folder} can be listed and reported, but not gone on with under "
            "this name (allowed: no '-' at the beginning, no '?', no '%'); rename it: "
            f"mv {old} {new}"
        )


def missing_files(recipe: Recipe, studies_root: Path) -> Iterator[MissingFile]:
    """The files and folders that a recipe names and that are not there.

    Args:
        recipe: The recipe.
        studies_root: Folder of studies, in which `final:STUDY/RANK` lies.
    """
    space = Path(recipe.space) if isinstance(recipe.space, str) else None
    if space is not None and space.suffix in (".yaml", ".yml") and not space.exists():
        yield MissingFile(f"space {recipe.space}", "--space NEW.yaml")
    kind, _, path = recipe.data.partition(":")
    if kind in ("folder", "npz") and path and not Path(path).expanduser().exists():
        yield MissingFile(f"data {recipe.data}", f"--data {kind}:NEW")
    if recipe.import_file is not None and not Path(recipe.import_file).exists():
        yield MissingFile(f"import {recipe.import_file}", "--import NEW.py")
    if recipe.weights is not None and not Path(recipe.weights).exists():
        yield MissingFile(f"weights {recipe.weights}", "--weights NEW")
    for new in _missing_of_teacher(recipe.teacher, studies_root):
        yield MissingFile(f"teacher {recipe.teacher}", f"--teacher {new}")
    for name, options in recipe.teachers.items():
        spec = f"table:{options.table}" if options.table is not None else options.model
        for new in _missing_of_teacher(spec or "", studies_root, options.weights):
            yield MissingFile(f"teacher {name}: {spec}", f"--teacher {name}={new}")


def _missing_of_teacher(spec: str, root: Path, weights: str | None = None) -> Iterator[str]:
    """The specification of a teacher with NEW in the place of a file that is not there."""
    head, *options = re.split(r",(?=\w+=)", spec)
    kind, _, name = head.partition(":")
    places = {"folder": Path(name), "table": Path(name)}
    if kind == "final":
        study, _, rank = name.rpartition("/")
        places["final"] = root / study / "finals" / rank
    if kind == "transformers" and name.startswith((".", "/", "~")):
        places["transformers"] = Path(name)
    if kind in places and not places[kind].expanduser().exists():
        yield ",".join([f"{kind}:{'NEW/RANK' if kind == 'final' else 'NEW'}", *options])
    weights_files = [
        option.partition("=")[2] for option in options if option.startswith("weights=")
    ]
    files = [*weights_files, *([] if weights is None else [weights])]
    if any(not Path(file).expanduser().exists() for file in files):
        others = [option for option in options if not option.startswith("weights=")]
        yield ",".join([head, *others, "weights=NEW"])


def teachers_at(record: StudyRecord, places: Mapping[str, str]) -> dict[str, Any]:
    """A study's further teachers, some of them at new places.

    Args:
        record: The study.
        places: Specifications by the teacher's name: `folder:NEW`, `table:NEW`, ….

    Returns:
        The recipe's `teachers`.

    Raises:
        UserError: If the recipe has no teacher of such a name.
    """
    teachers: dict[str, Any] = {name: dict(o) for name, o in record.recipe["teachers"].items()}
    for name, spec in places.items():
        if name not in teachers:
            teacher_list = ", ".join(teachers) or "none"
            raise UserError(
                f"--teacher {name}={spec}: the study {record.name!r} has no further teacher "
                f"{name!r}{nearest(name, teachers)} (there: {teacher_list})"
            )
        if spec.startswith("table:"):
            teachers[name] |= {"table": spec.removeprefix("table:")}
        else:
            teachers[name] |= {"model": spec, "weights": None}
    return teachers


def has_moved(record: StudyRecord, recipe: Recipe) -> bool:
    """Whether a recipe differs from a study's in the places of files alone."""
    changed = [key for key, _, _ in changed_keys(from_stored(record.recipe), recipe)]
    return bool(changed) and all(key in MOVABLE for key in changed)


def relocate(record: StudyRecord, recipe: Recipe, emit: Emit) -> Dataset:
    """Takes the new places of a study's files, once their content is found to be the same.

    Args:
        record: The study.
        recipe: Its recipe with the new places.
        emit: Told what happens.

    Returns:
        The study's data, loaded from where they lie now.

    Raises:
        UserError: If a content is another; the message says what has changed. The study stays as
            it was.
    """
    from nasdistill.study import Study
    from nasdistill.trials.context import open_context
    from nasdistill.trials.plugins import check_plugins, load_plugins
    from nasdistill.trials.same_content import describe_data

    plugins = load_plugins(recipe.import_file)
    study = Study.open(recipe, STUDIES, record.command, moving=True)
    check_plugins(study, plugins)
    context = open_context(study, plugins, emit)
    cards: dict[str, dict[str, Any]] = {}
    for name, options in recipe.teachers.items():
        stored = study.read(keys.FURTHER_TEACHER.of(name))
        if stored is not None and options.model is not None:
            cards[name] = {**stored, **context.teachers.load(name, options).card}
    for name, card in cards.items():
        study.write(keys.FURTHER_TEACHER.of(name), card)
    study.write(keys.DATA, describe_data(context.dataset))
    study.write(keys.TEACHER, {**study.require(keys.TEACHER), **context.teacher.card})
    study.store_recipe()
    changes = changed_keys(from_stored(record.recipe), recipe)
    for key, old, new in changes:
        emit(Event("note", f"{key} was {old}, is now {new}: the content is the same", "teacher"))
    return context.dataset
