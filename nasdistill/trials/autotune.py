"""How a kind of student is trained on this machine: timed once, and stored with the study."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from torch import nn

from nasdistill import training
from nasdistill.common import locks
from nasdistill.models.counts import count_architecture
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.study import Study
from nasdistill.training import (
    PROBE_STEPS,
    GraphedSteps,
    LRSchedule,
    Precision,
    Run,
    capturable,
    precision_steps,
)
from nasdistill.trials.context import StudyContext
from nasdistill.trials.proposals import excess_over
from nasdistill.trials.training_setup import TrainingSetup

CAPTURE_WORTH = 1.05
"""How many times as fast captured steps must be: a capture takes time itself."""
LEAST_STEPS = 1000
"""Of a run in which some steps may be spent on finding out how long it will take."""
DRAWS = 200
"""Architectures that are drawn, at most, until one keeps the limits."""
COMPILE_WORTH = 900.0
"""Seconds that a run must be expected to take before compiling it is tried: that takes a minute or
two itself."""


def precision_for(
    study: Study,
    bench: StudyContext,
    course: TrainingSetup,
    students: Sequence[nn.Module],
    micro_batch: int | None,
) -> Precision:
    """The precision for a kind of student: as the recipe says, or probed once and stored.

    Args:
        study: The study.
        bench: What its runs share.
        course: What the students are given.
        students: Those to be trained; copies are timed.
        micro_batch: Most examples that a student sees at once; None for whole batches.
    """
    if study.recipe.precision != "auto":
        return study.recipe.precision

    def probe() -> Precision:
        twins = copy.deepcopy(list(students))
        pace = LRSchedule(0.0, 1, None, 1)
        run = course.run(
            twins, horizon=1, lr_schedule=pace, seed=0, precision="fp32", micro_batch=micro_batch
        )
        with locks.busy(bench.lock):
            course.prepare(precision_steps(run.device) * course.stream.batch_size, 0)
            return training.probe_precision(run)

    chosen: Precision = study.get_or_measure(f"precision:{kind_of(students)}", probe)
    return chosen


def choose_capture(study: Study, bench: StudyContext, course: TrainingSetup, run: Run) -> None:
    """Has a fresh run's steps captured where they can be, and where that is faster.

    Which it is is probed once for a kind of student, and stored.

    Args:
        study: The study.
        bench: What its runs share.
        course: What the run is given.
        run: Not begun yet.
    """
    if capturable(run) is not None:
        return

    def probe() -> float:
        with locks.busy(bench.lock):
            course.prepare(PROBE_STEPS * course.stream.batch_size, 0)
            return training.probe_capture(run)

    if study.get_or_measure(f"captured:{kind_of(run.students)}", probe) > CAPTURE_WORTH:
        run.graphed = GraphedSteps()


def choose_compilation(
    study: Study, bench: StudyContext, run: Run, key: str, steps: int
) -> str | None:
    """Compiles a final's run where that pays back; tried only on long runs of one student.

    What was found is stored: a run that goes on after an interruption is compiled again or not.

    Args:
        study: The study.
        bench: What its finals share.
        run: A fresh run, its teacher's answers at hand.
        key: Of the run in the study.
        steps: It will take.

    Returns:
        What was found, in words; None where it was not tried now.
    """
    if study.recipe.deterministic or len(run.students) > 1 or run.objective.reads_layers:
        return None
    if steps < LEAST_STEPS:
        return None
    if f"compiled:{key}" in study.attrs:
        if study.attrs[f"compiled:{key}"]:
            run.compile()
        return None
    with locks.busy(bench.lock):
        single = training.seconds_a_step(run)
        if single * steps < COMPILE_WORTH:
            return None
        try:
            fused, compiling = training.probe_compilation(run)
        except Exception as error:  # no compiler, or a model that it cannot take
            study.set(f"compiled:{key}", False)
            return f"not compiled: {' '.join(str(error).split())[:200]}"
    pays = fused * steps + compiling < single * steps
    study.set(f"compiled:{key}", pays)
    if pays:
        run.compile()
    said = f"{single / fused:.2f} times as fast compiled, which takes {compiling:.0f} s"
    return said if pays else f"not compiled: {said}"


def example_run(study: Study, bench: StudyContext) -> Run:
    """A run like a trial's, of a student drawn within the limits, to be timed; it learns nothing.

    Every process that draws one for the study draws the same. The answers of its first
    `PROBE_STEPS` steps are at hand.

    Args:
        study: The study.
        bench: What its trials share.
    """
    rng = random.Random(study.recipe.seed)
    for _ in range(DRAWS):
        architecture = study.space.random(rng)
        counts = count_architecture(architecture, bench.dataset.input, bench.classes)
        if not excess_over(asdict(counts), bench.limits):
            break
    course = bench.scoring.for_architecture(architecture)
    students = course.students(architecture, bench.dataset, study.recipe.seed)
    run = course.run(
        students,
        horizon=1,
        lr_schedule=LRSchedule(0.0, 1, None, 1),
        seed=0,
        precision=precision_for(study, bench, course, students, None),
    )
    choose_capture(study, bench, course, run)
    with locks.busy(bench.lock):
        course.prepare(PROBE_STEPS * course.stream.batch_size, 0)
    return run


def kind_of(students: Iterable[nn.Module]) -> str:
    """`depthwise` or `dense`: students of one kind share a precision.

    Args:
        students: Those that learn together; most runs have one.
    """
    depthwise = any(isinstance(m, DepthwiseConv2d) for each in students for m in each.modules())
    return "depthwise" if depthwise else "dense"
