"""Temperature and α for one architecture, tried on validation data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import BaseModel, TypeAdapter

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole
from nasdistill.common.json_files import read_or_set_aside
from nasdistill.finals.full_run import Variant
from nasdistill.finals.training import run_in_full
from nasdistill.results.forms import Share
from nasdistill.space import Architecture
from nasdistill.trials.autotune import predict
from nasdistill.trials.context import StudyContext
from nasdistill.trials.training_setup import OF_THE_OBJECTIVE


class Point(BaseModel):
    """One point that was tried; see `tune`."""

    accuracy: Share
    low: Share
    high: Share


_POINTS = TypeAdapter(dict[str, Point])


def tune(
    context: StudyContext,
    architecture: Architecture,
    grid: Mapping[str, Sequence[float]],
    epochs: int,
) -> list[dict[str, Any]]:
    """Distils one architecture once for each point of a grid, all with the same weights and stream.

    What was tried before with the same architecture and budget is read from the study's `tune.json`
    and not tried again.

    Args:
        context: The study's; its objective for finals is what the grid's values are put into.
        architecture: Of the student.
        grid: Values of `temperature` and `alpha`.
        epochs: Passes over the training split for each point.

    Returns:
        For each point its values, the recipe's score on the score half and its 95 % interval.

    Raises:
        UserError: If the objective has neither, labels are to be weighed where there are none, or
            another process tunes in this study.
    """
    options, name = context.final.options, context.folder.name
    if options.terms is not None or options.stages is not None:
        raise UserError(
            f"study {name!r}: its final objective has terms or stages; alpha and temperature "
            "belong to the classic pair"
        )
    if any(grid.get("alpha", ())) and not context.dataset.has_training:
        raise UserError(
            f"study {name!r}: its data have no train split, and so no labels for alpha to weigh; "
            "allowed: --over temperature, or --alphas 0"
        )
    with locks.alone_or_not(context.folder / "tune.lock") as alone:
        if not alone:
            raise UserError(f"study {name!r}: another process is tuning in it")
        return _tune(context, architecture, grid, epochs)


def _tune(
    context: StudyContext,
    architecture: Architecture,
    grid: Mapping[str, Sequence[float]],
    epochs: int,
) -> list[dict[str, Any]]:
    path = context.folder / "tune.json"
    known: dict[str, Any] = (
        read_or_set_aside(path, _POINTS, context.warn, "its points are tried again") or {}
    )
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    results = []
    for number, point in enumerate(points, start=1):
        key = json.dumps([architecture.fingerprint, epochs, point], sort_keys=True)
        if key not in known:
            known[key] = _try_point(context, architecture, point, epochs)
            write_whole(path, json.dumps(known, indent=1))
        results.append(known[key])
        values = ", ".join(f"{name} {value:g}" for name, value in point.items())
        text = f"{values}: {context.score_name} {known[key]['accuracy']:.4f}"
        context.note(text, stage="tune", done=number, total=len(points))
    return results


def _try_point(
    context: StudyContext, architecture: Architecture, point: Mapping[str, float], epochs: int
) -> dict[str, Any]:
    values = {k: v for k, v in architecture.values.items() if k != OF_THE_OBJECTIVE}
    plain = Architecture(architecture.family, values)
    identity = repr((architecture.fingerprint, epochs, sorted(point.items())))
    digest = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
    checkpoint = context.folder / f"tune-{digest}.pt"
    variant = Variant(values=point)
    student = run_in_full(context, variant, plain, checkpoint, "final", epochs=epochs)
    context.study.files.remove(checkpoint)
    data = context.dataset
    predictions = predict(context, student, data.score, "scoring", "tune")
    share, low, high = context.score_of(predictions)
    return {**point, "accuracy": share, "low": low, "high": high}


def best_point(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The point of highest accuracy; the first of equals."""
    return max(points, key=lambda point: point["accuracy"])
