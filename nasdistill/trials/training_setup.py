"""What a kind of run is given: an objective, a stream of batches, and those who teach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from nasdistill import training
from nasdistill.data import Dataset, Mixing, RandAugment
from nasdistill.losses import Objective, objective_of
from nasdistill.models import Classifier, build
from nasdistill.recipe import FeedOptions, ObjectiveOptions, Recipe
from nasdistill.space import Architecture
from nasdistill.teachers.targets import TeacherTargets, students_of
from nasdistill.training import BatchStream, LRSchedule, Precision, Run
from nasdistill.trials.teacher_pool import TeacherPool

OF_THE_OBJECTIVE = "distillation"
"""The part of an architecture's values that belongs to its objective, not to its module."""


@dataclass(frozen=True)
class TrainingSetup:
    """What a kind of run (scoring, finals) is given.

    Attributes:
        options: What the recipe says of its objective.
        objective: Made of them.
        stream: The stream of batches, the same for every student.
        teachers: Who can be asked, by name.
    """

    options: ObjectiveOptions
    objective: Objective
    stream: BatchStream
    teachers: Mapping[str, TeacherTargets]

    @property
    def asked(self) -> dict[str, TeacherTargets]:
        """Those of the teachers that the objective asks."""
        return {name: self.teachers[name] for name in self.objective.teachers}

    def for_architecture(self, architecture: Architecture) -> TrainingSetup:
        """The same, with the temperature and α that the architecture brings, if any."""
        found = architecture.values.get(OF_THE_OBJECTIVE)
        if not isinstance(found, Mapping) or not self.objective.teachers:
            return self
        options = self.options.with_values(**{k: float(v) for k, v in found.items()})
        return replace(self, options=options, objective=objective_of(options))

    def labels_only(self) -> TrainingSetup:
        """The same stream, without a teacher: what distillation is held against."""
        return replace(self, objective=Objective.labels())

    def students(self, architecture: Architecture, dataset: Dataset, seed: int) -> list[Classifier]:
        """Builds the students of one run, weights drawn from (seed, fingerprint).

        Args:
            architecture: What to build.
            dataset: Whose images, classes and normalisation.
            seed: The study's.
        """
        students = []
        for number in range(students_of(self.asked)):
            peer = (number,) if number else ()
            training.seed_weights(seed, architecture.fingerprint, *peer)
            net = build(architecture, dataset.input, len(dataset.classes))
            data = self.stream.dataset
            students.append(Classifier(net, data.mean, data.std))
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
            teachers=self.teachers,
            micro_batch=micro_batch,
        )

    def prepare(self, until: int, first_step: int) -> None:
        """Asks the teachers ahead for all that a run will see up to `until` examples."""
        plan: list[tuple[Tensor, int | None]] = list(
            self.stream.plan(first_step, self.stream.steps(until))
        )
        for answers in self.asked.values():
            answers.prepare(plan)


def open_setup(options: ObjectiveOptions, recipe: Recipe, faculty: TeacherPool) -> TrainingSetup:
    """Puts together what a kind of run is given.

    Args:
        options: Its objective.
        recipe: The study's.
        faculty: Who can teach.

    Raises:
        UserError: If a teacher cannot be loaded.
    """
    objective = objective_of(options)
    dataset = _fed(options.feed, faculty)
    stream = BatchStream(dataset, recipe.batch_size, recipe.views, recipe.seed)
    teachers = {name: faculty.answers(name, stream) for name in objective.teachers}
    return TrainingSetup(options, objective, stream, teachers)


def _fed(options: FeedOptions, faculty: TeacherPool) -> Dataset:
    """The data, with the training split that the objective is fed with."""
    dataset = faculty.dataset
    mixing = None if options.mix is None else Mixing(options.mix.kind, options.mix.alpha)
    augment = None
    if options.rand_augment is not None:
        given = options.rand_augment
        augment = RandAugment(given.operations, given.magnitude)
    if options.synthetic is not None:
        images, labels = faculty.synthetic(options.synthetic)
        dataset = dataset.with_training(images, labels.numpy(), "synthetic")
    views = replace(dataset.views, mixing=mixing, rand_augment=augment, cut_out=options.cut_out)
    return dataset.with_views(views)
