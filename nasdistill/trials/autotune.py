"""The quickest way to train a kind of student on this machine: timed once, kept with the study."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.events import telling
from nasdistill.data import Split
from nasdistill.models.counts import count_architecture, count_params
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.inference import (
    WHOLE,
    Inference,
    fastest_inference,
    is_probed,
    most_images,
)
from nasdistill.models.limits import MOST_PARAMETERS
from nasdistill.results import keys
from nasdistill.space import Architecture
from nasdistill.training import (
    WINDOW_STEPS,
    GraphedSteps,
    LRSchedule,
    Precision,
    Predictions,
    Run,
    capturable,
    precision_steps,
)
from nasdistill.trials.context import StudyContext
from nasdistill.trials.costs import excess_over, least_figures
from nasdistill.trials.training_setup import TrainingSetup

GRAPH_GAIN = 1.05
"""How many times as fast graphed steps must be: a capture takes time itself."""
LEAST_STEPS = 1000
"""Of a run in which some steps may be spent on finding out how long it will take."""
DRAWS = 200
"""Architectures that are drawn, at most, until one keeps the limits."""
COMPILE_WORTH = 900.0
"""Seconds that a run must be expected to take before compiling it is tried: that takes a minute or
two itself."""

NO_LEARNING = LRSchedule(0.0, 1, None, 1)


def precision_for(
    context: StudyContext,
    setup: TrainingSetup,
    students: Sequence[nn.Module],
    micro_batch: int | None = None,
) -> Precision:
    """The precision for a kind of student: as the recipe says, or probed once and stored.

    Args:
        context: The study's.
        setup: The parts of the run.
        students: Those to be trained; copies are timed.
        micro_batch: Most examples that a student sees at once; None for whole batches.
    """
    if context.recipe.precision != "auto":
        return context.recipe.precision

    def probe() -> Precision:
        run = setup.run(
            copy.deepcopy(list(students)),
            horizon=1,
            lr_schedule=NO_LEARNING,
            seed=0,
            precision="fp32",
            micro_batch=micro_batch,
        )
        with locks.busy(context.latency_lock):
            setup.prepare(precision_steps(run) * setup.stream.batch_size, 0)
            return training.fastest_precision(run)

    precision: Precision = context.study.get_or_measure(keys.PRECISION.of(kind_of(students)), probe)
    return precision


def inference_for(context: StudyContext, student: nn.Module) -> Inference:
    """The way a kind of student is run on large pictures: probed once and stored.

    Args:
        context: The study's.
        student: One of them, in the layout that it was trained in; left in eval mode.
    """
    data = context.dataset
    [first] = data.score.batches([(torch.arange(1), None)], data.input.size)
    if not is_probed(first.images):
        return WHOLE

    def probe() -> list[Any]:
        with locks.busy(context.latency_lock):
            return list(fastest_inference(student.eval(), first.images))

    key = keys.INFERENCE.of(kind_of([student]))
    batch, layout = context.study.get_or_measure(key, probe)
    return Inference(min(batch, most_images(student.eval(), first.images)), layout)


def predict(
    context: StudyContext, student: nn.Module, split: Split, text: str, stage: str = "finals"
) -> Predictions:
    """A student's logits on a split; tells how far it is, where that takes a while.

    Args:
        context: The study's.
        student: In the layout that it was trained in; left in eval mode.
        split: The examples.
        text: What is being done.
        stage: As of `Event`.
    """
    with_progress = telling(text, stage, len(split), context.emit)
    inference = inference_for(context, student)
    return training.predict(student, split, context.dataset.input.size, with_progress, inference)


def choose_capture(context: StudyContext, setup: TrainingSetup, run: Run) -> None:
    """Has a fresh run's steps captured in a CUDA graph where they can be, and where that is faster.

    Which it is is probed once for a kind of student, and stored.

    Args:
        context: The study's.
        setup: The parts of the run.
        run: Not begun yet.
    """
    if capturable(run) is not None:
        return

    def probe() -> float:
        with locks.busy(context.latency_lock):
            setup.prepare(WINDOW_STEPS * setup.stream.batch_size, 0)
            return training.graph_speedup(run)

    key = keys.GRAPHED.of(kind_of(run.students))
    if context.study.get_or_measure(key, probe) > GRAPH_GAIN:
        run.graphed = GraphedSteps()


def choose_compilation(context: StudyContext, run: Run, name: str, steps: int) -> str | None:
    """Compiles a final's run where that pays back; tried only on long runs of one student.

    The outcome is stored: a run that goes on after an interruption is compiled again or not.

    Args:
        context: The study's.
        run: A fresh run, its teacher's logits at hand.
        name: Of the run in the study.
        steps: It will take.

    Returns:
        The outcome in words; None where it was not tried now.
    """
    if context.recipe.deterministic or len(run.students) > 1 or run.objective.reads_layers:
        return None
    if steps < LEAST_STEPS:
        return None
    study, key = context.study, keys.COMPILED.of(name)
    if study.has(key):
        if study.require(key):
            run.compile()
        return None
    with locks.busy(context.latency_lock):
        seconds = training.seconds_per_step(run)
        if seconds * steps < COMPILE_WORTH:
            return None
        try:
            compiled_seconds, compiling = training.time_compilation(run)
        except Exception as error:  # no compiler, or a model that it cannot take
            study.write(key, False)
            return f"not compiled: {' '.join(str(error).split())[:200]}"
    pays = compiled_seconds * steps + compiling < seconds * steps
    study.write(key, pays)
    if pays:
        run.compile()
    gain = seconds / compiled_seconds
    outcome = f"{gain:.2f} times as fast compiled, which takes {compiling:.0f} s"
    return outcome if pays else f"not compiled: {outcome}"


def example_run(context: StudyContext) -> Run:
    """A run like a trial's, of a student drawn within the limits, to be timed; it learns nothing.

    Every process that draws one for the study draws the same. The logits of its first
    `WINDOW_STEPS` steps are at hand.
    """
    recipe = context.recipe
    architecture = draw_within_limits(context, random.Random(recipe.seed))
    setup = context.scoring.for_architecture(architecture).begun_fresh()  # weights take no time
    students = setup.students(architecture, context.dataset, recipe.seed)
    run = setup.run(
        students,
        horizon=1,
        lr_schedule=NO_LEARNING,
        seed=0,
        precision=precision_for(context, setup, students),
    )
    choose_capture(context, setup, run)
    with locks.busy(context.latency_lock):
        setup.prepare(WINDOW_STEPS * setup.stream.batch_size, 0)
    return run


def draw_within_limits(context: StudyContext, rng: random.Random) -> Architecture:
    """Draws an architecture whose counts keep the limits; after `DRAWS` draws, any."""
    shape, classes = context.dataset.input, context.classes
    most = min(MOST_PARAMETERS, context.limits.get("params", MOST_PARAMETERS))
    for _ in range(DRAWS):
        architecture = context.study.space.random(rng)
        if count_params(architecture, shape, classes) > most:  # quick, and settles most of them
            continue
        counts = count_architecture(architecture, shape, classes)
        if not excess_over(least_figures(context.recipe, counts), context.limits):
            break
    return architecture


def kind_of(students: Iterable[nn.Module]) -> str:
    """`depthwise` or `dense`: students of one kind share a precision.

    Args:
        students: Those that learn together; most runs have one.
    """
    modules = (module for student in students for module in student.modules())
    return "depthwise" if any(isinstance(m, DepthwiseConv2d) for m in modules) else "dense"
