"""Figures of what `evaluate` found of a final: classes, robustness, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.evaluation import Quality, read_quality
from nasdistill.report import text
from nasdistill.report.style import ROLES, SYMBOLS, figure_base, plain
from nasdistill.results import Final, StudyRecord

MODELS = ("student", "teacher")
_ROLE = {"student": "final", "teacher": "teacher"}
MOST_CLASSES = 24
LEAST_IN_BIN = 10

Judged = Sequence[tuple[Final, Quality]]


def judged_finals(record: StudyRecord) -> list[tuple[Final, Quality]]:
    """The finals that have a quality.json, with its content."""
    found = [(final, read_quality(final.folder)) for final in record.finals]
    return [(final, quality) for final, quality in found if quality is not None]


def plots_of(judged: Judged, first: int) -> dict[str, dict[str, go.Figure]]:
    """Every figure of the section by its name, each in one variant a final.

    Args:
        judged: Finals with what was found.
        first: Rank of the one that is shown at first.
    """
    ordered = sorted(judged, key=lambda pair: pair[0].rank != first)
    most = max(len(classes_info(quality).names) for _, quality in judged)
    plots: dict[str, dict[str, go.Figure]] = {"classes": {}, "robustness": {}, "calibration": {}}
    for final, quality in ordered:
        key = f"final-{final.rank}"
        plots["classes"][key] = plot_classes(classes_info(quality), most)
        plots["robustness"][key] = plot_robustness(robustness_info(quality))
        plots["calibration"][key] = plot_calibration(calibration_info(quality))
    return plots


class ClassesInfo(NamedTuple):
    """Accuracy within classes; shares in [0, 1], the class that loses most first.

    Attributes:
        names: Of the classes shown.
        shares: For each model, `(value, low, high)` of each class.
        left_out: Classes that are not shown: those whose accuracy changes least.
    """

    names: tuple[str, ...]
    shares: Mapping[str, tuple[tuple[float, float, float], ...]]
    left_out: int


def classes_info(quality: Quality) -> ClassesInfo:
    """Collects the classes that have examples; of many, those that change most."""
    rows = [row for row in quality["per_class"] if row["examples"]]
    shown = sorted(rows, key=lambda row: -abs(row["difference"]))[:MOST_CLASSES]
    shown.sort(key=lambda row: float(row["difference"]))
    shares = {
        model: tuple((r[model]["value"], r[model]["low"], r[model]["high"]) for r in shown)
        for model in MODELS
    }
    return ClassesInfo(tuple(row["class"] for row in shown), shares, len(rows) - len(shown))


def plot_classes(info: ClassesInfo, room: int) -> go.Figure:
    """Draws student over teacher for each class, with intervals.

    Args:
        info: The classes.
        room: Rows that the figure leaves room for.
    """
    figure = figure_base(height=100 + 38 * max(room, 1))
    for model, shift in (("teacher", 0.14), ("student", -0.14)):
        shares = info.shares[model]
        figure.add_scatter(
            x=[100 * value for value, _, _ in shares],
            y=[row + shift for row in range(len(shares))],
            error_x={
                "array": [100 * (high - value) for value, _, high in shares],
                "arrayminus": [100 * (value - low) for value, low, _ in shares],
                "thickness": 1.4,
                "width": 3,
                "color": ROLES[_ROLE[model]],
            },
            hovertext=[
                f"{plain(name)}, {model}: {text.percent(value)}<br>[{text.interval((low, high))}]"
                for name, (value, low, high) in zip(info.names, shares, strict=True)
            ],
            **_marks(model),
            mode="markers",
        )
    ticks = [plain(name if len(name) <= 24 else name[:23] + "…") for name in info.names]
    figure.update_layout(
        xaxis={"title": {"text": "accuracy within the class (%)"}},
        yaxis={
            "tickvals": list(range(len(ticks))),
            "ticktext": ticks,
            "range": [len(ticks) - 0.4, -0.6],
        },
    )
    return figure


class RobustnessInfo(NamedTuple):
    """Accuracy under corruption, shares in [0, 1]; severity 0 is the clean pictures.

    Attributes:
        severities: By kind, rising from 0.
        shares: By kind and model, the accuracy at each severity.
        examples: How many pictures each share is of.
    """

    severities: Mapping[str, tuple[float, ...]]
    shares: Mapping[str, Mapping[str, tuple[float, ...]]]
    examples: int


def robustness_info(quality: Quality) -> RobustnessInfo:
    """Collects the curves of noise and blur."""
    found = quality["robustness"]
    rows = {kind: [r for r in found["rows"] if r["kind"] == kind] for kind in ("noise", "blur")}
    return RobustnessInfo(
        {kind: (0.0, *(row["severity"] for row in rows[kind])) for kind in rows},
        {
            kind: {m: (found["clean"][m], *(row[m] for row in rows[kind])) for m in MODELS}
            for kind in rows
        },
        found["examples"],
    )


def plot_robustness(info: RobustnessInfo) -> go.Figure:
    """Draws accuracy over severity: noise on the left, blur on the right."""
    figure = figure_base(height=340)
    for number, kind in enumerate(("noise", "blur")):
        axes = {"xaxis": "x2", "yaxis": "y2"} if number else {}
        unit = 100 if kind == "blur" else 1
        x = [unit * severity for severity in info.severities[kind]]
        for model in ("teacher", "student"):
            figure.add_scatter(
                x=x,
                y=[100 * share for share in info.shares[kind][model]],
                mode="lines+markers",
                hovertext=[
                    f"{model}, {kind} {at:g}{' %' * number}: {text.percent(share)}"
                    for at, share in zip(x, info.shares[kind][model], strict=True)
                ],
                line={"width": 2, "color": ROLES[_ROLE[model]]},
                **axes,
                **(_marks(model) | {"showlegend": not number}),
            )
    shares = [s for models in info.shares.values() for each in models.values() for s in each]
    reach = [max(0.0, 100 * min(shares) - 5), min(101.0, 100 * max(shares) + 4)]
    grid = {key: figure.layout.yaxis[key] for key in ("gridcolor", "linecolor", "zeroline")}
    figure.update_layout(
        xaxis={"title": {"text": "noise (deviation, white = 1)"}, "domain": [0, 0.48]},
        xaxis2={
            **grid,
            "title": {"text": "blur (σ, % of the side)"},
            "domain": [0.54, 1],
            "anchor": "y2",
        },
        yaxis={"title": {"text": "accuracy (%)"}, "range": reach},
        yaxis2={**grid, "anchor": "x2", "range": reach},
    )
    return figure


class CalibrationInfo(NamedTuple):
    """For each model `(confidence, accuracy, examples)` of each bin, shares in [0, 1]."""

    bins: Mapping[str, tuple[tuple[float, float, int], ...]]


def calibration_info(quality: Quality) -> CalibrationInfo:
    """Collects the bins of the reliability diagram that hold enough examples to say anything."""
    bins = {
        model: [b for b in quality["calibration"][model]["bins"] if b["examples"] >= LEAST_IN_BIN]
        for model in MODELS
    }
    return CalibrationInfo(
        {
            model: tuple((b["confidence"], b["accuracy"], b["examples"]) for b in bins[model])
            for model in MODELS
        }
    )


def plot_calibration(info: CalibrationInfo) -> go.Figure:
    """Draws accuracy over confidence; on the diagonal a model is right as often as it is sure."""
    figure = figure_base(height=340)
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        name="as sure as right",
        hoverinfo="skip",
        line={"width": 1.5, "dash": "dash", "color": ROLES["stopped"]},
        meta="stopped",
    )
    for model in ("teacher", "student"):
        bins = info.bins[model]
        total = sum(count for _, _, count in bins) or 1
        style = _marks(model)
        style["marker"] = style["marker"] | {
            "size": [5 + 17 * (count / total) ** 0.5 for _, _, count in bins],
            "opacity": 0.85,
        }
        figure.add_scatter(
            x=[100 * sure for sure, _, _ in bins],
            y=[100 * right for _, right, _ in bins],
            hovertext=[
                f"{model}: sure {text.percent(sure)}, right {text.percent(right)}<br>"
                f"{text.counted(count, 'example')}"
                for sure, right, count in bins
            ],
            mode="lines+markers",
            cliponaxis=False,
            line={"width": 1.5, "color": ROLES[_ROLE[model]]},
            **style,
        )
    low = min(
        (min(sure, right) for bins in info.bins.values() for sure, right, _ in bins), default=0.0
    )
    reach = [max(-2.0, 100 * low - 6), 103]
    figure.update_layout(
        xaxis={"title": {"text": "confidence (%)"}, "range": reach},
        yaxis={"title": {"text": "accuracy (%)"}, "range": reach},
    )
    return figure


def _marks(model: str) -> dict[str, Any]:
    role = _ROLE[model]
    return {
        "name": model,
        "meta": role,
        "hoverinfo": "text",
        "marker": {"color": ROLES[role], "symbol": SYMBOLS[role], "size": 9},
    }
