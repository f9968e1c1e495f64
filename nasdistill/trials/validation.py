"""Recipes that cannot work, refused before anything runs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.data import Dataset
from nasdistill.losses import MAIN
from nasdistill.models import hooks
from nasdistill.models.counts import count_architecture
from nasdistill.models.hooks import LayerError
from nasdistill.recipe import ObjectiveOptions, Recipe
from nasdistill.space import SearchSpace
from nasdistill.teachers.logit_cache import bytes_of
from nasdistill.teachers.targets import EnsembleTargets, TableTargets
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import OF_THE_OBJECTIVE, TrainingSetup

DRAWN = 300
"""Architectures among which an assistant of a given size is looked for."""

SAMPLES = 6
"""Architectures that an objective's layers are looked for in."""


def check_setup(
    key: str, course: TrainingSetup, space: SearchSpace, dataset: Dataset, emit: Emit
) -> None:
    """Refuses what cannot work with these teachers and this space.

    Args:
        key: What the recipe calls the objective: `scoring` or `final`.
        course: What its runs are given.
        space: Where students come from.
        dataset: Their images and classes.
        emit: Told where only some students will fail.

    Raises:
        UserError: If no student could be trained.
    """
    _check_values(key, course.options, space)
    _check_tables(key, course)
    _check_means(key, course)
    if course.objective.reads_layers:
        _check_layers(key, course, space, dataset, emit)


def check_room(recipe: Recipe, faculty: TeacherPool, final: TrainingSetup) -> None:
    """Refuses a study whose teachers' answers could not all be kept.

    Args:
        recipe: The study's.
        faculty: With the caches of those who teach from the start.
        final: What finals are given; generations and assistants answer about its examples.

    Raises:
        UserError: If they need more than the recipe's `cache_size`.
    """
    of_view = [cache.view_bytes for cache in faculty.caches.values()]
    if recipe.iterate is not None:
        sizes, generations = recipe.iterate.assistants, recipe.iterate.generations or 1
        further = len(sizes) if sizes is not None else (generations - 1) * recipe.top_k
        of_view += [
            bytes_of(len(final.stream.dataset.train), len(faculty.dataset.classes))
        ] * further
    needed = recipe.views * sum(of_view)
    if needed <= recipe.cache_size:
        return
    fewer = recipe.cache_size // sum(of_view)
    or_views = f", or --views {fewer} or fewer" if fewer else ""
    raise UserError(
        f"--cache-size: found {recipe.cache_size:,} bytes; the answers of {len(of_view)} "
        f"teacher(s) about {recipe.views} view(s) of each example need {needed:,}. Allowed: "
        f"--cache-size {math.ceil(needed / 1e6)}M or more{or_views}"
    )


def _check_values(key: str, options: ObjectiveOptions, space: SearchSpace) -> None:
    """Temperature and α that come with an architecture need the objective that has them."""
    if OF_THE_OBJECTIVE not in space.root.children:
        return
    if options.terms is not None or options.stages is not None:
        raise UserError(
            f"{key}: the space {space.name!r} searches alpha or temperature; terms and stages "
            "have these of their own: leave them out, or take `distillation` out of the space"
        )


def _check_tables(key: str, course: TrainingSetup) -> None:
    """What a table cannot answer: other pictures than its own, and batches with holes."""
    for name, answers in course.asked.items():
        members = answers.of if isinstance(answers, EnsembleTargets) else (answers,)
        tables = [one for one in members if isinstance(one, TableTargets)]
        if tables and (course.options.feed.mix or course.options.feed.synthetic):
            raise UserError(
                f"{key}: teacher {name!r} is a table of recorded answers; it has none about mixed "
                "or synthetic images"
            )
        holes = any(not table.complete for table in tables)
        coupled = [
            type(item.term).__name__.lower()
            for item in course.objective.terms
            if item.term.coupled and item.teacher == name
        ]
        if holes and coupled:
            raise UserError(
                f"{key}: teacher {name!r} has no answer to some examples, and "
                f"{', '.join(coupled)} needs all of a batch"
            )


def _check_means(key: str, course: TrainingSetup) -> None:
    """Whether a teacher is right cannot be known of two examples in one."""
    for name, answers in course.asked.items():
        by_right = isinstance(answers, EnsembleTargets) and answers.by == "correct"
        if by_right and course.options.feed.mix is not None:
            raise UserError(
                f"{key}: teacher {name!r} weighs by being correct, which is not known of mixed "
                "examples; use by: certainty"
            )


def assistants_of(
    sizes: Sequence[int], space: SearchSpace, dataset: Dataset
) -> list[dict[str, Any]]:
    """For each size the architecture of the space whose parameters come closest to it.

    Returns:
        JSON values, as `Architecture.from_json` reads them.

    Raises:
        UserError: If the space has nothing between half and twice that size.
    """
    drawn = [space.random(random.Random(number)) for number in range(DRAWN)]
    counted = [
        (count_architecture(one, dataset.input, len(dataset.classes)).params, one) for one in drawn
    ]
    found = []
    for size in sizes:
        params, architecture = min(counted, key=lambda pair: abs(pair[0] - size))
        if not size / 2 <= params <= size * 2:
            raise UserError(
                f"iterate.assistants: the space {space.name!r} has nothing of about {size:,} "
                f"parameters; of {DRAWN} architectures the closest has {params:,}"
            )
        found.append(json.loads(architecture.to_json()))
    return found


def check_chain(course: TrainingSetup, space: SearchSpace, dataset: Dataset) -> None:
    """Students that teach must have the layers that the objective names of its teacher.

    Raises:
        UserError: If no student could teach another.
    """
    if not course.objective.reads_layers:
        return
    reason = ""
    for number in range(SAMPLES):
        student = course.students(space.random(random.Random(number)), dataset, 0)[0].cpu()
        try:
            seen = hooks.summarise(student, "student", dataset.input)
            others = {k: a.summary(seen) for k, a in course.asked.items()}
            course.objective.bind(seen, {**others, MAIN: replace(seen, name="teacher")})
            return
        except (LayerError, UserError) as error:
            reason = str(error)
    raise UserError(f"iterate: a student has to teach in the place of the teacher, but {reason}")


def _check_layers(
    key: str, course: TrainingSetup, space: SearchSpace, dataset: Dataset, emit: Emit
) -> None:
    """Looks for the objective's layers in some architectures of the space."""
    reasons = []
    for number in range(SAMPLES):
        architecture = space.random(random.Random(number))
        student = course.students(architecture, dataset, 0)[0].cpu()
        try:
            seen = hooks.summarise(student, "student", dataset.input)
            course.objective.bind(seen, {k: a.summary(seen) for k, a in course.asked.items()})
        except (LayerError, UserError) as error:
            reasons.append(str(error))
    if len(reasons) == SAMPLES:
        raise UserError(f"{key}: {reasons[0]}")
    if reasons:
        emit(
            Event(
                "warning",
                f"{key}: {len(reasons)} of {SAMPLES} sampled architectures cannot be trained on "
                f"these terms and would fail: {reasons[0]}",
                stage="teacher",
            )
        )
