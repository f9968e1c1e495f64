"""A teacher trained on labels alone: for some epochs, or until validation stops improving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nasdistill.common import formats
from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import set_aside
from nasdistill.common.types import Sampling
from nasdistill.data import Dataset
from nasdistill.losses import Objective
from nasdistill.models import Classifier, build
from nasdistill.space import Architecture
from nasdistill.training.checkpoint import read_checkpoint, write_checkpoint
from nasdistill.training.loop import Diverged, predict, seed_weights
from nasdistill.training.precision import Precision, set_precision
from nasdistill.training.run import Run
from nasdistill.training.schedule import BatchStream, ClassWeights, LRSchedule, class_weights_of
from nasdistill.training.teacher import train_through
from nasdistill.training.timing import fastest_precision, quick_seconds_per_step

RUNGS = 3
"""Budgets that a training until the plateau tries at most, each twice the one before."""
LEAST_EPOCHS, LEAST_STEPS = 6, 100
"""Of the first budget: whichever is longer."""
COOL_DOWN_PART = 3
"""A budget ÷ its cool-down."""


@dataclass(frozen=True)
class Hyperparameters:
    """The settings of a teacher's training.

    Attributes:
        learning_rate: Peak of the schedule.
        weight_decay: AdamW's.
        batch_size: Examples in a step.
        precision: See `Run`; `auto` for the fastest on this machine, probed once.
        sampling: See `BatchStream`.
        class_weights: See `class_weights_of`.
    """

    learning_rate: float = 0.003
    weight_decay: float = 0.05
    batch_size: int = 128
    precision: Precision | Literal["auto"] = "auto"
    sampling: Sampling = "uniform"
    class_weights: ClassWeights | None = None


@dataclass(frozen=True)
class TrainedTeacher:
    """A trained classifier, and how it was trained.

    Attributes:
        module: In eval mode, on the CPU.
        epochs: Passes over the training split that it saw.
        precision: It was trained in.
        scores: Accuracy on the score half after each budget that was tried, in [0, 1]; empty where
            the number of epochs was given.
    """

    module: Classifier
    epochs: int
    precision: Precision
    scores: tuple[float, ...] = ()


def train_teacher(
    dataset: Dataset,
    architecture: Architecture,
    *,
    epochs: int | None,
    seed: int,
    emit: Emit,
    hyperparameters: Hyperparameters | None = None,
    checkpoint: Path | None = None,
) -> TrainedTeacher:
    """Trains an architecture on labels alone.

    Args:
        dataset: Data; the training split is used, each epoch in a new view.
        architecture: Of the teacher.
        epochs: Passes over the training split: warm-up for two, then the learning rate falls
            linearly to zero. None trains until accuracy on the score half stops improving.
        seed: Seeds weights, order and dropout.
        emit: Told the cost, and how it goes.
        hyperparameters: The settings; None for the defaults.
        checkpoint: Written after each epoch, with others beside it; where it exists, the training
            goes on from it. `remove_checkpoints` removes them.

    Raises:
        UserError: If the loss stops being finite.
    """
    settings = hyperparameters or Hyperparameters()
    budgets = budgets_in_epochs(dataset, settings.batch_size) if epochs is None else (epochs,)
    run = _fresh_run(dataset, architecture, budgets[-1], seed, settings)
    progress = _open_progress(run, settings, checkpoint, emit)
    run.precision = progress.precision
    set_precision(run.students, progress.precision)
    try:
        if epochs is None:
            return _train_to_plateau(run, budgets, progress, emit, checkpoint)
        per_epoch = run.stream.examples_per_epoch
        run.lr_schedule = replace(run.lr_schedule, cool_down=2 * per_epoch)
        for _ in train_through(run, epochs, "teacher", emit, checkpoint):
            pass
    except Diverged as error:
        raise UserError(
            f"the teacher's training broke off: {error}; lower its learning rate"
        ) from None
    return TrainedTeacher(_classifier(run.student), epochs, run.precision)


def budgets_in_epochs(dataset: Dataset, batch_size: int) -> tuple[int, ...]:
    """The budgets that a training until the plateau tries, in epochs.

    Args:
        dataset: Its training split counts.
        batch_size: Examples in a step.
    """
    steps = BatchStream(dataset, batch_size, 1, 0).steps_per_epoch
    first = max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))
    first = math.ceil(first / COOL_DOWN_PART) * COOL_DOWN_PART
    return tuple(first * 2**rung for rung in range(RUNGS))


def cost_in_epochs(budgets: Sequence[int]) -> int:
    """Passes over the training split that trying all of these budgets takes: trunk and branches."""
    return _trunk_end(budgets[-1]) + sum(budget - _trunk_end(budget) for budget in budgets)


def remove_checkpoints(checkpoint: Path) -> None:
    """Removes all that a training left beside its checkpoint, when nobody will go on from it."""
    for path in (checkpoint, *_files_beside(checkpoint)):
        path.unlink(missing_ok=True)


@dataclass
class _Progress:
    """The state of a training beside that of its run.

    Attributes:
        precision: Of the run; decided once.
        scores: Accuracy on the score half after each budget that was tried.
        right: Which examples of the score half the best of these classifies rightly, bool `[N]`.
        best: Weights of the best.
        best_rung: Its index.
    """

    precision: Precision
    scores: list[float]
    right: Tensor | None = None
    best: dict[str, Tensor] | None = None
    best_rung: int = 0

    @property
    def improved(self) -> bool:
        """Whether the last budget was the best so far."""
        return self.best_rung == len(self.scores) - 1

    @property
    def on_plateau(self) -> bool:
        """Whether more training is not expected to give a better score."""
        scores = self.scores
        return bool(scores) and (scores[-1] == 1.0 or (len(scores) > 1 and not self.improved))


def _fresh_run(
    dataset: Dataset, architecture: Architecture, epochs: int, seed: int, settings: Hyperparameters
) -> Run:
    """The run of a teacher, in fp32, its learning rate held after a warm-up of two epochs."""
    seed_weights(seed, architecture.fingerprint)
    net = build(architecture, dataset.input, len(dataset.classes))
    stream = BatchStream(dataset, settings.batch_size, epochs, seed, settings.sampling)
    weights = class_weights_of(settings.class_weights, dataset)
    end = epochs * stream.examples_per_epoch
    return Run(
        [Classifier(net, dataset.mean, dataset.std)],
        stream,
        Objective.labels().with_class_weights(weights),
        horizon=end,
        lr_schedule=LRSchedule(settings.learning_rate, 2 * stream.examples_per_epoch, None, end),
        seed=seed,
        weight_decay=settings.weight_decay,
    )


def _open_progress(
    run: Run, settings: Hyperparameters, checkpoint: Path | None, emit: Emit
) -> _Progress:
    """The progress that a killed training left; else a new one, its precision probed."""
    file = None if checkpoint is None else checkpoint.with_suffix(".progress.pt")
    if file is not None and file.exists():
        try:
            return _read_progress(file)
        except DamagedFileError as error:
            text = f"{error}; it was put aside as {set_aside(file).name}, and the training begins "
            emit(Event("warning", text + "again", stage="teacher"))
    if checkpoint is not None:
        remove_checkpoints(checkpoint)  # without its precision a run must not go on
    precision = settings.precision
    progress = _Progress(fastest_precision(run) if precision == "auto" else precision, [])
    if checkpoint is not None:
        _save(progress, checkpoint)
    return progress


def _read_progress(file: Path) -> _Progress:
    """Reads what `_save` wrote.

    Raises:
        DamagedFileError: If it is cut off, or something else.
    """
    stored = read_checkpoint(file)
    try:
        return _Progress(**stored)
    except TypeError:
        raise DamagedFileError(str(file), "not the progress of a teacher's training") from None


def _train_to_plateau(
    run: Run, budgets: Sequence[int], progress: _Progress, emit: Emit, checkpoint: Path | None
) -> TrainedTeacher:
    """Trains until twice the budget is no better, or the budgets are used up.

    One trunk at a constant learning rate; at each budget a copy of it cools down over the last
    third and is scored, and the trunk goes on from where the copy left: see docs/scoring.md.
    """
    if not progress.on_plateau:
        _tell_seconds(run, budgets, emit)
    while len(progress.scores) < len(budgets) and not progress.on_plateau:
        rung = len(progress.scores)
        student = _train_rung(run, budgets[rung], rung, emit, checkpoint)
        _score(progress, student, run, rung)
        if checkpoint is not None:
            _save(progress, checkpoint)
            _branch_file(checkpoint, rung).unlink(missing_ok=True)
        _tell_rung(progress, budgets, len(run.stream.dataset.score), emit)
    assert progress.best is not None
    run.student.load_state_dict(progress.best)
    return TrainedTeacher(
        _classifier(run.student),
        budgets[progress.best_rung],
        progress.precision,
        tuple(progress.scores),
    )


def _train_rung(
    run: Run, epochs: int, rung: int, emit: Emit, checkpoint: Path | None
) -> torch.nn.Module:
    """Trains the trunk up to where a budget's cool-down begins, and a copy of it to its end."""
    turn, per_epoch = _trunk_end(epochs), run.stream.examples_per_epoch
    for _ in train_through(run, turn, "teacher", emit, checkpoint):
        pass
    schedule = replace(run.lr_schedule, cool_down=turn * per_epoch, end=epochs * per_epoch)
    branch = run.branch(schedule)
    file = None if checkpoint is None else _branch_file(checkpoint, rung)
    for _ in train_through(branch, epochs, "teacher", emit, file):
        pass
    return branch.student


