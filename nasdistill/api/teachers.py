"""Teachers: trained and evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdistill.api.options import (
    LARGEST_RATE,
    LARGEST_SEED,
    MOST_EPOCHS,
    SMALLEST_RATE,
    check_number,
)
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, warn_of
from nasdistill.common.files import STUDIES, check_utf8
from nasdistill.recipe import Recipe


def teacher_train(
    *,
    data: str,
    out: Path,
    architecture: Path | None = None,
    epochs: int = 30,
    seed: int = 0,
    learning_rate: float = 0.003,
    precision: Any = "fp32",
    half: bool = False,
    sampling: Any = "uniform",
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
        epochs: Passes over the training split.
        seed: Of weights and order.
        learning_rate: Peak.
        precision: fp32, bf16 or bf16-mixed.
        half: Whether weights are stored as float16; all figures are then those of the rounded ones.
        sampling: uniform, or balanced, where all classes come equally often.
        device: auto, cpu, cuda or cuda:N.
        image_size: See `load_data`.
        channels: See `load_data`.
        on_event: Told what happens.

    Returns:
        The card: recipe, seed, accuracies, calibration error.
    """
    import torch

    from nasdistill.common.machine import pick_device, set_threads
    from nasdistill.data import load_data
    from nasdistill.models import artifact
    from nasdistill.models.limits import check_size
    from nasdistill.space import Architecture
    from nasdistill.teachers import Teacher, weights_hash
    from nasdistill.training.teacher import (
        Hyperparameters,
        checkpoint_of,
        evaluate_teacher,
        train_teacher,
        warnings_of,
    )
    from nasdistill.trials.teacher_pool import default_teacher

    check_number("epochs", epochs, 1, MOST_EPOCHS)
    check_number("seed", seed, 0, LARGEST_SEED)
    check_number("learning_rate", learning_rate, SMALLEST_RATE, LARGEST_RATE)
    if out.exists():
        raise UserError(f"--out {out}: exists already; nothing was written")
    check_utf8("--out", str(out))
    if precision not in ("fp32", "bf16", "bf16-mixed"):
        raise UserError(f"--precision {precision!r}: allowed are fp32, bf16, bf16-mixed")
    if sampling not in ("uniform", "balanced"):
        raise UserError(f"--sampling {sampling!r}: allowed are uniform, balanced")
    set_threads(1)
    place, emit = pick_device(device), on_event or silent
    dataset = load_data(data, device=place, seed=seed, image_size=image_size, channels=channels)
    dataset.tell_notes(emit)
    chosen = default_teacher()
    if architecture is not None:
        chosen = Architecture.read(architecture)
        check_size(chosen, dataset.input, len(dataset.classes), str(architecture))
    checkpoint = checkpoint_of(
        out,
        *(dataset.fingerprint, chosen.fingerprint),
        *(epochs, seed, learning_rate, precision, sampling),
    )
    module = train_teacher(
        dataset,
        chosen,
        epochs=epochs,
        seed=seed,
        emit=emit,
        hyperparameters=Hyperparameters(
            learning_rate=learning_rate, precision=precision, sampling=sampling
        ),
        checkpoint=checkpoint,
    )
    if half:
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(torch.float16))
    teacher = Teacher(
        name=out.name,
        module=module.to(place),
        input=dataset.input,
        classes=len(dataset.classes),
        weights_hash=weights_hash(module),
        card={},
    )
    card = {
        "data": data,
        "architecture": chosen.fingerprint,
        "epochs": epochs,
        "seed": seed,
        "learning_rate": learning_rate,
        "precision": precision,
        "sampling": sampling,
        "stored": "fp16" if half else "fp32",
        **evaluate_teacher(teacher, dataset, test=True),
    }
    for text in warnings_of(card):
        emit(Event("warning", text))
    artifact.write_final(
        out,
        module=module.cpu(),
        spec=artifact.ModelSpec(chosen, dataset.preparation, dataset.classes),
        metrics=card,
        card=_teacher_card(card),
        half=half,
    )
    checkpoint.unlink(missing_ok=True)
    return card


