"""Training: a run, its batches and learning rate, and the loop that trains it."""

from nasdistill.training.cuda_graph import GraphedSteps, capturable
from nasdistill.training.loop import (
    EVALUATION_BATCH,
    Diverged,
    Predictions,
    Progress,
    predict,
    seed_weights,
    train,
)
from nasdistill.training.memory import OutOfMemory, with_micro_batches
from nasdistill.training.precision import Precision, set_precision
from nasdistill.training.run import Run
from nasdistill.training.schedule import BatchStream, LRSchedule
from nasdistill.training.timing import (
    PROBE_STEPS,
    CompiledTiming,
    precision_steps,
    probe_capture,
    probe_compilation,
    probe_precision,
    seconds_per_step,
    seconds_per_window,
    steps_per_second,
)

__all__ = [
    "EVALUATION_BATCH",
    "PROBE_STEPS",
    "BatchStream",
    "CompiledTiming",
    "Diverged",
    "GraphedSteps",
    "LRSchedule",
    "OutOfMemory",
    "Precision",
    "Predictions",
    "Progress",
    "Run",
    "capturable",
    "probe_precision",
    "probe_capture",
    "precision_steps",
    "predict",
    "seconds_per_step",
    "seconds_per_window",
    "seed_weights",
    "set_precision",
    "steps_per_second",
    "probe_compilation",
    "train",
    "with_micro_batches",
]