def _score(progress: _Progress, student: torch.nn.Module, run: Run, rung: int) -> None:
    """Scores a student on the score half; keeps it if it is better than chance differences are.

    Better is what is rightly classified now and was not before, less the reverse, by more than one
    standard error of that difference (McNemar, 1947).
    """
    logits, labels = predict(student, run.stream.dataset.score, run.size)
    right = logits.argmax(dim=1) == labels
    progress.scores.append(float(right.double().mean()))
    if progress.right is not None:
        gained = int((right & ~progress.right).sum())
        lost = int((progress.right & ~right).sum())
        if gained - lost <= math.sqrt(gained + lost):
            return
    progress.right, progress.best_rung = right, rung
    progress.best = {name: tensor.cpu() for name, tensor in student.state_dict().items()}


def _tell_seconds(run: Run, budgets: Sequence[int], emit: Emit) -> None:
    """Tells how long the training will take on this machine, from a few steps."""
    per_second = run.stream.batch_size / quick_seconds_per_step(run)
    least, most = (cost_in_epochs(budgets[:count]) for count in (2, len(budgets)))
    seconds = run.stream.examples_per_epoch / per_second
    times = " to ".join(formats.seconds(epochs * seconds) for epochs in (least, most))
    text = (
        f"the teacher trains until accuracy on validation images stops improving: {least} to "
        f"{most} epochs, {times} at the {per_second:,.0f} images/s of its first steps in "
        f"{run.precision}"
    )
    emit(Event("note", text, stage="teacher", images_per_second=per_second))


