"""The parts that a kind of run is made of: an objective, a stream of batches, targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from nasdistill import training
from nasdistill.data import Dataset, Mixing, RandAugment
from nasdistill.losses import Objective, objective_of
from nasdistill.models import Classifier
from nasdistill.models.limits import check_size
from nasdistill.recipe import FeedOptions, ObjectiveOptions, Recipe
from nasdistill.space import Architecture
from nasdistill.teachers.targets import TeacherTargets, needed_students
from nasdistill.training import BatchStream, LRSchedule, Precision, Run
from nasdistill.training.schedule import class_weights_of
from nasdistill.trials.beginning import Beginning, Fresh
from nasdistill.trials.teacher_pool import TeacherPool

OF_THE_OBJECTIVE = "distillation"
"""The part of an architecture's values that belongs to its objective, not to its module."""


@dataclass(frozen=True)
class TrainingSetup:
    """The parts that a kind of run (scoring, finals) is made of.

    Attributes:
        options: The recipe's, of its objective.
        objective: Made of them.
        stream: The stream of batches, the same for every student.
        targets: Those of each teacher, by the teacher's name.
        class_weights: float32 `[K]` on the device, of the loss on labels by class; None for 1.
        beginning: Where students get their first weights.
    """

    options: ObjectiveOptions
    objective: Objective
    stream: BatchStream
    targets: Mapping[str, TeacherTargets]
    class_weights: Tensor | None = None
    beginning: Beginning = field(default_factory=Fresh)

    @property
    def needed_targets(self) -> dict[str, TeacherTargets]:
        """Those that the objective asks for."""
        return {name: self.targets[name] for name in self.objective.teachers}

    def for_architecture(self, architecture: Architecture) -> TrainingSetup:
        """The same, with the temperature and α that the architecture brings, if any."""
        values = architecture.values.get(OF_THE_OBJECTIVE)
        if not isinstance(values, Mapping) or not self.objective.teachers:
            return self
        return self.with_values(**{key: float(value) for key, value in values.items()})

    def with_values(self, **values: float) -> TrainingSetup:
        """The same with another temperature or α."""
        options = self.options.with_values(**values)
        objective = objective_of(options).with_class_weights(self.class_weights)
        return replace(self, options=options, objective=objective)

    def labels_only(self) -> TrainingSetup:
        """The same stream without a teacher: the rival of distillation."""
        objective = Objective.labels().with_class_weights(self.class_weights)
        return replace(self, objective=objective)

    def begun_fresh(self) -> TrainingSetup:
        """The same for students whose weights are drawn at random."""
        return replace(self, beginning=Fresh())

    def students(self, architecture: Architecture, dataset: Dataset, seed: int) -> list[Classifier]:
        """Builds the students of one run; what is drawn at random comes from (seed, fingerprint).

        Args:
            architecture: Of all of them.
            dataset: Whose images, classes and normalisation.
            seed: The study's.

        Raises:
            UserError: If they cannot be built, are larger than `models.limits` allows, or the
                weights that they begin with cannot be had.
        """
        place = f"architecture {architecture.fingerprint}"
        check_size(architecture, dataset.input, len(dataset.classes), place)
        students = []
        for number in range(needed_students(self.needed_targets)):
            peer = (number,) if number else ()
            training.seed_weights(seed, architecture.fingerprint, *peer)
            student = self.beginning.student(architecture, dataset, self.stream.dataset)
            if self.objective.reads_layers:
                student.kept = self.beginning.kept(architecture)
            students.append(student)
        return students

    def run(
        self,
        students: Iterable[nn.Module],
        *,
        horizon: int,
        lr_schedule: LRSchedule,
        seed: int,
        precision: Precision,
        micro_batch: int | None = None,
    ) -> Run:
        """A fresh run.

        Raises:
            LayerError: If the objective reads layers that are not there, or do not fit.
        """
        return Run(
            list(students),
            self.stream,
            self.objective,
            horizon=horizon,
            lr_schedule=lr_schedule,
            seed=seed,
            precision=precision,
            targets=self.targets,
            micro_batch=micro_batch,
            described=self.options.model_dump_json(),
        )

    def prepare(self, until: int, first_step: int) -> None:
        """Asks the teachers ahead for all that a run will see up to `until` examples."""
        steps = self.stream.plan(first_step, self.stream.steps(until))
        plan: list[tuple[Tensor, int | None]] = list(steps)
        for targets in self.needed_targets.values():
            targets.prepare(plan)


def open_setup(
    options: ObjectiveOptions,
    recipe: Recipe,
    teachers: TeacherPool,
    beginning: Beginning | None = None,
) -> TrainingSetup:
    """Puts together the parts of a kind of run.

    Args:
        options: Its objective.
        recipe: The study's.
        teachers: The study's.
        beginning: Where its students begin; fresh if not given.

    Raises:
        UserError: If a teacher cannot be loaded.
    """
    dataset = _dataset_with_feed(options.feed, teachers)
    weights = class_weights_of(recipe.class_weights, dataset)
    objective = objective_of(options).with_class_weights(weights)
    stream = BatchStream(dataset, recipe.batch_size, recipe.views, recipe.seed, recipe.sampling)
    targets = {name: teachers.targets(name, stream) for name in objective.teachers}
    return TrainingSetup(options, objective, stream, targets, weights, beginning or Fresh())


def _dataset_with_feed(options: FeedOptions, teachers: TeacherPool) -> Dataset:
    """The data, with the training split and the views that the objective is fed with."""
    dataset = teachers.dataset
    mixing = None if options.mix is None else Mixing(options.mix.kind, options.mix.alpha)
    augment = None
    if options.rand_augment is not None:
        augment = RandAugment(options.rand_augment.operations, options.rand_augment.magnitude)
    if options.synthetic is not None:
        images, labels = teachers.synthetic(options.synthetic)
        dataset = dataset.with_training(images, labels.numpy(), "synthetic")
    views = replace(dataset.views, mixing=mixing, rand_augment=augment, cut_out=options.cut_out)
    return dataset.with_views(views)
