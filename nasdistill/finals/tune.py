"""Temperature and α for one architecture, tried on validation data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import write_whole
from nasdistill.finals.training import run_in_full
from nasdistill.losses import objective_of
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.training.metrics import accuracy, wilson
from nasdistill.trials.context import StudyContext


def tune(
    study: Study,
    bench: StudyContext,
    architecture: Architecture,
    grid: Mapping[str, Sequence[float]],
    epochs: int,
    emit: Emit,
) -> list[dict[str, Any]]:
    """Distils one architecture once for each point of a grid, all with the same weights and stream.

    What was tried before with the same architecture and budget is read from the study's `tune.json`
    and not tried again.

    Args:
        study: The study; its objective for finals is what the grid's values are put into.
        bench: What its runs share.
        architecture: What is trained.
        grid: Values of `temperature` and `alpha`.
        epochs: Passes over the training split for each point.
        emit: Told how it goes.

    Returns:
        For each point its values, the accuracy on the score half and its 95 % Wilson interval.

    Raises:
        UserError: If the objective has neither, or another process tunes in this study.
    """
    options = bench.final.options
    if options.terms is not None or options.stages is not None:
        raise UserError(
            f"study {study.folder.name!r}: its final objective has terms or stages; alpha and "
            "temperature belong to the classic pair"
        )
    with locks.alone_or_not(study.folder / "tune.lock") as mine:
        if not mine:
            raise UserError(f"study {study.folder.name!r}: another process is tuning in it")
        return _tune(study, bench, architecture, grid, epochs, emit)


def _tune(
    study: Study,
    bench: StudyContext,
    architecture: Architecture,
    grid: Mapping[str, Sequence[float]],
    epochs: int,
    emit: Emit,
) -> list[dict[str, Any]]:
    path = study.folder / "tune.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    found = []
    for number, point in enumerate(points, start=1):
        key = json.dumps([architecture.fingerprint, epochs, point], sort_keys=True)
        if key not in known:
            known[key] = _try(study, bench, architecture, point, epochs, emit)
            write_whole(path, json.dumps(known, indent=1))
        found.append(known[key])
        text = ", ".join(f"{name} {value:g}" for name, value in point.items())
        emit(
            Event(
                "note",
                f"{text}: accuracy {known[key]['accuracy']:.4f}",
                stage="tune",
                done=number,
                total=len(points),
            )
        )
    return found


def _try(
    study: Study,
    bench: StudyContext,
    architecture: Architecture,
    point: Mapping[str, float],
    epochs: int,
    emit: Emit,
) -> dict[str, Any]:
    options = bench.final.options.with_values(**point)
    course = replace(bench.final, options=options, objective=objective_of(options))
    plain = Architecture(
        architecture.family, {k: v for k, v in architecture.values.items() if k != "distillation"}
    )
    about = repr((architecture.fingerprint, epochs, sorted(point.items())))
    digest = hashlib.blake2b(about.encode(), digest_size=6).hexdigest()
    checkpoint = study.folder / f"tune-{digest}.pt"
    student = run_in_full(study, bench, course, plain, checkpoint, "final", emit, epochs=epochs)
    checkpoint.unlink(missing_ok=True)
    data = bench.dataset
    logits, labels = training.predict(student, data.score, data.input.size)
    share = accuracy(logits, labels)
    low, high = wilson(round(share * len(labels)), len(labels))
    return {**point, "accuracy": share, "low": low, "high": high}


def best_of(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The point of highest accuracy; the first of equals."""
    return max(found, key=lambda point: point["accuracy"])


def read_architecture(path: Path) -> Architecture:
    """An architecture.json.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    try:
        return Architecture.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as an architecture.json ({error})") from None
