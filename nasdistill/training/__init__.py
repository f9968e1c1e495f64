"""Training: a run, its batches and learning rate, and the loop that trains it."""

from nasdistill.training.cuda_graph import GraphedSteps, capturable
from nasdistill.training.loop import (
    Diverged,
    Predictions,
    Progress,
    inference_on,
    predict,
    seed_weights,
    train,
)
from nasdistill.training.memory import OutOfMemory, with_micro_batches
from nasdistill.training.precision import Precision, set_precision
from nasdistill.training.run import Run
from nasdistill.training.schedule import BatchStream, LRSchedule
from nasdistill.training.timing import (
    WINDOW_STEPS,
    CompiledTiming,
    fastest_precision,
    graph_speedup,
    precision_steps,
    quick_seconds_per_step,
    seconds_per_step,
    seconds_per_window,
    steps_per_second,
    time_compilation,
)

__all__ = [
    "WINDOW_STEPS",
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
    "fastest_precision",
    "graph_speedup",
    "inference_on",
    "precision_steps",
    "predict",
    "quick_seconds_per_step",
    "seconds_per_step",
    "seconds_per_window",
    "seed_weights",
    "set_precision",
    "steps_per_second",
    "time_compilation",
    "train",
    "with_micro_batches",
]
