"""Training, tuning and evaluating a teacher."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from nasdistill.common import formats, locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, telling, with_signs_of_life
from nasdistill.common.files import set_aside, write_whole
from nasdistill.common.intervals import ONE_SIDED_95, TWO_SIDED_95, wilson
from nasdistill.common.shared_files import ONE_FOLDER, SharedFiles
from nasdistill.common.types import Sampling
from nasdistill.data import Dataset, Split
from nasdistill.losses import Objective
from nasdistill.models.counts import count_module
from nasdistill.models.inference import SMALL, Inference
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.teachers import (
    SHIPPED,
    LogitPrecision,
    Teacher,
    head_of,
    replace_head,
    weights_hash,
)
from nasdistill.training.checkpoint import go_on_from
from nasdistill.training.heads import HEAD_BATCH, head_run
from nasdistill.training.loop import Predictions, inference_on, predict, train
from nasdistill.training.metrics import (
    accuracy,
    accuracy_with_interval,
    balanced_accuracy,
    expected_calibration_error,
)
from nasdistill.training.precision import emulates_bf16
from nasdistill.training.run import Run
from nasdistill.training.schedule import BatchStream, ClassWeights, class_weights_of

TRAIN_SAMPLE = 2000
"""Most training examples on which a teacher is evaluated, of small pictures."""
LARGE_SAMPLE = 500, 0.02
"""Least training examples of large pictures on which it is, and half the width of the 95 % interval
for whose sake there may be more."""
WHY_NO_BETTER = (
    "Its classes may be in another order, or its inputs prepared in another way. Train one on "
    "these data with `nasdistill teacher train`."
)
"""What to do about a teacher that is barely better than chance."""
OVERFITTED_GAP = 0.1
"""Difference of training and validation accuracy above which the user is warned."""
BF16_WORTH = 0.8
"""Share of fp32's time below which bf16's logits are worth their rounding."""
LARGE_COUNT = 128
"""Large pictures on which the precisions are compared: a second or two at each."""
SAME_CLASS = 0.98
"""Least share of images that both precisions must put in the same class."""


def checkpoint_of(folder: Path, *identity: object) -> Path:
    """The checkpoint of a teacher's training, which is needed until its folder is written.

    Args:
        folder: The teacher's.
        identity: All that determines the training: another one must not go on from this checkpoint.
    """
    key = hashlib.blake2b(repr(identity).encode(), digest_size=6).hexdigest()
    return folder.with_name(f"{folder.name}.{key}.checkpoint.pt")


def train_through(
    run: Run, epochs: int, stage: str, emit: Emit, checkpoint: Path | None, lock: Path | None = None
) -> Iterator[int]:
    """Trains epoch by epoch, with a checkpoint after each.

    Args:
        run: The training.
        epochs: Number of them in all.
        stage: The stage that is named in the events.
        emit: Receives the progress.
        checkpoint: Written after each epoch; where it exists, the training goes on from it.
        lock: Of `locks.quiet`, where other workers may measure in the meantime.

    Yields:
        The number of epochs done, after each epoch's checkpoint is written.
    """
    if checkpoint is not None:
        go_on_from(run, checkpoint, lambda text: emit(Event("warning", text, stage=stage)))
    per_epoch = run.stream.examples_per_epoch
    for epoch in range(run.step // run.stream.steps_per_epoch, epochs):
        steps = train(run, (epoch + 1) * per_epoch)
        for progress in steps if lock is None else locks.pausing(steps, lock):
            left = (epochs * per_epoch - progress.examples) / max(progress.images_per_second, 1e-9)
            emit(
                Event(
                    "progress",
                    f"epoch {epoch + 1} of {epochs}, loss {progress.loss:.3f}",
                    stage=stage,
                    done=progress.examples,
                    total=epochs * per_epoch,
                    images_per_second=progress.images_per_second,
                    eta_seconds=left,
                )
            )
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            run.save(checkpoint)
        yield epoch + 1


def evaluate_teacher(
    teacher: Teacher,
    dataset: Dataset,
    *,
    test: bool = False,
    emit: Emit = silent,
    advice: str = WHY_NO_BETTER,
) -> dict[str, Any]:
    """Evaluates a teacher on the data.

    Args:
        teacher: The teacher; the way it is run is decided if it is not yet.
        dataset: The data.
        test: Whether to evaluate it on the test split too.
        emit: Told how far it is, where that takes a while.
        advice: What to do where it is barely better than chance.

    Returns:
        Accuracy on the validation split with its interval, expected calibration error, accuracy on
        a sample of the training split, the gap between the two (both None where there is none),
        parameters, MACs and bytes.

    Raises:
        UserError: If its number of classes is not the data's, or it is barely better than chance.
    """
    if teacher.classes != len(dataset.classes):
        raise UserError(
            f"teacher {teacher.name!r} tells {teacher.classes} classes apart, the data "
            f"{dataset.name!r} has {len(dataset.classes)}"
        )
    if teacher.inference is None:
        teacher.use(fastest_teacher_inference(teacher, dataset))
    validation: list[Split] = [dataset.score, dataset.audit]
    predictions = [_predict(teacher, split, "validation", emit) for split in validation]
    logits = torch.cat([part.logits for part in predictions])
    labels = torch.cat([part.labels for part in predictions])
    counts = count_module(teacher.module, teacher.input)
    share, low, high = accuracy_with_interval(logits, labels)
    balanced = balanced_accuracy(logits, labels)
    card: dict[str, Any] = {
        **teacher.card,
        "name": teacher.name,
        "weights_hash": teacher.weights_hash,
        "params": counts.params,
        "macs": counts.macs,
        "bytes": counts.bytes,
        "validation_accuracy": share,
        "validation_interval": [low, high],
        "validation_balanced_accuracy": balanced.share,
        "validation_examples": len(labels),
        "classes": teacher.classes,
        "ece": expected_calibration_error(logits.softmax(dim=1), labels),
    }
    sample = sample_size(teacher, dataset, share)
    trained = _train_accuracy(teacher, dataset, sample, emit) if sample else None
    card |= {"train_accuracy": trained, "train_examples": sample}
    card["gap"] = None if trained is None else trained - share
    if test:
        test_logits, test_labels = _predict(teacher, dataset.test, "test", emit)
        card["test_accuracy"] = accuracy(test_logits, test_labels)
        card["test_ece"] = expected_calibration_error(test_logits.softmax(dim=1), test_labels)
    reason = useless(share, len(labels), teacher.classes)
    if reason is None and trained is not None:
        reason = useless(trained, sample, teacher.classes)
    if reason is not None:
        raise UserError(
            f"teacher {teacher.name!r} is barely better than chance on {dataset.name!r}: {reason}. "
            + advice
        )
    return card


def fastest_teacher_inference(teacher: Teacher, dataset: Dataset) -> Inference:
    """The fastest way to run a teacher on some data; see `fastest_inference`."""
    size = teacher.input.size
    return inference_on(teacher.module, dataset.sample, size, both_layouts=True)


def sample_size(teacher: Teacher, dataset: Dataset, accuracy: float) -> int:
    """Training examples on which a teacher is evaluated, to see whether it is overfitted.

    Of large pictures so many that the interval around an accuracy like the given one ends 2 points
    above and below it.

    Args:
        teacher: The teacher.
        dataset: The data.
        accuracy: On validation data; that on training data is hardly lower.
    """
    most = min(TRAIN_SAMPLE, len(dataset.train))
    if max(teacher.input.size) <= SMALL:
        return most
    least, half_width = LARGE_SAMPLE
    share = max(accuracy, 0.5)
    enough = math.ceil(TWO_SIDED_95**2 * share * (1 - share) / half_width**2)
    return min(most, max(least, enough))


def _predict(teacher: Teacher, split: Split, name: str, emit: Emit) -> Predictions:
    """A teacher's logits on a split."""
    with_progress = telling(f"evaluating the teacher on {name} images", "teacher", len(split), emit)
    return predict(teacher.module, split, teacher.input.size, with_progress, teacher.inference)


