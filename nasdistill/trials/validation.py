"""Recipes that cannot work, refused before anything runs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
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
    name: str, setup: TrainingSetup, space: SearchSpace, dataset: Dataset, emit: Emit
) -> None:
    """Refuses what cannot work with these teachers and this space.

    Args:
        name: The recipe's name of the objective: `scoring` or `final`.
        setup: The parts of its runs.
        space: Where students come from.
        dataset: Their images and classes.
        emit: Told where only some students will fail.

    Raises:
        UserError: If no student could be trained.
    """
    _check_values(name, setup.options, space)
    _check_tables(name, setup)
    _check_ensembles(name, setup)
    if setup.objective.reads_layers:
        _check_layers(name, setup, space, dataset, emit)


def check_cache_room(recipe: Recipe, teachers: TeacherPool, final: TrainingSetup) -> None:
    """Refuses a study whose teachers' answers could not all be kept.

    Args:
        recipe: The study's.
        teachers: With the caches of those who teach from the start.
        final: What finals are given; generations and assistants answer about its examples.

    Raises:
        UserError: If they need more than the recipe's `cache_size`.
    """
    view_bytes = [cache.view_bytes for cache in teachers.caches.values()]
    if recipe.iterate is not None:
        sizes, generations = recipe.iterate.assistants, recipe.iterate.generations or 1
        further = len(sizes) if sizes is not None else (generations - 1) * recipe.top_k
        view_bytes += [
            bytes_of(len(final.stream.dataset.train), len(teachers.dataset.classes))
        ] * further
    needed = recipe.views * sum(view_bytes)
    if needed <= recipe.cache_size:
        return
    fewer = recipe.cache_size // sum(view_bytes)
    or_views = f", or --views {fewer} or fewer" if fewer else ""
    raise UserError(
        f"--cache-size: found {recipe.cache_size:,} bytes; the answers of {len(view_bytes)} "
        f"teacher(s) about {recipe.views} view(s) of each example need {needed:,}. Allowed: "
        f"--cache-size {math.ceil(needed / 1e6)}M or more{or_views}"
    )


def check_chain(setup: TrainingSetup, space: SearchSpace, dataset: Dataset) -> None:
    """Refuses a chain of students that lack the layers which the objective reads of a teacher.

    Raises:
        UserError: If no student could teach another.
    """
    if not setup.objective.reads_layers:
        return
    errors = _binding_errors(setup, space, dataset, as_teacher=True)
    if len(errors) == SAMPLES:
        raise UserError(
            f"iterate: a student has to teach in the place of the teacher, but {errors[-1]}"
        )


def assistant_architectures(
    sizes: Sequence[int],
    space: SearchSpace,
    dataset: Dataset,
    teacher_params: int | None,
    max_params: float | None,
) -> list[dict[str, Any]]:
    """For each size the architecture of the space whose parameters come closest to it.

    Args:
        sizes: Numbers of parameters, from large to small.
        space: Where students and assistants come from.
        dataset: Their images and classes.
        teacher_params: The teacher's parameters; None if it has none.
        max_params: The limit on students' parameters; None where there is none.

    Returns:
        JSON values, as `Architecture.from_json` reads them.

    Raises:
        UserError: If the space has nothing between half and twice that size, or one of them does
            not stand between the teacher and the students.
    """
    if not sizes:
        return []
    drawn = [space.random(random.Random(number)) for number in range(DRAWN)]
    classes = len(dataset.classes)
    counted = [(count_architecture(a, dataset.input, classes).params, a) for a in drawn]
    counts, architectures = [], []
    for size in sizes:
        params, architecture = min(counted, key=lambda pair: abs(pair[0] - size))
        if not size / 2 <= params <= size * 2:
            raise UserError(
                f"iterate.assistants: the space {space.name!r} has nothing of about {size:,} "
                f"parameters; of {DRAWN} architectures the closest has {params:,}"
            )
        counts.append(params)
        architectures.append(json.loads(architecture.to_json()))
    smallest = min(params for params, _ in counted)
    students = smallest if max_params is None else int(max_params)
    falling = [math.inf if teacher_params is None else teacher_params, *counts, students]
    if any(after >= before for before, after in pairwise(falling)):
        teacher = "" if teacher_params is None else f"fewer than the teacher's {teacher_params:,}, "
        limit = "of the smallest student" if max_params is None else "that a student may have"
        raise UserError(
            f"iterate.assistants: the closest architectures of the space {space.name!r} have "
            f"{', '.join(f'{params:,}' for params in counts)} parameters; an assistant stands "
            f"between teacher and students. Allowed: {teacher}more than the {students:,} {limit}, "
            "each fewer than the one before"
        )
    return architectures


def _check_values(name: str, options: ObjectiveOptions, space: SearchSpace) -> None:
    """Temperature and α that come with an architecture need the objective that has them."""
    if OF_THE_OBJECTIVE not in space.root.children:
        return
    if options.terms is not None or options.stages is not None:
        raise UserError(
            f"{name}: the space {space.name!r} searches alpha or temperature; terms and stages "
            "have these of their own: leave them out, or take `distillation` out of the space"
        )


def _check_tables(name: str, setup: TrainingSetup) -> None:
    """A table answers about its own pictures alone, and with holes not about a whole batch."""
    for teacher, targets in setup.needed_targets.items():
        members = targets.members if isinstance(targets, EnsembleTargets) else (targets,)
        tables = [member for member in members if isinstance(member, TableTargets)]
        if tables and (setup.options.feed.mix or setup.options.feed.synthetic):
            raise UserError(
                f"{name}: teacher {teacher!r} is a table of recorded answers; it has none about "
                "mixed or synthetic images"
            )
        coupled = [
            type(item.term).__name__.lower()
            for item in setup.objective.terms
            if item.term.coupled and item.teacher == teacher
        ]
        if coupled and any(not table.complete for table in tables):
            raise UserError(
                f"{name}: teacher {teacher!r} has no answer to some examples, and "
                f"{', '.join(coupled)} needs all of a batch"
            )


def _check_ensembles(name: str, setup: TrainingSetup) -> None:
    """Whether a teacher is right cannot be known of two examples in one."""
    for teacher, targets in setup.needed_targets.items():
        by_correct = isinstance(targets, EnsembleTargets) and targets.by == "correct"
        if by_correct and setup.options.feed.mix is not None:
            raise UserError(
                f"{name}: teacher {teacher!r} weighs by being correct, which is not known of mixed "
                "examples; use by: certainty"
            )


def _check_layers(
    name: str, setup: TrainingSetup, space: SearchSpace, dataset: Dataset, emit: Emit
) -> None:
    """Looks for the objective's layers in some architectures of the space."""
    errors = _binding_errors(setup, space, dataset, as_teacher=False)
    if len(errors) == SAMPLES:
        raise UserError(f"{name}: {errors[0]}")
    if errors:
        text = (
            f"{name}: {len(errors)} of {SAMPLES} sampled architectures cannot be trained on these "
            f"terms and would fail: {errors[0]}"
        )
        emit(Event("warning", text, stage="teacher"))


def _binding_errors(
    setup: TrainingSetup, space: SearchSpace, dataset: Dataset, *, as_teacher: bool
) -> list[str]:
    """Why the objective's layers cannot be found in some of `SAMPLES` architectures.

    Args:
        setup: With the objective.
        space: Where students come from.
        dataset: Their images and classes.
        as_teacher: Whether each student stands in the place of the main teacher, too.
    """
    errors, setup = [], setup.begun_fresh()  # whatever the weights, the layers are the same
    for number in range(SAMPLES):
        architecture = space.random(random.Random(number))
        try:
            student = setup.students(architecture, dataset, 0)[0].cpu()
            summary = hooks.summarise(student, "student", dataset.input)
            teachers = {k: targets.summary(summary) for k, targets in setup.needed_targets.items()}
            if as_teacher:
                teachers[MAIN] = replace(summary, name="teacher")
            setup.objective.bind(summary, teachers)
        except (LayerError, UserError) as error:
            errors.append(str(error))
        else:
            if as_teacher:  # one that can is enough
                break
    return errors
