"""A study's teachers, evaluated once: how good they are, and how they are best run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.data import Dataset
from nasdistill.models.inference import SMALL, WHOLE, Inference
from nasdistill.recipe import Recipe
from nasdistill.results import keys
from nasdistill.results.keys import Key
from nasdistill.study import Study
from nasdistill.teachers import LogitPrecision, Teacher
from nasdistill.teachers.table import read_table
from nasdistill.training.teacher import (
    evaluate_teacher,
    fastest_logit_precision,
    fastest_teacher_inference,
    stored_evaluation,
    useless,
    warnings_of,
)
from nasdistill.trials.same_content import check_same_teacher


def evaluate_once(
    study: Study, key: Key[dict[str, Any]], teacher: Teacher, dataset: Dataset, emit: Emit
) -> None:
    """Evaluates a teacher once in a study, and decides the precision of its logits.

    Args:
        study: The study, which keeps the card; see `training.teacher.evaluate_teacher`.
        key: Of the card.
        teacher: The teacher; its precision is set.
        dataset: The study's data.
        emit: Told what is doubtful.

    Raises:
        UserError: If it is useless for the data, or not the one that the study was made with.
    """
    if teacher.runs:
        teacher.use(_inference_of(study, key, teacher, dataset, emit))

    def evaluate() -> dict[str, Any]:
        if not teacher.runs:
            return _evaluate_table(teacher, dataset)
        stored = stored_evaluation(teacher, dataset)
        return stored or evaluate_teacher(teacher, dataset, emit=emit)

    card = study.get_or_measure(key, evaluate)
    check_same_teacher(study.folder.name, card, teacher)
    if not teacher.runs:
        text = (
            f"teacher {teacher.name}: recorded answers, accuracy {card['train_accuracy']:.4f} on "
            "the training split; how it does on other images is not known"
        )
        emit(Event("note", text, stage="teacher"))
        return
    for text in warnings_of(dict(card)):
        emit(Event("warning", text, stage="teacher"))
    teacher.precision = study.get_or_measure(
        keys.PRECISION.of(key.name), lambda: _precision_of_logits(study.recipe, teacher, dataset)
    )
    text = (
        f"teacher {teacher.name}: {card['params']:,} parameters, validation accuracy "
        f"{card['validation_accuracy']:.4f}{_balanced_in_words(card)}, calibration error "
        f"{card['ece']:.3f}{_sample_in_words(card, len(dataset.train))}"
    )
    emit(Event("note", text, stage="teacher"))


def _inference_of(
    study: Study, key: Key[dict[str, Any]], teacher: Teacher, dataset: Dataset, emit: Emit
) -> Inference:
    """The way a teacher is run, decided before it is evaluated.

    A study of an earlier release, which has a card without it, goes on as it began.
    """
    own = keys.INFERENCE.of(key.name)
    if study.has(key) and not study.has(own):
        return WHOLE
    if not study.has(own) and max(teacher.input.size) > SMALL:
        text = f"teacher {teacher.name}: finding the quickest way to run it on this machine"
        emit(Event("note", text, stage="teacher"))
    measured = study.get_or_measure(own, lambda: list(fastest_teacher_inference(teacher, dataset)))
    return Inference(*measured)


def _sample_in_words(card: Mapping[str, Any], training: int) -> str:
    """Accuracy on a sample of the training split; empty where all of it was asked, or none."""
    sample = card.get("train_examples") or training
    if sample >= training:
        return ""
    share = f"{card['train_accuracy']:.4f}"
    return f"; accuracy {share} on a sample of {sample:,} of {training:,} training images"


def _balanced_in_words(card: Mapping[str, Any]) -> str:
    """Balanced accuracy, where it is another figure than accuracy; empty otherwise."""
    balanced = card.get("validation_balanced_accuracy")
    if balanced is None or f"{balanced:.2f}" == f"{card['validation_accuracy']:.2f}":
        return ""
    return f", balanced {balanced:.4f}"


def _evaluate_table(teacher: Teacher, dataset: Dataset) -> dict[str, Any]:
    """The card of a recorded teacher: its accuracy on what was recorded.

    Raises:
        UserError: If that is barely better than chance.
    """
    path = Path(teacher.name.removeprefix("table:"))
    table = read_table(path, dataset.names, dataset.classes, "error")
    correct = table.logits.argmax(axis=1) == dataset.train.labels.cpu().numpy()
    accuracy = float(correct.mean())
    reason = useless(accuracy, len(correct), len(dataset.classes))
    if reason is not None:
        raise UserError(
            f"teacher {teacher.name!r} is barely better than chance on {dataset.name!r}: {reason}. "
            "Its ids or classes may be in another order"
        )
    accuracies = ("validation_accuracy", "validation_balanced_accuracy")
    unknown = ("params", "macs", "bytes", *accuracies, "ece", "gap")
    known = {"weights_hash": teacher.weights_hash, "train_accuracy": accuracy}
    return {**teacher.card, **known, **dict.fromkeys(unknown)}


def _precision_of_logits(recipe: Recipe, teacher: Teacher, dataset: Dataset) -> LogitPrecision:
    """The precision of the teacher's logits: as the recipe says, or probed."""
    if recipe.precision == "auto":
        return fastest_logit_precision(teacher, dataset)
    return "fp32" if recipe.precision == "fp32" else "bf16"
