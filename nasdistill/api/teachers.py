"""Teachers: evaluated and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nasdistill.api.options import (
    LARGEST_SEED,
    check_number,
)
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, telling
from nasdistill.common.files import STUDIES, check_utf8
from nasdistill.recipe import Recipe


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
    dataset = load_data(
        data,
        device=place,
        image_size=image_size,
        channels=channels,
        emit=emit,
        may_lack_training=True,
    )
    dataset.tell_notes(emit)
    recipe = Recipe(data=data, teacher=spec, weights=weights, classes=classes)
    teacher = open_teacher(recipe, dataset, place, STUDIES, plugins, emit).must_run()
    card = evaluate_teacher(teacher, dataset, emit=emit)
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
    from nasdistill.training.teacher import fastest_teacher_inference
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
    dataset = load_data(
        data, device=place, seed=seed, image_size=image_size, channels=channels, emit=emit
    )
    dataset.tell_notes(emit)
    if out.suffix == ".parquet":  # which holds UTF-8 alone
        for name in dataset.names:
            check_utf8(f"--out {out}: the example", name)
    recipe = Recipe(data=data, teacher=spec, weights=weights, classes=classes)
    teacher = open_teacher(recipe, dataset, place, STUDIES, plugins, emit)
    teacher.must_run()
    inference = fastest_teacher_inference(teacher, dataset)
    with_progress = telling("asking the teacher", "teacher", len(dataset.train), emit)
    logits, _ = training.predict(
        teacher.module, dataset.train, teacher.input.size, with_progress, inference
    )
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    write_table(out, dataset.names, probabilities, dataset.classes)
    return len(dataset.names)
