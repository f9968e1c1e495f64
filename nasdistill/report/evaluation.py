"""Figures of a final's evaluation: accuracy by class, robustness, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.evaluation import Quality, read_quality
from nasdistill.common import formats
from nasdistill.common.errors import DamagedFileError
from nasdistill.report.style import ROLES, error_bars, figure_base, marker, plain
from nasdistill.report.text import shortened
from nasdistill.results import Final, StudyRecord

MODELS = ("student", "teacher")
_ROLE = {"student": "final", "teacher": "teacher"}
MAX_CLASSES = 24
MIN_EXAMPLES_IN_BIN = 10


class EvaluatedFinal(NamedTuple):
    """A final and the content of its quality.json."""

    final: Final
    quality: Quality

    @property
    def key(self) -> str:
        """Name of the variant that shows this final."""
        return f"final-{self.final.rank}"


def evaluated_finals(record: StudyRecord, damage: list[str]) -> list[EvaluatedFinal]:
    """The finals that have a quality.json, by rank.

    Args:
        record: The study.
        damage: What is wrong with those files that cannot be read is added to it.
    """
    evaluated = []
    for final in record.finals:
        try:
            quality = read_quality(final.folder)
        except DamagedFileError as error:
            damage.append(str(error))
        else:
            if quality is not None:
                evaluated.append(EvaluatedFinal(final, quality))
    return evaluated


def evaluation_plots(
    evaluated: Sequence[EvaluatedFinal], first: int
) -> dict[str, dict[str, go.Figure]]:
    """Every figure of the section by its name, each in one variant a final.

    Args:
        evaluated: The finals.
        first: Rank of the one that is shown at first.
    """
    ordered = sorted(evaluated, key=lambda each: each.final.rank != first)
    rows = max(len(classes_info(each.quality).names) for each in evaluated)
    plots: dict[str, dict[str, go.Figure]] = {"classes": {}, "robustness": {}, "calibration": {}}
    for each in ordered:
        quality = each.quality
        plots["classes"][each.key] = plot_classes(classes_info(quality), rows)
        plots["robustness"][each.key] = plot_robustness(robustness_info(quality))
        plots["calibration"][each.key] = plot_calibration(calibration_info(quality))
    return plots


class Share(NamedTuple):
    """A share in [0, 1] and its 95 % interval."""

    value: float
    low: float
    high: float


class ClassesInfo(NamedTuple):
    """Accuracy within classes; shares in [0, 1], the class that loses most first.

    Attributes:
        names: Of the classes shown.
        shares: For each model, the accuracy within each class.
        left_out: Classes that are not shown: those whose accuracy changes least.
    """

    names: tuple[str, ...]
    shares: Mapping[str, tuple[Share, ...]]
    left_out: int


def classes_info(quality: Quality) -> ClassesInfo:
    """Collects the classes that have examples; of many, those that change most."""
    rows = [row for row in quality["per_class"] if row["examples"]]
    shown_rows = sorted(rows, key=lambda row: -abs(row["difference"]))[:MAX_CLASSES]
    shown_rows.sort(key=lambda row: float(row["difference"]))
    shares = {model: tuple(_share(row[model]) for row in shown_rows) for model in MODELS}
    return ClassesInfo(
        tuple(row["class"] for row in shown_rows), shares, len(rows) - len(shown_rows)
    )


def _share(row: Mapping[str, float]) -> Share:
    return Share(row["value"], row["low"], row["high"])


def plot_classes(info: ClassesInfo, rows: int) -> go.Figure:
    """Draws student over teacher for each class, with intervals.

    Args:
        info: The classes.
        rows: Number of classes that the figure has the height for.
    """
    figure = figure_base(height=100 + 38 * max(rows, 1))
    for model, shift in (("teacher", 0.14), ("student", -0.14)):
        shares = info.shares[model]
        values, lows, highs = ([share[i] for share in shares] for i in range(3))
        figure.add_scatter(
            x=[100 * value for value in values],
            y=[row + shift for row in range(len(shares))],
            error_x=error_bars(values, lows, highs, thickness=1.4) | {"color": ROLES[_ROLE[model]]},
            hovertext=[
                f"{plain(name)}, {model}: {formats.percent(value)}"
                f"<br>[{formats.interval((low, high))}]"
                for name, (value, low, high) in zip(info.names, shares, strict=True)
            ],
            **_marks(model),
            mode="markers",
        )
    ticks = [plain(shortened(name, 24)) for name in info.names]
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
        examples: Number of pictures that each share is of.
    """

    severities: Mapping[str, tuple[float, ...]]
    shares: Mapping[str, Mapping[str, tuple[float, ...]]]
    examples: int


