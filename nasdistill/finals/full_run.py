"""Full runs: what is asked for, and the run that any process makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nasdistill.common.seeds import hash_seed
from nasdistill.losses import MAIN
from nasdistill.models import Classifier
from nasdistill.space import Architecture
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.training import LRSchedule, Run
from nasdistill.trials.autotune import inference_for, precision_for
from nasdistill.trials.context import StudyContext
from nasdistill.trials.training_setup import TrainingSetup


@dataclass(frozen=True)
class StudentTeacher:
    """A student that teaches others: of an earlier generation, or an assistant."""

    name: str
    student: Classifier
    architecture: Architecture

    def teacher(self, context: StudyContext) -> Teacher:
        """The student as a frozen teacher."""
        dataset = context.dataset
        module = self.student.to(dataset.train.labels.device).eval().requires_grad_(False)
        teacher = Teacher(
            self.name, module, dataset.input, context.classes, weights_hash(module), {}
        )
        teacher.inference = inference_for(context, module)  # in the layout that it was trained in
        return teacher


@dataclass(frozen=True)
class Variant:
    """The difference between a full run's setup and that of finals.

    Attributes:
        kind: `distilled` as finals are; on `labels` alone; or `fresh`: distilled from fresh
            weights.
        values: Temperature and α in the place of the recipe's.
        teacher: Teaches in the place of the first teacher; None for that one.
    """

    kind: Literal["distilled", "labels", "fresh"] = "distilled"
    values: Mapping[str, float] = field(default_factory=dict)
    teacher: StudentTeacher | None = None

    def setup(self, context: StudyContext) -> TrainingSetup:
        """The parts of the run."""
        setup = context.final
        if self.teacher is not None:
            teacher = self.teacher.teacher(context)
            targets = context.teachers.cached_targets(teacher, setup.stream.dataset)
            setup = replace(setup, targets={**setup.targets, MAIN: targets})
        if self.values:
            setup = setup.with_values(**self.values)
        match self.kind:
            case "labels":
                return setup.labels_only()
            case "fresh":
                return setup.begun_fresh()
        return setup


@dataclass(frozen=True)
class FullRun:
    """One full run, as it is asked for.

    Attributes:
        variant: How its setup differs from that of finals.
        architecture: Of the student.
        checkpoint: Written after each epoch.
        name: Enters the seed: two runs of one architecture begin with other weights if it differs.
        epochs: Passes over the training split.
    """

    variant: Variant
    architecture: Architecture
    checkpoint: Path
    name: str
    epochs: int

    @property
    def key(self) -> str:
        """The run's name in the study's attributes."""
        return run_key(self.checkpoint)

    def setup(self, context: StudyContext) -> TrainingSetup:
        """The parts of the run."""
        return self.variant.setup(context).for_architecture(self.architecture)


def run_key(checkpoint: Path) -> str:
    """The name of the run with that checkpoint in the study's attributes."""
    return f"{checkpoint.parent.name}/{checkpoint.stem}"


def open_run(
    context: StudyContext, full_run: FullRun, setup: TrainingSetup, micro_batch: int | None
) -> Run:
    """The run at its beginning; every process makes the same.

    Args:
        context: The study's.
        full_run: As it is asked for.
        setup: Its parts.
        micro_batch: Most examples that the student sees at once; None for whole batches.
    """
    seed = context.recipe.seed
    if full_run.name != "final":
        seed = hash_seed((seed, full_run.name)) % 2**32
    students = setup.students(full_run.architecture, context.dataset, seed)
    per_epoch = setup.stream.examples_per_epoch
    total, rate = full_run.epochs * per_epoch, context.recipe.rate(setup.beginning.kind)
    return setup.run(
        students,
        horizon=total,
        lr_schedule=LRSchedule(rate, per_epoch, per_epoch, total),
        seed=hash_seed((seed, full_run.architecture.fingerprint, "final")),
        precision=precision_for(context, setup, students, micro_batch),
        micro_batch=micro_batch,
    )
