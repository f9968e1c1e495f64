"""The costs of a trial's student, of the file that ships, and limits on them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from nasdistill.common.types import Cost
from nasdistill.deployment.calibration import few_pictures
from nasdistill.deployment.int8 import quick_int8
from nasdistill.models.counts import Counts
from nasdistill.models.export import quick_onnx
from nasdistill.recipe import Recipe
from nasdistill.trials.context import StudyContext


def counted_figures(recipe: Recipe, counts: Counts) -> dict[str, int]:
    """The costs that are known of an architecture once it is counted, by name.

    Bytes are, if fp32 ships.
    """
    figures = dict(vars(counts))
    if recipe.deploy == "int8":
        del figures["bytes"]
    return figures


def least_figures(recipe: Recipe, counts: Counts) -> dict[str, int]:
    """The costs that limits are held against once an architecture is counted, by name.

    An int8 file takes a byte for each parameter, and more: norms are added to biases, of which
    each takes four bytes beside the four of its scale. What it takes is measured later.
    """
    least = counts.params if recipe.deploy == "int8" else counts.bytes
    return {**counted_figures(recipe, counts), "bytes": least}


def costs_to_measure(context: StudyContext) -> tuple[Cost, ...]:
    """The costs of a trial that are measured before it is trained."""
    latency: tuple[Cost, ...] = ("latency",) if context.needs_latency else ()
    return (*latency, "bytes") if context.recipe.deploy == "int8" else latency


def measure(context: StudyContext, student: nn.Module) -> Mapping[Cost, float]:
    """Measures what `costs_to_measure` names, by cost.

    Raises:
        UserError: If the student cannot be written as int8, or a latency engine fails.
    """
    if context.recipe.deploy != "int8":
        return {"latency": context.measure_latency(student)}
    dataset = context.dataset
    onnx = quick_onnx(student.cpu(), dataset.input)
    content = quick_int8(onnx, few_pictures(dataset))
    figures: dict[Cost, float] = {"bytes": len(content)}
    if context.needs_latency:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.onnx"
            path.write_bytes(content)
            figures["latency"] = context.measure_latency(path)
    return figures


def excess_over(figures: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """How far each figure is over its limit, as a share of the limit."""
    excess = {k: figures[k] / limits[k] - 1.0 for k in figures if k in limits}
    return {k: share for k, share in excess.items() if share > 0}
