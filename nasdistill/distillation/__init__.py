"""Distillation: a run, what it is fed, and the loop that trains it."""

from nasdistill.distillation.capture import CapturedSteps, capturable
from nasdistill.distillation.feed import Feed, Pace
from nasdistill.distillation.loop import (
    EVALUATION_BATCH,
    Diverged,
    Progress,
    distill,
    predict,
    seed_weights,
)
from nasdistill.distillation.memory import OutOfMemory, fitting
from nasdistill.distillation.precision import Precision, set_precision
from nasdistill.distillation.probes import (
    PROBE_STEPS,
    precision_steps,
    probe_capture,
    probe_compilation,
    probe_precision,
    seconds_a_lap,
    seconds_a_step,
    steps_a_second,
)
from nasdistill.distillation.run import Run

__all__ = [
    "EVALUATION_BATCH", "PROBE_STEPS", "CapturedSteps", "Diverged", "Feed", "OutOfMemory", "Pace",
    "Precision", "Progress", "Run", "capturable", "distill", "fitting", "precision_steps",
    "predict", "probe_capture", "probe_compilation", "probe_precision", "seconds_a_lap",
    "seconds_a_step", "seed_weights", "set_precision", "steps_a_second",
]  # fmt: skip
