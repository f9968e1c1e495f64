"""A pretrained classifier, fitted to other data: its head first, then all of it.

A fresh head's gradients would spoil what the layers below have learned, so the head is trained
alone before the rest follows at a small learning rate (Kumar et al., "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", 2022).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from torch import nn

from nasdistill.common import formats
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, telling
from nasdistill.common.files import write_whole
from nasdistill.common.json_files import read_or_set_aside
from nasdistill.common.types import Sampling
from nasdistill.data import Dataset
from nasdistill.losses import Objective
from nasdistill.training.heads import HEAD_BATCH, HEAD_RATE, head_run
from nasdistill.training.loop import Diverged, inference_on, predict
from nasdistill.training.metrics import accuracy
from nasdistill.training.precision import Precision, set_precision
from nasdistill.training.run import Run
from nasdistill.training.schedule import BatchStream, ClassWeights, LRSchedule, class_weights_of
from nasdistill.training.teacher import train_through
from nasdistill.training.timing import fastest_precision, quick_seconds_per_step

Part = Literal["head", "all"]

RATES: dict[Part, float] = {"head": HEAD_RATE, "all": 5e-4}
"""Default learning rates, by what is tuned.

For all layers measured on photographs of clothes: EfficientNet-Lite0 at 128 pixels reaches 91.1 %
on test after four epochs at 5e-4, and 85.0 % at 1e-4 (one seed each)."""
HEAD_FIRST = 3
"""Epochs of the head alone, before all layers learn."""


@dataclass(frozen=True)
class FineTuning:
    """The settings of a fine-tuning.

    Attributes:
        tune: The head alone, or all layers after it.
        epochs: Passes over the training split: of the head alone, or of all layers, which come
            after `HEAD_FIRST` of the head.
        seed: Of order, views and dropout.
        learning_rate: Peak of what is tuned: it rises over one epoch (of a head alone, one step),
            then falls linearly to zero.
        batch_size: Examples in a step of all layers.
        weight_decay: AdamW's, of all layers.
        precision: See `Run`; `auto` for the fastest on this machine, probed once.
        sampling: See `BatchStream`.
        class_weights: See `class_weights_of`.
    """

    tune: Part
    epochs: int
    seed: int
    learning_rate: float
    batch_size: int = 32
    weight_decay: float = 0.05
    precision: Precision | Literal["auto"] = "auto"
    sampling: Sampling = "uniform"
    class_weights: ClassWeights | None = None

    @property
    def stages(self) -> dict[Part, int]:
        """Epochs of each stage, in order."""
        if self.tune == "head":
            return {"head": self.epochs}
        return {"head": HEAD_FIRST, "all": self.epochs}

    @property
    def head_rate(self) -> float:
        """Peak learning rate of the head's stage."""
        return self.learning_rate if self.tune == "head" else HEAD_RATE


@dataclass
class _Progress:
    """The state of a fine-tuning beside those of its runs.

    Attributes:
        precision: Of all runs; decided once.
        accuracies: On the score half after each epoch, as `{"tuned", "epoch", "accuracy"}`.
    """

    precision: Precision
    accuracies: list[dict[str, Any]] = field(default_factory=list)


class ProgressFile(BaseModel):
    """The content of the file that keeps a fine-tuning's progress."""

    precision: Precision
    accuracies: list[dict[str, Any]]


_PROGRESS = TypeAdapter(ProgressFile)


@dataclass(frozen=True)
class FineTuned:
    """How a classifier was fitted.

    Attributes:
        precision: It was trained in.
        accuracies: On the score half after each epoch, as `{"tuned", "epoch", "accuracy"}`.
    """

    precision: Precision
    accuracies: list[dict[str, Any]]


def fine_tune(
    module: nn.Module,
    heads: list[nn.Module],
    dataset: Dataset,
    size: tuple[int, int],
    settings: FineTuning,
    *,
    emit: Emit,
    checkpoint: Path,
) -> FineTuned:
    """Fits a classifier to the data's labels; tells its accuracy after each epoch.

    Args:
        module: Its head gives the data's classes; changed in place, in eval mode afterwards.
        heads: The layers that give its logits.
        dataset: The data.
        size: `(height, width)` in pixels at which it sees the images.
        settings: What is tuned, and how.
        emit: Told how it goes.
        checkpoint: Written after each epoch, with others beside it; where it exists, the
            fine-tuning goes on from it. `remove_fine_tuning` removes them.

    Raises:
        UserError: If the loss stops being finite.
    """

    def head_stage() -> Run:
        epochs, rate = settings.stages["head"], settings.head_rate
        stream = BatchStream(dataset, HEAD_BATCH, epochs, settings.seed, settings.sampling)
        return head_run(module, heads, stream, _objective(dataset, settings), size, rate)

    def whole_stage() -> Run:
        return _whole_run(module, dataset, size, settings)

    progress = _open_progress(head_stage(), settings, checkpoint, emit)
    stages = [head_stage] if settings.tune == "head" else [head_stage, whole_stage]
    _tell_seconds(stages, progress.precision, emit)
    try:
        if not checkpoint.exists():  # else the head's stage is over
            _train_stage(head_stage(), "head", settings, progress, emit, _head_file(checkpoint))
        if settings.tune == "all":
            _train_stage(whole_stage(), "all", settings, progress, emit, checkpoint)
    except Diverged as error:
        raise UserError(f"fine-tuning broke off: {error}; lower its learning rate") from None
    set_precision(module, "fp32")
    module.requires_grad_(False).eval()
    return FineTuned(progress.precision, progress.accuracies)


