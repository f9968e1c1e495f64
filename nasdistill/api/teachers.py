"""Teachers: trained and evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent
from nasdistill.common.files import STUDIES
from nasdistill.recipe import Recipe

PRECISIONS = ("auto", "fp32", "bf16", "bf16-mixed")


def teacher_train(
    *,
    data: str,
    out: Path,
    architecture: Path | None = None,
    epochs: int | None = None,
    seed: int = 0,
    learning_rate: float = 0.003,
    precision: Any = "auto",
    half: bool = False,
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
        epochs: Passes over the training split; None trains until accuracy on validation images
            stops improving.
        seed: Of weights and order.
        learning_rate: Peak.
        precision: auto, fp32, bf16 or bf16-mixed.
        half: Whether weights are stored as float16; all figures are then those of the rounded ones.
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
    from nasdistill.space import Architecture
    from nasdistill.teachers import Teacher, weights_hash
    from nasdistill.training.from_scratch import (
        Hyperparameters,
        remove_checkpoints,
        train_teacher,
    )
    from nasdistill.training.teacher import checkpoint_of, evaluate_teacher
    from nasdistill.trials.teacher_pool import default_teacher

    if out.exists():
        raise UserError(f"--out {out}: exists already; nothing was written")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r}: allowed are {', '.join(PRECISIONS)}")
    set_threads(1)
    place = pick_device(device)
    dataset = load_data(data, device=place, seed=seed, image_size=image_size, channels=channels)
    chosen = default_teacher()
    if architecture is not None:
        chosen = Architecture.from_json(_text_of(architecture))
    checkpoint = checkpoint_of(
        out, dataset.fingerprint, chosen.fingerprint, epochs, seed, learning_rate, precision
    )
    trained = train_teacher(
        dataset,
        chosen,
        epochs=epochs,
        seed=seed,
        emit=on_event or silent,
        hyperparameters=Hyperparameters(learning_rate=learning_rate, precision=precision),
        checkpoint=checkpoint,
    )
    module = trained.module
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
        "epochs": trained.epochs,
        "seed": seed,
        "learning_rate": learning_rate,
        "precision": trained.precision,
        "stored": "fp16" if half else "fp32",
        **evaluate_teacher(teacher, dataset, test=True),
    }
    artifact.write_final(
        out,
        module=module.cpu(),
        spec=artifact.ModelSpec(chosen, dataset.input, dataset.classes),
        metrics=card,
        card=_teacher_card(card),
        half=half,
    )
    remove_checkpoints(checkpoint)
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
    dataset = load_data(data, device=place, image_size=image_size, channels=channels)
    recipe = Recipe(data=data, teacher=spec, weights=weights)
    emit = on_event or silent
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

    if out.exists():
        raise UserError(f"--out {out}: exists already; nothing was written")
    check_form(out)
    plugins = load_plugins(import_file)
    set_threads(1)
    place = pick_device(device)
    dataset = load_data(data, device=place, seed=seed, image_size=image_size, channels=channels)
    recipe = Recipe(data=data, teacher=spec, weights=weights)
    teacher = open_teacher(recipe, dataset, place, STUDIES, plugins, on_event or silent)
    teacher.must_run()
    logits, _ = training.predict(teacher.module, dataset.train, teacher.input.size)
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    write_table(out, dataset.names, probabilities)
    return len(dataset.names)


def _teacher_card(card: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in card.items())
    return (
        "# Teacher\n\nTrained on labels alone by `nasdistill teacher train`; accuracies are shares,"
        f" the gap is training minus validation accuracy.\n\n| what | value |\n|---|---|\n{rows}\n"
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
