"""A final's quality against its teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.analysis.evaluation import needs_evaluation
from nasdistill.api.paths import final_folder, recipe_of
from nasdistill.common import formats
from nasdistill.common.class_names import differences, few, match_classes
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, warning_once
from nasdistill.common.files import STUDIES
from nasdistill.recipe import Recipe
from nasdistill.results import StudyRecord, load_study

if TYPE_CHECKING:
    import torch

    from nasdistill.data import Dataset, Split
    from nasdistill.data.pictures import Preparation
    from nasdistill.teachers import Teacher
    from nasdistill.trials.plugins import Plugins


def evaluate(
    target: str,
    *,
    data: str | None = None,
    split: str = "test",
    device: str = "auto",
    on_event: Emit | None = None,
) -> dict[str, Any]:
    """Measures a final against its teacher: agreement, classes, calibration, robustness, bias.

    On the study's own test split the figures are kept in the final's quality.json, where the report
    finds them; on other examples nothing is written.

    Args:
        target: `STUDY/RANK`, or a final's folder inside its study.
        data: Other data with the same classes; by default the study's own. Of other data that come
            without splits, such as a folder of class folders, all are their test split.
        split: `test` or `audit`. Finals are reported on the test split; evaluating chooses nothing.
        device: auto, cpu, cuda or cuda:N.
        on_event: Told what happens.

    Returns:
        What `evaluation.evaluate` gives, and `file`: the file written, or None.

    Raises:
        UserError: If there is no such final, its data or teacher cannot be loaded or have changed,
            or the other data have other classes.
    """
    from nasdistill import evaluation
    from nasdistill.common.machine import pick_device, set_threads
    from nasdistill.models import artifact
    from nasdistill.trials.plugins import load_plugins

    if split not in ("test", "audit"):
        raise UserError(f"--split {split!r}: allowed are test and audit")
    folder, record = locate(target, "evaluate")
    recipe = recipe_of(record)
    plugins, emit = load_plugins(recipe.import_file), warning_once(on_event or silent)
    module, preparation = artifact.load(folder), artifact.preparation_of(folder)
    set_threads(1)
    place = pick_device(device)
    emit(Event("stage", f"data {recipe.data}, teacher {recipe.teacher}", stage="evaluate"))
    dataset = own_data(record, recipe, place, emit)
    dataset.tell_notes(emit, "evaluate")
    teacher = _teacher(record, recipe, dataset, place, plugins, emit)
    compared, order = dataset, None
    if data is not None and data != recipe.data:
        emit(Event("stage", f"data {data}", stage="evaluate"))
        compared = _load(data, recipe, place, emit, preparation)
        compared.tell_notes(emit, "evaluate")
        order = _order(dataset, compared)
    examples, part = _examples_of(compared, split, dataset)
    if compared.fingerprint != dataset.fingerprint:
        _warn_of_seen(examples, dataset, compared.name, emit)
    which = "all" if part == "all" else f"the {part} split"
    text = f"asking student and teacher: {formats.counted(len(examples), 'example')}, {which} of "
    text += compared.name
    emit(Event("stage", text, stage="evaluate"))
    comparison = evaluation.Comparison(
        teacher,
        examples,
        preparation.size,
        dataset.classes,
        compared.name,
        part,
        order=order,
        emit=emit,
    )
    quality = evaluation.evaluate(module.to(place), comparison)
    own = compared is dataset and split == "test"
    if own:
        needs_evaluation(folder, lambda text: emit(Event("warning", text, stage="evaluate")))
    file = evaluation.write_quality(folder, quality) if own else None
    return {**quality, "final": f"{record.name}/{folder.name}", "file": file and str(file)}


def _examples_of(data: Dataset, split: str, own: Dataset) -> tuple[Split, str]:
    """The examples to evaluate on, and the name of what they are: `test`, `audit` or `all`.

    Where no example of other data is marked as one for the test, none was trained on either.

    Args:
        data: To evaluate on.
        split: `test` or `audit`.
        own: Those that the study was made with; at another place they are still those.
    """
    if split == "audit":
        return data.audit, split
    if data.has_own_splits or data.fingerprint == own.fingerprint:
        return data.test, split
    return data.everything, "all"


def _warn_of_seen(examples: Split, own: Dataset, name: str, emit: Emit) -> None:
    """Tells how many pictures of other data the final was trained on."""
    from nasdistill.data.checks import shared_pictures

    seen = shared_pictures(examples, own.train)
    if seen:
        text = (
            f"data {name}: {seen:,} of {len(examples):,} pictures are among those that the final "
            "was trained on: on them it is right by heart"
        )
        emit(Event("warning", text, stage="evaluate"))


def locate(target: str, command: str) -> tuple[Path, StudyRecord]:
    """A final's folder and its study, from `STUDY/RANK` or from the folder itself.

    Raises:
        UserError: If there is no such final; the message begins with the command.
    """
    path = Path(target)
    if path.is_dir() and path.resolve().parent.name == "finals":
        study = path.resolve().parents[1]
        record = load_study(study.name, study.parent)
        return path, record
    if target.count("/") != 1:
        kind = "a file, " if path.is_file() else ""
        raise UserError(
            f"{command}: {target!r} is {kind}neither STUDY/RANK nor the folder of a final"
        )
    study_name, rank = target.split("/")
    return final_folder(study_name, rank), load_study(study_name, STUDIES)


def own_data(record: StudyRecord, recipe: Recipe, place: torch.device, emit: Emit) -> Dataset:
    """Loads the data of a study.

    Raises:
        UserError: If they cannot be had, or are not those that it was made with.
    """
    from nasdistill.trials.same_content import check_same_data

    dataset = _load(recipe.data, recipe, place, emit)
    check_same_data(record.name, record.data, dataset)
    return dataset


def _load(
    data: str,
    recipe: Recipe,
    place: torch.device,
    emit: Emit,
    preparation: Preparation | None = None,
) -> Dataset:
    from nasdistill.data import load_data

    return load_data(
        data,
        device=place,
        seed=recipe.seed,
        image_size=recipe.image_size,
        channels=recipe.channels,
        preparation=preparation,
        root=recipe.data_root,
        skip_unreadable=recipe.skip_unreadable,
        emit=emit,
        may_lack_training=True,
    )


def _teacher(
    record: StudyRecord,
    recipe: Recipe,
    dataset: Dataset,
    place: torch.device,
    plugins: Plugins,
    emit: Emit,
) -> Teacher:
    from nasdistill.training.teacher import fastest_teacher_inference
    from nasdistill.trials.same_content import check_same_teacher
    from nasdistill.trials.teacher_pool import open_teacher

    teacher = open_teacher(recipe, dataset, place, record.folder.parent, plugins, emit)
    check_same_teacher(record.name, record.teacher, teacher)
    teacher.must_run().use(fastest_teacher_inference(teacher, dataset))
    return teacher


def _order(own: Dataset, other: Dataset) -> list[int]:
    """The label in `own` of each class of `other`, which may lack some.

    Raises:
        UserError: If it has classes that are not the study's.
    """
    lacking, extra = differences(own.classes, other.classes)
    if extra:
        parts = [("it adds", extra), ("it lacks", lacking)]
        text = "; ".join(f"{verb} {few(names)}" for verb, names in parts if names)
        raise UserError(
            f"--data {other.name!r} has other classes than the study's {own.name!r}: {text}"
        )
    order = match_classes(own.classes, other.classes)
    return [label for label in order if label is not None]