def teacher_evaluate(
    spec: str,
    *,
    data: str,
    weights: str | None = None,
    device: str = "auto",
    image_size: int | None = None,
    channels: int | None = None,
    import_file: str | None = None,
    classes: str | None = None,
    on_event: Emit | None = None,
) -> dict[str, Any]:
    """Measures a teacher on the validation split of some data.

    Args:
        spec: The teacher, as in `search`.
        data: The data, as in `search`.
        weights: File with the teacher's weights.
        device: auto, cpu, cuda or cuda:N.
        image_size: As in `search`.
        channels: As in `search`.
        import_file: A user's own Python.
        classes: Which of the teacher's classes is which of the data's, as in `search`.
        on_event: Told what happens.

    Returns:
        See `teaching.evaluate_teacher`.

    Raises:
        UserError: If teacher or data cannot be loaded, or do not go together.
    """
    from nasdistill.common.machine import pick_device, set_threads
    from nasdistill.data import load_data
    from nasdistill.training.teacher import (
        evaluate_teacher,
        warnings_of,
    )
    from nasdistill.trials.plugins import load_plugins
    from nasdistill.trials.teacher_pool import open_teacher

    plugins = load_plugins(import_file)
    set_threads(1)
    place = pick_device(device)
    emit = on_event or silent
    dataset = load_data(data, device=place, image_size=image_size, channels=channels)
    dataset.tell_notes(emit)
    recipe = Recipe(data=data, teacher=spec, weights=weights, classes=classes)
    teacher = open_teacher(recipe, dataset, place, STUDIES, plugins, emit).must_run()
    card = evaluate_teacher(teacher, dataset)
    for text in warnings_of(card):
        emit(Event("warning", text))
    return card


def teacher_record(
    spec: str,
    *,
    data: str,
    out: Path,
    weights: str | None = None,
    device: str = "auto",
    image_size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    import_file: str | None = None,
    classes: str | None = None,
    on_event: Emit | None = None,
) -> int:
    """Writes a teacher's answers about the training examples: a table that can teach in its place.

    Args:
        spec: The teacher, as in `search`.
        data: The data, as in `search`.
        out: `.parquet` or `.npz`; must not exist.
        weights: File with the teacher's weights.
        device: Where it runs.
        image_size: As in `search`.
        channels: As in `search`.
        seed: Of the splits, as in `search`.
        import_file: A user's own Python.
        classes: Which of the teacher's classes is which of the data's, as in `search`.
        on_event: Told what happens.

    Returns:
        Number of examples recorded.

    Raises:
        UserError: If the file exists, or the teacher or the data cannot be used.
    """
    import torch

    from nasdistill import training
    from nasdistill.common.machine import pick_device, set_threads
    from nasdistill.data import load_data
    from nasdistill.teachers.table import check_form, write_table
    from nasdistill.trials.plugins import load_plugins
    from nasdistill.trials.teacher_pool import open_teacher

    check_number("seed", seed, 0, LARGEST_SEED)
    if out.exists():
        raise UserError(f"--out {out}: exists already; nothing was written")
    check_form(out)
    plugins = load_plugins(import_file)
    set_threads(1)
    place = pick_device(device)
    emit = on_event or silent
    dataset = load_data(data, device=place, seed=seed, image_size=image_size, channels=channels)
    warn_of(dataset.notes, emit)
    if out.suffix == ".parquet":  # which holds UTF-8 alone
        for name in dataset.names:
            check_utf8(f"--out {out}: the example", name)
    recipe = Recipe(data=data, teacher=spec, weights=weights, classes=classes)
    teacher = open_teacher(recipe, dataset, place, STUDIES, plugins, emit)
    teacher.must_run()
    logits, _ = training.predict(teacher.module, dataset.train, teacher.input.size)
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    write_table(out, dataset.names, probabilities, dataset.classes)
    return len(dataset.names)


def _teacher_card(card: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in card.items())
    return (
        "# Teacher\n\nTrained on labels alone by `nasdistill teacher train`; accuracies are shares,"
        f" the gap is training minus validation accuracy.\n\n| what | value |\n|---|---|\n{rows}\n"
    )
