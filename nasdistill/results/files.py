"""What is wrong with the files of finals, from what was proven of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nasdistill.results.records import Final


def problems_of(figures: Mapping[str, Any], max_loss: float) -> list[str]:
    """What is wrong with a file, a sentence each.

    Args:
        figures: What was proven of it.
        max_loss: Points that it may lose against fp32.
    """
    loss, problems = figures.get("loss_points"), []
    if loss is not None and loss > max_loss:
        problems.append(f"loses {loss:.2f} points against fp32; allowed are {max_loss:g}")
    for name, limit in (figures.get("limits") or {}).items():
        if not limit["ok"]:
            least_or_most = "least" if name == "accuracy" else "most"
            problems.append(
                f"breaks the limit on {name}: {limit['value']:.4g}; allowed is {limit['limit']:g} "
                f"at {least_or_most}"
            )
    preparation = figures.get("preparation")
    if preparation is not None and preparation["apart"]:
        problems.append(
            f"prepares {preparation['apart']} of {preparation['pictures']} pictures otherwise than "
            f"Pillow {preparation['pillow']}"
        )
    largest = figures.get("largest_difference")
    if largest is not None and not math.isfinite(largest):
        problems.append("a logit is no finite number")
    return problems


def judged(final: Final, max_loss: float) -> Final:
    """A final whose files are judged by the points that they may lose now.

    Their records say what was wrong by what was allowed when they were made.
    """
    files = {
        name: file if file.get("failed") else {**file, "problems": problems_of(file, max_loss)}
        for name, file in (final.metrics.get("files") or {}).items()
    }
    return replace(final, metrics={**final.metrics, "files": files}) if files else final