def robustness_info(quality: Quality) -> RobustnessInfo:
    """Collects the curves of noise and blur."""
    robustness = quality["robustness"]
    clean = robustness["clean"]
    rows = {
        kind: [row for row in robustness["rows"] if row["kind"] == kind]
        for kind in ("noise", "blur")
    }
    return RobustnessInfo(
        {kind: (0.0, *(row["severity"] for row in rows[kind])) for kind in rows},
        {kind: {m: (clean[m], *(row[m] for row in rows[kind])) for m in MODELS} for kind in rows},
        robustness["examples"],
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
                    f"{model}, {kind} {severity:g}{' %' * number}: {formats.percent(share)}"
                    for severity, share in zip(x, info.shares[kind][model], strict=True)
                ],
                line={"width": 2, "color": ROLES[_ROLE[model]]},
                **axes,
                **(_marks(model) | {"showlegend": not number}),
            )
    shares = [s for models in info.shares.values() for curve in models.values() for s in curve]
    y_range = [max(0.0, 100 * min(shares) - 5), min(101.0, 100 * max(shares) + 4)]
    grid = {key: figure.layout.yaxis[key] for key in ("gridcolor", "linecolor", "zeroline")}
    right = {"title": {"text": "blur (σ, % of the side)"}, "domain": [0.54, 1], "anchor": "y2"}
    figure.update_layout(
        xaxis={"title": {"text": "noise (deviation, white = 1)"}, "domain": [0, 0.48]},
        xaxis2=grid | right,
        yaxis={"title": {"text": "accuracy (%)"}, "range": y_range},
        yaxis2=grid | {"anchor": "x2", "range": y_range},
    )
    return figure


class Bin(NamedTuple):
    """A bin of the reliability diagram: mean confidence and accuracy in [0, 1], and examples."""

    confidence: float
    accuracy: float
    examples: int


class CalibrationInfo(NamedTuple):
    """The bins of each model, by rising confidence."""

    bins: Mapping[str, tuple[Bin, ...]]


def calibration_info(quality: Quality) -> CalibrationInfo:
    """Collects the bins of the reliability diagram that hold enough examples to say anything."""
    bins = {}
    for model in MODELS:
        rows = quality["calibration"][model]["bins"]
        every = (Bin(row["confidence"], row["accuracy"], row["examples"]) for row in rows)
        bins[model] = tuple(b for b in every if b.examples >= MIN_EXAMPLES_IN_BIN)
    return CalibrationInfo(bins)


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
        _draw_bins(figure, model, info.bins[model])
    low = min(
        (min(b.confidence, b.accuracy) for bins in info.bins.values() for b in bins), default=0.0
    )
    ends = [max(-2.0, 100 * low - 6), 103]
    figure.update_layout(
        xaxis={"title": {"text": "confidence (%)"}, "range": ends},
        yaxis={"title": {"text": "accuracy (%)"}, "range": ends},
    )
    return figure


def _draw_bins(figure: go.Figure, model: str, bins: Sequence[Bin]) -> None:
    """Draws one model's bins; the area of a mark grows with the examples in it."""
    total = sum(b.examples for b in bins) or 1
    style = _marks(model)
    style["marker"] = style["marker"] | {
        "size": [5 + 17 * (b.examples / total) ** 0.5 for b in bins],
        "opacity": 0.85,
    }
    figure.add_scatter(
        x=[100 * b.confidence for b in bins],
        y=[100 * b.accuracy for b in bins],
        hovertext=[
            f"{model}: sure {formats.percent(b.confidence)}, right {formats.percent(b.accuracy)}"
            f"<br>{formats.counted(b.examples, 'example')}"
            for b in bins
        ],
        mode="lines+markers",
        cliponaxis=False,
        line={"width": 1.5, "color": ROLES[_ROLE[model]]},
        **style,
    )


def _marks(model: str) -> dict[str, Any]:
    role = _ROLE[model]
    return {"name": model, "meta": role, "hoverinfo": "text", "marker": marker(role, 9)}
