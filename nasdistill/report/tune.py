"""The picture of a search for temperature and α."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.report.document import write_page
from nasdistill.report.style import error_bars, figure_base

COLOURS = ("#2563eb", "#ea580c", "#15803d", "#7c3aed", "#be185d", "#0891b2", "#a16207", "#64748b")


class TunedPoint(NamedTuple):
    """One value tried: the value, the accuracy in [0, 1], and the ends of its 95 % interval."""

    value: float
    accuracy: float
    low: float
    high: float


class TunedInfo(NamedTuple):
    """Accuracies over one value, a line for each of the other.

    Attributes:
        over: Name of the value on the x axis.
        other: Name of the other; None if it was not varied.
        lines: Points in order of x, by the other's value.
    """

    over: str
    other: str | None
    lines: Mapping[float | None, Sequence[TunedPoint]]


def tuned_info(points: Sequence[Mapping[str, Any]]) -> TunedInfo:
    """Sorts the points of a grid into lines.

    Args:
        points: Each with `temperature` or `alpha` or both, `accuracy`, `low` and `high`.
    """
    over = "temperature" if "temperature" in points[0] else "alpha"
    other = "alpha" if over == "temperature" and "alpha" in points[0] else None
    lines: dict[float | None, list[TunedPoint]] = {}
    for row in sorted(points, key=lambda p: float(p[over])):
        point = TunedPoint(float(row[over]), row["accuracy"], row["low"], row["high"])
        lines.setdefault(None if other is None else row[other], []).append(point)
    return TunedInfo(over, other, dict(sorted(lines.items(), key=lambda item: item[0] or 0.0)))


def plot_tuned(info: TunedInfo) -> go.Figure:
    """Draws the lines, with 95 % intervals."""
    figure = figure_base(height=460)
    for number, (value, points) in enumerate(info.lines.items()):
        accuracies = [point.accuracy for point in points]
        lows, highs = [point.low for point in points], [point.high for point in points]
        figure.add_scatter(
            x=[point.value for point in points],
            y=[100 * accuracy for accuracy in accuracies],
            mode="lines+markers",
            name="accuracy" if value is None else f"{info.other} {value:g}",
            line={"color": COLOURS[number % len(COLOURS)]},
            error_y=error_bars(accuracies, lows, highs, thickness=1)
            | {"type": "data", "symmetric": False},
        )
    values = sorted({point.value for points in info.lines.values() for point in points})
    ticks = {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}
    kind = "log" if info.over == "temperature" else "linear"
    figure.update_xaxes(title_text=info.over, type=kind, **ticks)
    figure.update_yaxes(title_text="accuracy on the score half (%)")
    figure.update_layout(showlegend=info.other is not None)
    return figure


def write_tuned(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the picture as one HTML file that needs no network.

    Args:
        points: As for `tuned_info`.
        path: The file; folders above it are made.
    """
    figure = plot_tuned(tuned_info(points))
    figure.update_layout(paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", width=960)
    write_page(path, figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))
