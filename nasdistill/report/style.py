"""The look of figures: a colour, symbol and name per role, axes, error bars, the empty figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.common import formats

ROLES = {
    "complete": "#2563eb",
    "running": "#0891b2",
    "stopped": "#8a94a6",
    "rejected": "#a16207",
    "failed": "#be185d",
    "final": "#ea580c",
    "recommended": "#ea580c",
    "broken": "#dc2626",
    "unshipped": "#ea580c",
    "teacher": "#7c3aed",
    "limit": "#dc2626",
    "bar": "#2563eb",
    "saved": "#15803d",
}
SYMBOLS = {
    "complete": "circle",
    "running": "circle-open",
    "stopped": "circle-open",
    "rejected": "line-ns-open",
    "failed": "x-thin-open",
    "final": "square",
    "recommended": "star",
    "broken": "x",
    "unshipped": "square-open",
    "teacher": "diamond",
}
SIZES = {
    "complete": 8,
    "running": 8,
    "stopped": 7,
    "rejected": 10,
    "failed": 8,
    "final": 11,
    "recommended": 17,
    "broken": 11,
    "unshipped": 11,
    "teacher": 13,
}
NAMES = {
    "complete": "complete",
    "running": "running",
    "stopped": "stopped early",
    "rejected": "rejected",
    "failed": "failed",
    "final": "final",
    "teacher": "teacher",
    "recommended": "recommended final",
    "broken": "final breaking a limit",
    "unshipped": "final without a file",
}


def plain(value: str) -> str:
    """Text from outside for Plotly, which would read `<`, `&` and `$...$` as markup."""
    return escape(value, quote=False).replace("$", "&#36;")


def cost_axis(values: Sequence[float], title: str) -> dict[str, Any]:
    """An x axis over positive values: logarithmic where they span more than a factor of 6."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    axis: dict[str, Any] = {"title": {"text": title}}
    if high / low <= 6 or len(positive) < len(values):
        pad = 0.06 * (high - low) or 0.1 * high
        return axis | {"type": "linear", "range": [max(0.0, low - pad), high + pad]}
    pad = 0.06 * math.log10(high / low)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    labelled = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [(digit, 10.0**n) for n in decades for digit in range(1, 10)]
    return axis | {
        "type": "log",
        "range": [math.log10(low) - pad, math.log10(high) + pad],
        "tickvals": [digit * unit for digit, unit in ticks],
        "ticktext": [formats.count(d * unit) if d in labelled else "" for d, unit in ticks],
    }


def marker(role: str, size: float | None = None) -> dict[str, Any]:
    """A role's marker; `size` in pixels, the role's own where it is None."""
    pixels = SIZES[role] if size is None else size
    return {"color": ROLES[role], "symbol": SYMBOLS[role], "size": pixels}


def error_bars(
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    thickness: float = 1.2,
) -> dict[str, Any]:
    """Error bars on an axis in per cent.

    Args:
        values: Shares in [0, 1].
        lows: Lower end of each one's interval; None leaves the bar out on that side.
        highs: Upper end, likewise.
        thickness: Of the lines, in pixels.
    """
    return {
        "array": [_difference(h, v) for h, v in zip(highs, values, strict=True)],
        "arrayminus": [_difference(v, low) for v, low in zip(values, lows, strict=True)],
        "thickness": thickness,
        "width": 3,
    }


def _difference(upper: float | None, lower: float | None) -> float:
    return 0 if upper is None or lower is None else 100 * (upper - lower)


def figure_base(height: int) -> go.Figure:
    """An empty figure in the report's style: legend above the axes, no background."""
    axis = {"gridcolor": "#e2e6ee", "linecolor": "#9aa3b2", "zeroline": False, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "hovermode": "closest",
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1d2433"},
            "margin": {"l": 64, "r": 40, "t": 16, "b": 56},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "hoverlabel": {"align": "left"},
            "modebar": {"orientation": "v"},
            "xaxis": axis,
            "yaxis": axis,
        }
    )
