"""The picture of a search for temperature and α."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.common.files import write_whole
from nasdistill.report.style import figure_base

COLOURS = ("#2563eb", "#ea580c", "#15803d", "#7c3aed", "#be185d", "#0891b2", "#a16207", "#64748b")


class TunedInfo(NamedTuple):
    """Accuracies over one value, a line for each of the other.

    Attributes:
        over: Name of the value on the x axis.
        other: Name of the other; None if it was not varied.
        lines: Points in order of x: value, accuracy, ends of the interval; by the other's value.
    """

    over: str
    other: str | None
    lines: Mapping[float | None, Sequence[tuple[float, float, float, float]]]


def tuned_info(found: Sequence[Mapping[str, Any]]) -> TunedInfo:
    """Sorts the points of a grid into lines."""
    over = "temperature" if "temperature" in found[0] else "alpha"
    other = "alpha" if over == "temperature" and "alpha" in found[0] else None
    lines: dict[float | None, list[tuple[float, float, float, float]]] = {}
    for point in sorted(found, key=lambda p: float(p[over])):
        row = (float(point[over]), point["accuracy"], point["low"], point["high"])
        lines.setdefault(None if other is None else point[other], []).append(row)
    return TunedInfo(over, other, dict(sorted(lines.items(), key=lambda item: item[0] or 0.0)))


def plot_tuned(info: TunedInfo) -> go.Figure:
    """Draws the lines, with 95 % intervals."""
    figure = figure_base(height=460)
    for number, (value, points) in enumerate(info.lines.items()):
        x, accuracy, low, high = (list(column) for column in zip(*points, strict=True))
        figure.add_scatter(
            x=x,
            y=[100 * a for a in accuracy],
            mode="lines+markers",
            name="accuracy" if value is None else f"{info.other} {value:g}",
            line={"color": COLOURS[number % len(COLOURS)]},
            error_y={
                "type": "data",
                "symmetric": False,
                "thickness": 1,
                "width": 3,
                "array": [100 * (h - a) for h, a in zip(high, accuracy, strict=True)],
                "arrayminus": [100 * (a - b) for a, b in zip(accuracy, low, strict=True)],
            },
        )
    values = sorted({point[0] for points in info.lines.values() for point in points})
    ticks = {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}
    kind = "log" if info.over == "temperature" else "linear"
    figure.update_xaxes(title_text=info.over, type=kind, **ticks)
    figure.update_yaxes(title_text="accuracy on the score half (%)")
    figure.update_layout(showlegend=info.other is not None)
    return figure


def write_tuned(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the picture as one HTML file that needs no network."""
    figure = plot_tuned(tuned_info(found))
    figure.update_layout(paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", width=960)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))
