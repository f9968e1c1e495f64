"""Figures of how a study went: scores by rung, trust, stages, savings, parameters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.rank_correlation import kendall, spearman
from nasdistill.report import statistics, text
from nasdistill.report.style import ROLES, figure_base, plain
from nasdistill.results import StudyRecord


class Line(NamedTuple):
    """One trial's scores: rung indices and shares in [0, 1]."""

    number: int
    rungs: tuple[int, ...]
    scores: tuple[float, ...]


class RungsInfo(NamedTuple):
    """Scores by rung: each rung's budget in examples, and lines by role."""

    budgets: tuple[int, ...]
    lines: Mapping[str, tuple[Line, ...]]


def rungs_info(record: StudyRecord) -> RungsInfo:
    """Collects every trial's scores; finals have a role of their own."""
    chosen = {f.number: "recommended" if f.recommended else "final" for f in record.finals}
    lines: dict[str, list[Line]] = {}
    for candidate in record.candidates:
        if candidate.rungs:
            rungs = tuple(rung.rung for rung in candidate.rungs)
            scores = tuple(rung.accuracy for rung in candidate.rungs)
            role = chosen.get(candidate.number, candidate.state)
            lines.setdefault(role, []).append(Line(candidate.number, rungs, scores))
    order = ("stopped", "failed", "running", "complete", "final", "recommended")
    return RungsInfo(record.rungs, {r: tuple(lines[r]) for r in order if r in lines})


def plot_rungs(info: RungsInfo) -> go.Figure:
    """Draws one line per trial; a stopped one ends where it was stopped."""
    figure = figure_base(height=420)
    names = {"final": "became a final", "recommended": "became the recommended final"}
    for role, lines in info.lines.items():
        x: list[int | None] = []
        y: list[float | None] = []
        hover: list[str] = []
        for line in lines:
            x += [*line.rungs, None]
            y += [*(100 * score for score in line.scores), None]
            hover += [
                f"trial {line.number}, rung {r}: {text.percent(s)}"
                for r, s in zip(line.rungs, line.scores, strict=True)
            ] + [""]
        strong = role in names
        figure.add_scatter(
            x=x,
            y=y,
            hovertext=hover,
            hoverinfo="text",
            mode="lines+markers",
            meta=role,
            name=names.get(role, role),
            line={"width": 3 if strong else 1, "color": ROLES[role]},
            marker={
                "size": 8 if strong else 5,
                "color": ROLES[role],
                "symbol": "circle-open" if role == "stopped" else "circle",
            },
        )
    ticks = [f"rung {i}<br>{text.count(budget)} examples" for i, budget in enumerate(info.budgets)]
    last = max(len(info.budgets), 1) - 1
    figure.update_layout(
        xaxis={"tickvals": list(range(len(ticks))), "ticktext": ticks, "range": [-0.3, last + 0.3]},
        yaxis={"title": {"text": "score (accuracy, %)"}},
    )
    return figure


class TrustInfo(NamedTuple):
    """Score in the search against test accuracy as a final, shares in [0, 1].

    Attributes:
        numbers: Trial of each final.
        scores: Score at the last rung of the search.
        finals: Test accuracy after full distillation.
        intervals: 95 % interval of that accuracy, where known.
        spearman: Rank correlation, None with fewer than 3 finals or no variation.
        kendall: Tau-b, likewise.
    """

    numbers: tuple[int, ...]
    scores: tuple[float, ...]
    finals: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    spearman: float | None
    kendall: float | None


def trust_info(record: StudyRecord) -> TrustInfo:
    """Pairs each final's score in the search with its test accuracy."""
    trials = {c.number: c.score for c in record.candidates if c.score is not None}
    rows = [
        (f.number, trials[f.number], float(f.metrics["test_accuracy"]), f)
        for f in record.finals
        if f.number in trials and f.metrics.get("test_accuracy") is not None
    ]
    scores = tuple(float(row[1]) for row in rows)
    finals = tuple(row[2] for row in rows)
    enough = len(rows) >= 3
    bounds = [row[3].metrics.get("test_interval") for row in rows]
    return TrustInfo(
        numbers=tuple(row[0] for row in rows),
        scores=scores,
        finals=finals,
        intervals=tuple((float(b[0]), float(b[1])) if b else None for b in bounds),
        spearman=spearman(scores, finals) if enough else None,
        kendall=kendall(scores, finals) if enough else None,
    )