def _tell_rung(progress: _Progress, budgets: Sequence[int], examples: int, emit: Emit) -> None:
    rung, score = len(progress.scores) - 1, progress.scores[-1]
    passes = formats.counted(budgets[rung], "epoch")
    text = f"after {passes}: accuracy {score:.3f} of {examples:,} validation images"
    if not progress.improved:
        text += f", no better than after {budgets[progress.best_rung]}, which is kept: a plateau"
    elif rung == len(budgets) - 1 and not progress.on_plateau:
        text += (
            "; it was still improving: `nasdistill teacher train --epochs "
            f"{2 * budgets[rung]}` may give a better teacher"
        )
    emit(Event("note", text, stage="teacher"))


def _trunk_end(budget: int) -> int:
    return budget - budget // COOL_DOWN_PART


def _branch_file(checkpoint: Path, rung: int) -> Path:
    return checkpoint.with_suffix(f".branch-{rung}.pt")


def _files_beside(checkpoint: Path) -> list[Path]:
    branches = [_branch_file(checkpoint, rung) for rung in range(RUNGS)]
    return [checkpoint.with_suffix(".progress.pt"), *branches]


def _save(progress: _Progress, checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(vars(progress), checkpoint.with_suffix(".progress.pt"))


def _classifier(student: torch.nn.Module) -> Classifier:
    set_precision(student, "fp32")
    module = student.cpu().eval()
    assert isinstance(module, Classifier)
    return module