def remove_fine_tuning(checkpoint: Path) -> None:
    """Removes all that a fine-tuning left beside its checkpoint."""
    for path in (checkpoint, _head_file(checkpoint), _progress_file(checkpoint)):
        path.unlink(missing_ok=True)


def _tell_seconds(stages: Sequence[Callable[[], Run]], precision: Precision, emit: Emit) -> None:
    """Tells how long the stages will take on this machine, from a few steps of each."""
    seconds = 0.0
    for make in stages:
        run = make()
        run.precision = precision
        set_precision(run.students, precision)
        seconds += run.stream.steps(run.horizon) * quick_seconds_per_step(run)
    text = f"fine-tuning takes {formats.seconds(seconds)} at the pace of its first steps"
    emit(Event("note", f"{text} in {precision}", stage="teacher"))


def _train_stage(
    run: Run,
    part: Part,
    settings: FineTuning,
    progress: _Progress,
    emit: Emit,
    checkpoint: Path,
) -> None:
    """Trains one stage; tells and keeps the accuracy on the score half after each epoch."""
    run.precision = progress.precision
    set_precision(run.students, progress.precision)
    score, epochs = run.stream.dataset.score, settings.stages[part]
    inference = None
    for epoch in train_through(run, epochs, "teacher", emit, checkpoint):
        with_progress = telling("scoring", "teacher", len(score), emit)
        inference = inference or inference_on(run.student, score, run.size)
        share = accuracy(*predict(run.student, score, run.size, with_progress, inference))
        progress.accuracies.append({"tuned": part, "epoch": epoch, "accuracy": share})
        _save(progress, _progress_file(checkpoint))
        layers = "head alone" if part == "head" else "all layers"
        text = f"{layers}, epoch {epoch} of {epochs}: accuracy {share:.3f} of {len(score):,} "
        emit(Event("note", text + "validation images", stage="teacher"))


def _whole_run(
    module: nn.Module, dataset: Dataset, size: tuple[int, int], settings: FineTuning
) -> Run:
    """The run of all layers: its learning rate rises over an epoch, then falls to zero."""
    epochs = settings.epochs
    stream = BatchStream(dataset, settings.batch_size, epochs, settings.seed, settings.sampling)
    per_epoch = stream.examples_per_epoch
    end = epochs * per_epoch
    return Run(
        [module.requires_grad_(True)],
        stream,
        _objective(dataset, settings),
        horizon=end,
        lr_schedule=LRSchedule(settings.learning_rate, per_epoch, per_epoch, end),
        seed=settings.seed,
        size=size,
        weight_decay=settings.weight_decay,
    )


def _objective(dataset: Dataset, settings: FineTuning) -> Objective:
    """Labels, weighed by class where the settings say so."""
    weights = class_weights_of(settings.class_weights, dataset)
    return Objective.labels().with_class_weights(weights)


def _open_progress(run: Run, settings: FineTuning, checkpoint: Path, emit: Emit) -> _Progress:
    """The progress that a killed fine-tuning left; else a new one, its precision probed."""
    file = _progress_file(checkpoint)
    stored = read_or_set_aside(
        file,
        _PROGRESS,
        lambda text: emit(Event("warning", text, stage="teacher")),
        "its precision, so that the fine-tuning begins again",
    )
    if stored is not None:
        return _Progress(**stored)
    remove_fine_tuning(checkpoint)  # without its precision a run must not go on
    precision = settings.precision
    progress = _Progress(fastest_precision(run) if precision == "auto" else precision)
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(progress, file)
    return progress


def _save(progress: _Progress, file: Path) -> None:
    write_whole(file, json.dumps(vars(progress)))


def _head_file(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.head")


def _progress_file(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name.removesuffix('.head')}.json")