def plot_trust(info: TrustInfo) -> go.Figure:
    """Draws final accuracy over score, one labelled point per final."""
    figure = figure_base(height=380)
    pairs = list(zip(info.finals, info.intervals, strict=True))
    figure.add_scatter(
        x=[100 * score for score in info.scores],
        y=[100 * final for final in info.finals],
        mode="markers+text",
        text=[f"trial {n}" for n in info.numbers],
        textposition="middle right",
        hovertemplate="%{text}<br>score %{x:.1f} %<br>test %{y:.1f} %<extra></extra>",
        marker={"size": 11, "symbol": "square", "color": ROLES["final"]},
        meta="final",
        error_y={
            "array": [100 * (b[1] - y) if b else 0 for y, b in pairs],
            "arrayminus": [100 * (y - b[0]) if b else 0 for y, b in pairs],
            "thickness": 1.2,
            "width": 3,
        },
        cliponaxis=False,
        showlegend=False,
    )
    low, high = min(info.scores, default=0.0), max(info.scores, default=1.0)
    pad = 100 * (0.15 * (high - low) or 0.01)
    figure.update_layout(
        xaxis={
            "title": {"text": "score in the search (%)"},
            "range": [100 * low - pad, 100 * high + pad],
        },
        yaxis={"title": {"text": "test accuracy of the final (%)"}},
    )
    return figure


class BarsInfo(NamedTuple):
    """Named amounts; `unit` is `s` or `examples`."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    unit: str


def stages_info(record: StudyRecord) -> BarsInfo:
    """Seconds by stage, added up over workers, in the study's order."""
    return BarsInfo(tuple(record.stages), tuple(record.stages.values()), "s")


def savings_info(record: StudyRecord) -> BarsInfo:
    """Examples trained in the search, and those saved by stopping, cache and gates."""
    trained = sum(c.examples for c in record.candidates)
    saved = {f"saved by {name}": value for name, value in record.savings.items()}
    return BarsInfo(("trained", *saved), (float(trained), *saved.values()), "examples")


def plot_bars(info: BarsInfo) -> go.Figure:
    """Draws horizontal bars, first on top, each with its value at its end."""
    write = text.seconds if info.unit == "s" else text.count
    roles = ["saved" if name.startswith("saved") else "bar" for name in info.names]
    return _bars(
        info.names,
        info.values,
        [write(value) for value in info.values],
        roles,
        "seconds of all workers" if info.unit == "s" else "examples",
    )


class ParametersInfo(NamedTuple):
    """Eta squared by parameter, from the scores of `trials` trials at rung 0."""

    ratios: Mapping[str, statistics.Ratio]
    trials: int


def parameters_info(record: StudyRecord) -> ParametersInfo:
    """Share of the rung-0 scores' variance that goes with each parameter."""
    scored: list[tuple[Mapping[str, Hashable], float]] = [
        (c.parameters, rung.accuracy) for c in record.candidates for rung in c.rungs[:1]
    ]
    return ParametersInfo(statistics.importances(scored), len(scored))


def plot_parameters(info: ParametersInfo, most: int = 15) -> go.Figure:
    """Draws eta squared as bars, with what chance alone would give as a mark on each."""
    shown = dict(list(info.ratios.items())[:most])
    values = [100 * ratio.share for ratio in shown.values()]
    labels = [f"{100 * r.share:.0f} % (n = {r.trials})" for r in shown.values()]
    figure = _bars(tuple(shown), values, labels, ["bar"] * len(shown), "share of variance (%)")
    ends = [100 * max(ratio.share, ratio.chance) for ratio in shown.values()]
    figure.data[0].update(name="measured", showlegend=True, text=None)
    figure.add_scatter(
        x=[100 * ratio.chance for ratio in shown.values()],
        y=list(range(len(shown))),
        mode="markers",
        name="expected by chance",
        meta="limit",
        hoverinfo="x+name",
        marker={
            "symbol": "line-ns-open",
            "size": 16,
            "color": ROLES["limit"],
            "line": {"width": 2},
        },
    )
    figure.add_scatter(
        x=ends,
        y=list(range(len(shown))),
        mode="text",
        text=[f"  {label}" for label in labels],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(xaxis_range=[0, max([*ends, 20.0]) * 1.35])
    return figure


def _bars(
    names: Sequence[str],
    values: Sequence[float],
    labels: Sequence[str],
    roles: Sequence[str],
    title: str,
) -> go.Figure:
    figure = figure_base(height=96 + 34 * max(len(names), 1))
    ticks = [plain(name if len(name) <= 34 else "…" + name[-33:]) for name in names]
    figure.add_bar(
        x=list(values),
        y=list(range(len(names))),
        orientation="h",
        text=list(labels),
        textposition="outside",
        cliponaxis=False,
        hoverinfo="text",
        meta=list(roles),
        hovertext=[f"{plain(n)}: {v}" for n, v in zip(names, labels, strict=True)],
        marker={"color": [ROLES[role] for role in roles]},
        showlegend=False,
    )
    axis: dict[str, Any] = {"tickvals": list(range(len(names))), "ticktext": ticks}
    figure.update_layout(
        xaxis={"title": {"text": title}, "range": [0, 1.22 * max([*values, 0.0]) or 1]},
        yaxis=axis | {"range": [len(names) - 0.4, -0.6], "showgrid": False},
        bargap=0.35,
    )
    return figure
