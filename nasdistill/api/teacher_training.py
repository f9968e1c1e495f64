"""Teachers: trained on labels alone, from scratch or from pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.api.options import (
    LARGEST_RATE,
    LARGEST_SEED,
    MOST_EPOCHS,
    SMALLEST_RATE,
    check_number,
)
from nasdistill.common import formats
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent
from nasdistill.common.files import check_utf8
from nasdistill.recipe import load_recipe

if TYPE_CHECKING:  # importing torch takes seconds
    from nasdistill.data import Dataset
    from nasdistill.models import Classifier
    from nasdistill.models.artifact import ModelSpec

PRECISIONS = ("auto", "fp32", "bf16", "bf16-mixed")
TUNED = ("head", "all")
FINE_TUNING_EPOCHS = 10


_ADVICE = (
    "It was not written. Train for longer (--epochs), at another --learning-rate, or see whether "
    "the pictures tell the classes apart."
)
"""What to do where what was trained is barely better than chance."""


@dataclass(frozen=True)
class _Order:
    """What is asked for, checked; see `teacher_train`."""

    out: Path
    architecture: Path | None
    source: str | None
    tune: Any
    weights: str | None
    epochs: int | None
    seed: int
    learning_rate: float | None
    precision: Any
    sampling: Any
    class_weights: Any
    image_size: int | None


@dataclass(frozen=True)
class _Trained:
    """A teacher before it is written.

    Attributes:
        module: On the CPU.
        spec: From which it is built again.
        card: How it was trained.
        checkpoints: Removes those of its training.
    """

    module: Classifier
    spec: ModelSpec
    card: dict[str, Any]
    checkpoints: Any


def teacher_train(
    *,
    data: str,
    out: Path,
    architecture: Path | None = None,
    source: str | None = None,
    tune: str | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    precision: str = "auto",
    half: bool = False,
    sampling: str = "uniform",
    class_weights: Mapping[str, float] | str | None = None,
    device: str = "auto",
    image_size: int | None = None,
    channels: int | None = None,
    on_event: Emit | None = None,
) -> dict[str, Any]:
    """Trains a teacher on labels alone and writes it to a folder.

    It is validated on the validation split and tested once.

    Args:
        data: See `nasdistill.data.load_data`.
        out: The folder to write; it must not exist.
        architecture: An architecture.json; by default the shipped teacher's.
        source: `torchvision:NAME`, `timm:NAME` or `transformers:NAME`, which is fine-tuned.
        tune: `head` alone, or `all` layers, with `source`; by default all.
        weights: File with the weights that `source` begins with.
        epochs: Passes over the training split. None trains until accuracy on validation images
            stops improving; with `source`, `FINE_TUNING_EPOCHS`.
        seed: Of weights and order.
        learning_rate: Peak; None for the default of what is trained.
        precision: auto, fp32, bf16 or bf16-mixed.
        half: Whether weights are stored as float16; all figures are then those of the rounded ones.
        sampling: uniform, or balanced, where all classes come equally often.
        class_weights: balanced, or weights of the loss by the class's name; None for all alike.
        device: auto, cpu, cuda or cuda:N.
        image_size: See `load_data`; `source` takes them as large, unless it names a size.
        channels: See `load_data`.
        on_event: Told what happens.

    Returns:
        The card: recipe, seed, accuracies, calibration error.

    Raises:
        UserError: If options contradict each other, or data or source cannot be used.
    """
    balance = load_recipe(None, {"sampling": sampling, "class_weights": class_weights})
    order = _Order(
        out,
        architecture,
        source,
        tune,
        weights,
        epochs,
        seed,
        learning_rate,
        precision,
        balance.sampling,
        balance.class_weights,
        image_size,
    )
    _check(order)
    from nasdistill.common.machine import pick_device, set_threads
    from nasdistill.data import load_data
    from nasdistill.training.schedule import class_weights_of

    set_threads(1)
    place = pick_device(device)
    emit = on_event or silent
    dataset = load_data(
        data, device=place, seed=seed, image_size=image_size, channels=channels, emit=emit
    )
    dataset.tell_notes(emit)
    class_weights_of(order.class_weights, dataset)  # names that are none are told before training
    if source is None:
        trained = _train_from_scratch(order, dataset, emit)
    else:
        trained = _fine_tune(order, dataset, emit)
    return _write(order, trained, dataset, data, half, emit)


def _check(order: _Order) -> None:
    """Checks what can be checked before anything is loaded."""
    if order.out.exists():
        raise UserError(f"--out {order.out}: exists already; nothing was written")
    check_utf8("--out", str(order.out))
    if order.precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise UserError(f"--precision {order.precision!r}: allowed are {allowed}")
    if order.epochs is not None:
        check_number("epochs", order.epochs, 1, MOST_EPOCHS)
    check_number("seed", order.seed, 0, LARGEST_SEED)
    if order.learning_rate is not None:
        check_number("learning_rate", order.learning_rate, SMALLEST_RATE, LARGEST_RATE)
    if order.source is None:
        for flag, value in (("--tune", order.tune), ("--weights", order.weights)):
            if value is not None:
                raise UserError(f"{flag} {value}: goes with --from alone, which is not given")
        return
    if order.architecture is not None:
        raise UserError(
            f"--architecture {order.architecture}: found with --from {order.source}, which brings "
            "its own; give one of the two"
        )
    if order.tune is not None and order.tune not in TUNED:
        raise UserError(f"--tune {order.tune!r}: allowed are {', '.join(TUNED)}")


def _train_from_scratch(order: _Order, dataset: Dataset, emit: Emit) -> _Trained:
    from nasdistill.models.artifact import ModelSpec
    from nasdistill.models.limits import check_size
    from nasdistill.space import Architecture
    from nasdistill.training.from_scratch import (
        Hyperparameters,
        remove_checkpoints,
        train_teacher,
    )
    from nasdistill.training.teacher import checkpoint_of
    from nasdistill.trials.teacher_pool import default_teacher

    chosen = default_teacher()
    if order.architecture is not None:
        chosen = Architecture.read(order.architecture)
        check_size(chosen, dataset.input, len(dataset.classes), str(order.architecture))
    settings = Hyperparameters(
        precision=order.precision, sampling=order.sampling, class_weights=order.class_weights
    )
    if order.learning_rate is not None:
        settings = replace(settings, learning_rate=order.learning_rate)
    identity = (dataset.fingerprint, chosen.fingerprint, order.epochs, order.seed, settings)
    checkpoint = checkpoint_of(order.out, *identity)
    trained = train_teacher(
        dataset,
        chosen,
        epochs=order.epochs,
        seed=order.seed,
        emit=emit,
        hyperparameters=settings,
        checkpoint=checkpoint,
    )
    card = {
        "architecture": chosen.fingerprint,
        "epochs": trained.epochs,
        "seed": order.seed,
        "learning_rate": settings.learning_rate,
        "precision": trained.precision,
        **({"scores": list(trained.scores)} if trained.scores else {}),
    }
    spec = ModelSpec(chosen, dataset.preparation, dataset.classes)
    return _Trained(trained.module, spec, card, lambda: remove_checkpoints(checkpoint))


def _fine_tune(order: _Order, dataset: Dataset, emit: Emit) -> _Trained:
    from nasdistill.models.counts import count_module
    from nasdistill.models.export import ExportError, quick_onnx
    from nasdistill.teachers.fine_tunable import load_fine_tunable
    from nasdistill.training.fine_tuning import (
        RATES,
        FineTuning,
        Part,
        fine_tune,
        remove_fine_tuning,
    )
    from nasdistill.training.teacher import checkpoint_of

    assert order.source is not None
    start = load_fine_tunable(order.source, order.weights, dataset, order.image_size)
    tune: Part = order.tune or "all"
    settings = FineTuning(
        tune,
        order.epochs or FINE_TUNING_EPOCHS,
        order.seed,
        order.learning_rate or RATES[tune],
        precision=order.precision,
        sampling=order.sampling,
        class_weights=order.class_weights,
    )
    input = start.spec.preparation.input
    try:
        quick_onnx(start.module, input)
    except ExportError as error:
        raise UserError(f"--from {order.source}: {error}; choose another model") from None
    size = input.size
    counts = count_module(start.module, input)
    stages = " and ".join(
        formats.counted(epochs, "epoch")
        + (" of the head alone" if part == "head" else " of all layers")
        for part, epochs in settings.stages.items()
    )
    text = (
        f"{order.source}: {counts.params:,} parameters, {counts.macs / 1e6:,.0f} M multiply-adds "
        f"an image of {size[0]}x{size[1]}; {start.head}; {stages}, each of {len(dataset.train):,} "
        "images"
    )
    emit(Event("note", text, stage="teacher"))
    checkpoint = checkpoint_of(order.out, dataset.fingerprint, start.weights_hash, settings)
    module = start.module.to(dataset.train.labels.device)
    tuned = fine_tune(
        module, start.heads(), dataset, size, settings, emit=emit, checkpoint=checkpoint
    )
    card = {
        "source": order.source,
        "weights": start.weights,
        "tuned": tune,
        "epochs": settings.epochs,
        "seed": order.seed,
        "learning_rate": settings.learning_rate,
        "precision": tuned.precision,
        "accuracy_by_epoch": tuned.accuracies,
    }
    return _Trained(module, start.spec, card, lambda: remove_fine_tuning(checkpoint))


def _write(
    order: _Order, trained: _Trained, dataset: Dataset, data: str, half: bool, emit: Emit
) -> dict[str, Any]:
    """Evaluates a teacher and writes its folder; gives its card."""
    import torch

    from nasdistill.common.types import Input
    from nasdistill.models import artifact
    from nasdistill.teachers import Teacher, weights_hash
    from nasdistill.training.teacher import evaluate_teacher, warnings_of

    module, spec = trained.module, trained.spec
    if half:
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(torch.float16))
    teacher = Teacher(
        name=order.out.name,
        module=module.to(dataset.train.labels.device),
        input=Input(dataset.input.channels, *spec.preparation.size),
        classes=len(dataset.classes),
        weights_hash=weights_hash(module),
        card={},
    )
    card = {
        "data": data,
        **trained.card,
        "sampling": order.sampling,
        "class_weights": order.class_weights,
        "stored": "fp16" if half else "fp32",
        **evaluate_teacher(teacher, dataset, test=True, emit=emit, advice=_ADVICE),
    }
    for text in warnings_of(card):
        emit(Event("warning", text))
    artifact.write_final(
        order.out, module=module.cpu(), spec=spec, metrics=card, card=_teacher_card(card), half=half
    )
    trained.checkpoints()
    return card


def _teacher_card(card: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in card.items())
    return (
        "# Teacher\n\nTrained on labels alone by `nasdistill teacher train`; accuracies are shares,"
        f" the gap is training minus validation accuracy.\n\n| what | value |\n|---|---|\n{rows}\n"
    )
