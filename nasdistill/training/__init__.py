"""Distillation: a run, what it is fed, and the loop that trains it."""

from nasdistill.training.cuda_graph import CapturedSteps, capturable
from nasdistill.training.loop import (
    EVALUATION_BATCH,
    Diverged,
    Progress,
    distill,
    predict,
    seed_weights,
)
from nasdistill.training.memory import OutOfMemory, fitting
from nasdistill.training.precision import Precision, set_precision
from nasdistill.training.run import Run
from nasdistill.training.schedule import Feed, Pace
from nasdistill.training.timing import (
    PROBE_STEPS,
    precision_steps,
    probe_capture,
    probe_compilation,
    probe_precision,
    seconds_a_lap,
    seconds_a_step,
    steps_a_second,
)

__all__ = [
    "EVALUATION_BATCH",
    "PROBE_STEPS",
    "CapturedSteps",
    "Diverged",
    "Feed",
    "OutOfMemory",
    "Pace",
    "Precision",
    "Progress",
    "Run",
    "capturable",
    "distill",
    "fitting",
    "precision_steps",
    "predict",
    "probe_capture",
    "probe_compilation",
    "probe_precision",
    "seconds_a_lap",
    "seconds_a_step",
    "seed_weights",
    "set_precision",
    "steps_a_second",
]