def useless(accuracy: float, examples: int, classes: int) -> str | None:
    """Whether a teacher's accuracy rules out that it is of use.

    Of use is one that is right more often than chance and a tenth of what is above it. Few examples
    rule out little, and a teacher that is always right is never refused.

    Args:
        accuracy: Share of right answers, in [0, 1].
        examples: Number of answers.
        classes: Number of classes.

    Returns:
        The figures in words, where the upper bound of its accuracy (95 %, one-sided) is not of use.
    """
    bound = wilson(round(accuracy * examples), examples, ONE_SIDED_95).high
    if bound >= _least_of_use(classes):
        return None
    count_text = formats.counted(examples, "example")
    return f"accuracy {accuracy:.3f}, chance {1 / classes:.3f}, on {count_text}"


def _least_of_use(classes: int) -> float:
    chance = 1.0 / classes
    return chance + 0.1 * (1.0 - chance)


def stored_evaluation(teacher: Teacher, dataset: Dataset) -> dict[str, Any] | None:
    """What `evaluate_teacher` says of the shipped teacher on the shipped data, from a file.

    Evaluating it takes as long as several trials on a slow machine.

    Returns:
        The card; None for any other teacher, data, split or device, told by their hashes.
    """
    if teacher.name != "shipped" or dataset.train.labels.device.type != "cpu":
        return None
    text = (SHIPPED / "evaluation.json").read_text(encoding="utf-8")
    stored: dict[str, Any] = json.loads(text)
    known = stored.pop("data"), stored["weights_hash"]
    if known != (dataset.fingerprint, teacher.weights_hash):
        return None
    return {**teacher.card, "name": teacher.name, **stored}


