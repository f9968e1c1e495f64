"""What a kind of run is given: an objective, a stream of batches, and those who teach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from nasdistill import distillation
from nasdistill.answers import (
    Answers,
    AverageAnswers,
    EarlierAnswers,
    FrozenAnswers,
    MeanAnswers,
    PeerAnswers,
    TableAnswers,
    students_of,
)
from nasdistill.cache import AnswerCache
from nasdistill.data import Dataset, Mixing, RandAugment
from nasdistill.distillation import Feed, Pace, Precision, Run
from nasdistill.models import Classifier, build
from nasdistill.objective import MAIN, Objective, objective_of
from nasdistill.recipe import FeedOptions, ObjectiveOptions, Recipe, TeacherOptions
from nasdistill.space import Architecture
from nasdistill.table import read_table
from nasdistill.teacher import Teacher

OF_THE_OBJECTIVE = "distillation"
"""The part of an architecture's values that belongs to its objective, not to its module."""


@dataclass(frozen=True)
class Course:
    """What a kind of run (scoring, finals) is given.

    Attributes:
        options: What the recipe says of its objective.
        objective: Made of them.
        feed: The stream of batches, the same for every student.
        teachers: Who can be asked, by name.
    """

    options: ObjectiveOptions
    objective: Objective
    feed: Feed
    teachers: Mapping[str, Answers]

    @property
    def asked(self) -> dict[str, Answers]:
        """Those of the teachers that the objective asks."""
        return {name: self.teachers[name] for name in self.objective.teachers}

    def for_architecture(self, architecture: Architecture) -> Course:
        """The same, with the temperature and α that the architecture brings, if any."""
        found = architecture.values.get(OF_THE_OBJECTIVE)
        if not isinstance(found, Mapping):
            return self
        options = self.options.with_values(**{k: float(v) for k, v in found.items()})
        return replace(self, options=options, objective=objective_of(options))

    def labels_only(self) -> Course:
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
            distillation.seed_weights(seed, architecture.fingerprint, *peer)
            net = build(architecture, dataset.input, len(dataset.classes))
            data = self.feed.dataset
            students.append(Classifier(net, data.mean, data.std))
        return students

    def run(
        self, students: Iterable[nn.Module], *, horizon: int, pace: Pace, seed: int,
        precision: Precision,
    ) -> Run:  # fmt: skip
        """A fresh run.

        Raises:
            LayerError: If the objective reads layers that are not there, or do not fit.
        """
        return Run(
            list(students), self.feed, self.objective, horizon=horizon, pace=pace, seed=seed,
            precision=precision, teachers=self.teachers,
        )  # fmt: skip

    def prepare(self, until: int, first_step: int) -> None:
        """Asks the teachers ahead for all that a run will see up to `until` examples."""
        plan: list[tuple[Tensor, int | None]] = list(
            self.feed.plan(first_step, self.feed.steps(until))
        )
        for answers in self.asked.values():
            answers.prepare(plan)


@dataclass
class Faculty:
    """Everyone who can teach in a study, loaded when first asked for.

    Attributes:
        dataset: What they are asked about.
        main: The teacher that the recipe names first.
        options: The others, as the recipe describes them, by name.
        load: Loads a teacher from `(name, options)`.
        root: Folder of the caches of answers.
        on_fill: Told of every fill, see `AnswerCache`.
        caches: The caches opened so far, by teacher and data.
    """

    dataset: Dataset
    main: Teacher
    options: Mapping[str, TeacherOptions]
    load: Callable[[str, TeacherOptions], Teacher]
    root: Path
    on_fill: Callable[[int, float], None]
    caches: dict[tuple[str, str], AnswerCache] = field(default_factory=dict)
    _loaded: dict[str, Teacher] = field(default_factory=dict)

    def answers(self, name: str, feed: Feed) -> Answers:
        """What the teacher of that name says about the batches of a feed.

        Raises:
            UserError: If it cannot be loaded.
        """
        if name == MAIN:
            return self.frozen(self.main, feed.dataset)
        options = self.options[name]
        if options.mean_of is not None:
            of = [self.answers(one, feed) for one in options.mean_of]
            shares = options.shares or [1.0] * len(of)
            return MeanAnswers(of, [share / sum(shares) for share in shares], options.by)
        if options.ema is not None:
            return AverageAnswers(options.ema)
        if options.earlier is not None:
            return EarlierAnswers(feed.steps(options.earlier.examples(len(feed.dataset.train))))
        if options.peers is not None:
            return PeerAnswers(options.peers)
        if options.table is not None:
            data = feed.dataset
            table = read_table(Path(options.table), data.names, data.classes, options.missing)
            return TableAnswers(table, data.train.labels.device)
        if name not in self._loaded:
            self._loaded[name] = self.load(name, options)
        return self.frozen(self._loaded[name], feed.dataset)

    def frozen(self, teacher: Teacher, dataset: Dataset) -> FrozenAnswers:
        """The answers of a frozen teacher, remembered."""
        key = (teacher.weights_hash, dataset.fingerprint)
        if key not in self.caches:
            self.caches[key] = AnswerCache(teacher, dataset, self.root, self.on_fill)
        return FrozenAnswers(teacher, self.caches[key])


def open_course(options: ObjectiveOptions, recipe: Recipe, faculty: Faculty) -> Course:
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
    feed = Feed(dataset, recipe.batch_size, recipe.views, recipe.seed)
    teachers = {name: faculty.answers(name, feed) for name in objective.teachers}
    return Course(options, objective, feed, teachers)


def _fed(options: FeedOptions, faculty: Faculty) -> Dataset:
    """The data, with the training split that the objective is fed with."""
    dataset = faculty.dataset
    mixing = None if options.mix is None else Mixing(options.mix.kind, options.mix.alpha)
    augment = None
    if options.rand_augment is not None:
        given = options.rand_augment
        augment = RandAugment(given.operations, given.magnitude)
    if mixing is None and augment is None:
        return dataset
    return dataset.with_views(replace(dataset.views, mixing=mixing, rand_augment=augment))