def fastest_logit_precision(
    teacher: Teacher, dataset: Dataset, count: int | None = None
) -> LogitPrecision:
    """Times a teacher's forward pass at each precision.

    Args:
        teacher: The teacher.
        dataset: Its training split, or `sample`, gives the images.
        count: Number of images; by default 500, or of large ones `LARGE_COUNT`.

    Returns:
        `bf16` where that is faster and gives the same class for nearly all images, else `fp32`.
    """
    if emulates_bf16(teacher.module):
        return "fp32"
    if count is None:
        count = 500 if max(teacher.input.size) <= SMALL else LARGE_COUNT
    ids = torch.arange(min(count, len(dataset.sample)))
    [batch] = dataset.sample.batches([(ids, None)], teacher.input.size)
    seconds: dict[LogitPrecision, float] = {}
    classes: dict[LogitPrecision, Tensor] = {}
    precisions: tuple[LogitPrecision, ...] = ("fp32", "bf16")
    for precision in precisions:
        candidate = replace(teacher, precision=precision)
        candidate.logits(batch.images[:32]).cpu()
        start = time.perf_counter()
        classes[precision] = candidate.logits(batch.images).argmax(dim=1).cpu()
        seconds[precision] = time.perf_counter() - start
    same = float((classes["bf16"] == classes["fp32"]).double().mean())
    faster = seconds["bf16"] < BF16_WORTH * seconds["fp32"]
    return "bf16" if faster and same >= SAME_CLASS else "fp32"


def warnings_of(card: dict[str, Any]) -> list[str]:
    """Reasons to doubt a teacher, for the user; from the card that `evaluate_teacher` gave."""
    warnings, share = [], card["validation_accuracy"]
    if card["gap"] is not None and card["gap"] > OVERFITTED_GAP:
        warnings.append(
            f"the teacher is overfitted: accuracy {card['train_accuracy']:.3f} on training, "
            f"{share:.3f} on validation data. Its answers on training data say little more than "
            "the labels."
        )
    if "validation_examples" not in card:  # evaluated by an earlier release
        return warnings
    (low, high), classes = card["validation_interval"], card["classes"]
    if low < _least_of_use(classes):
        warnings.append(
            f"whether the teacher is better than chance can hardly be told: accuracy {share:.3f} "
            f"on {card['validation_examples']:,} validation examples (95 % interval {low:.3f} to "
            f"{high:.3f}), chance {1 / classes:.3f}. More validation examples would tell"
        )
    elif card["validation_balanced_accuracy"] < _least_of_use(classes):
        warnings.append(
            f"the teacher hardly tells the classes apart: accuracy {share:.3f} on validation data, "
            f"but balanced accuracy {card['validation_balanced_accuracy']:.3f} where always "
            f"answering the same class has {1 / classes:.3f}. Train it with --sampling balanced"
        )
    return warnings


def tune_head(
    teacher: Teacher,
    dataset: Dataset,
    *,
    epochs: int,
    seed: int,
    emit: Emit,
    keep: Path,
    sampling: Sampling = "uniform",
    class_weights: ClassWeights | None = None,
    files: SharedFiles = ONE_FOLDER,
) -> Teacher:
    """Gives a teacher a new head for the data's classes and trains that head alone.

    Args:
        teacher: A teacher with other classes; its module is changed.
        dataset: The data.
        epochs: Passes over the training split, each one forward pass of the whole teacher.
        seed: Seeds the head and the order.
        emit: Receives the cost and the progress.
        keep: Folder in which the tuned head is stored: tuned again it might differ in the last
            digit, and then be another teacher.
        sampling: See `BatchStream`.
        class_weights: See `class_weights_of`.
        files: By which hosts share the head.

    Raises:
        UserError: If there is nothing to train it on.
    """
    classes = len(dataset.classes)
    if not dataset.has_training:
        raise UserError(
            f"teacher {teacher.name!r} tells {teacher.classes} classes apart, the data "
            f"{dataset.name!r} {classes}, without a train split to tune another head on: give "
            "val/ a folder for each of the teacher's classes (it may be empty), or another teacher"
        )
    identity: tuple[object, ...] = (teacher.weights_hash, dataset.fingerprint, epochs, seed)
    if (sampling, class_weights) != ("uniform", None):
        identity += (sampling, class_weights)
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    path = keep / f"head-{digest}.safetensors"
    replace_head(teacher.module, classes)
    head = head_of(teacher.module).layer
    keep.mkdir(parents=True, exist_ok=True)
    with files.making(path):
        if not _takes_head(head, path, emit):
            stream = BatchStream(dataset, HEAD_BATCH, epochs, seed, sampling)
            objective = Objective.labels().with_class_weights(
                class_weights_of(class_weights, dataset)
            )
            _train_head(teacher, head, stream, objective, emit)
            state = {name: t.cpu().contiguous() for name, t in head.state_dict().items()}
            write_whole(path, safetensors.torch.save(state))
            load_weights(head, read_weights(path), str(path))
    teacher.module.requires_grad_(False).eval()
    return replace(
        teacher,
        classes=classes,
        weights_hash=weights_hash(teacher.module),
        card={**teacher.card, "head_tuned": epochs},
    )


def _takes_head(head: nn.Module, path: Path, emit: Emit) -> bool:
    """Loads a head that was tuned before; one that is damaged, or does not fit, is set aside."""
    if not path.exists():
        return False
    try:
        load_weights(head, read_weights(path), str(path))
    except UserError as error:
        text = f"{error}; it was put aside as {set_aside(path).name}, and the head is tuned again"
        emit(Event("warning", text, stage="teacher"))
        return False
    return True


def _train_head(
    teacher: Teacher, head: nn.Module, stream: BatchStream, objective: Objective, emit: Emit
) -> None:
    """Trains the head alone, on labels, an epoch for each view of the stream."""
    dataset, epochs = stream.dataset, stream.views
    emit(
        Event(
            "note",
            f"teacher {teacher.name!r} tells {teacher.classes} classes apart, the data "
            f"{len(dataset.classes)}: "
            f"its head is replaced and tuned, {epochs} x {len(dataset.train):,} forward passes",
            stage="teacher",
        )
    )
    run = head_run(teacher.module, [head], stream, objective, teacher.input.size)
    for _ in train_through(run, epochs, "teacher", emit, None):
        pass


def _train_accuracy(teacher: Teacher, dataset: Dataset, count: int, emit: Emit) -> float:
    """Accuracy on so many training examples, drawn with a seed of their own."""
    ids = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:count]
    right = 0
    plan = [(part, None) for part in torch.split(ids, teacher.batch)]
    batches = dataset.train.batches(plan, teacher.input.size)
    text = f"evaluating the teacher on a sample of {count:,} training images"
    for batch in with_signs_of_life(batches, text, "teacher", count, emit, teacher.batch):
        right += int((teacher.logits(batch.images).argmax(dim=1) == batch.labels).sum())
    return right / count
