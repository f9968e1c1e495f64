"""Figures of the search: scores by rung, trust, stages, savings, parameters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.rank_correlation import kendall, spearman
from nasdistill.common import formats
from nasdistill.report import statistics
from nasdistill.report.figures import score_name
from nasdistill.report.style import ROLES, error_bars, figure_base, marker, plain
from nasdistill.results import StudyRecord

MAX_PARAMETERS = 15
"""Parameters that are drawn, at most."""


class Line(NamedTuple):
    """One trial's scores: rung indices and shares in [0, 1]."""

    number: int
    rungs: tuple[int, ...]
    scores: tuple[float, ...]


class RungsInfo(NamedTuple):
    """Scores by rung: each rung's budget in examples, lines by role, what the score is in words."""

    budgets: tuple[int, ...]
    lines: Mapping[str, tuple[Line, ...]]
    score: str = "accuracy"


def rungs_info(record: StudyRecord) -> RungsInfo:
    """Collects every trial's scores; finals have a role of their own."""
    finals = {f.number: "recommended" if f.recommended else "final" for f in record.finals}
    lines: dict[str, list[Line]] = {}
    for candidate in record.candidates:
        if candidate.rungs:
            rungs = tuple(rung.rung for rung in candidate.rungs)
            scores = tuple(rung.score for rung in candidate.rungs)
            role = finals.get(candidate.number, candidate.state)
            lines.setdefault(role, []).append(Line(candidate.number, rungs, scores))
    order = ("stopped", "failed", "running", "complete", "final", "recommended")
    by_role = {r: tuple(lines[r]) for r in order if r in lines}
    return RungsInfo(record.rungs, by_role, score_name(record))


def plot_rungs(info: RungsInfo) -> go.Figure:
    """Draws one line per trial; a stopped one ends where it was stopped."""
    figure = figure_base(height=420)
    names = {"final": "became a final", "recommended": "became the recommended final"}
    for role, lines in info.lines.items():
        strong = role in names
        figure.add_scatter(
            **_joined(lines),
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
    ticks = [
        f"rung {i}<br>{formats.count(budget)} examples" for i, budget in enumerate(info.budgets)
    ]
    last = max(len(info.budgets), 1) - 1
    figure.update_layout(
        xaxis={"tickvals": list(range(len(ticks))), "ticktext": ticks, "range": [-0.3, last + 0.3]},
        yaxis={"title": {"text": f"score ({info.score}, %)"}},
    )
    return figure


def _joined(lines: Sequence[Line]) -> dict[str, list[Any]]:
    """Lines as one trace, with a gap after each."""
    x: list[int | None] = []
    y: list[float | None] = []
    hovertext: list[str] = []
    for line in lines:
        x += [*line.rungs, None]
        y += [*(100 * score for score in line.scores), None]
        hovertext += [
            f"trial {line.number}, rung {rung}: {formats.percent(score)}"
            for rung, score in zip(line.rungs, line.scores, strict=True)
        ] + [""]
    return {"x": x, "y": y, "hovertext": hovertext}


class TrustInfo(NamedTuple):
    """Score in the search against test accuracy as a final, shares in [0, 1].

    Attributes:
        numbers: Trial of each final.
        scores: Score at the last rung of the search.
        finals: Test accuracy after full distillation.
        intervals: 95 % interval of that accuracy, where known.
        spearman: Rank correlation, None with fewer than 3 finals or no variation.
        kendall: Tau-b, likewise.
        score: What the score is, in words.
    """

    numbers: tuple[int, ...]
    scores: tuple[float, ...]
    finals: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    spearman: float | None
    kendall: float | None
    score: str = "accuracy"


def trust_info(record: StudyRecord) -> TrustInfo:
    """Pairs each final's score in the search with its test accuracy."""
    trials = {c.number: float(c.score) for c in record.candidates if c.score is not None}
    finals = [
        final
        for final in record.finals
        if final.number in trials and final.test_score.share is not None
    ]
    scores = tuple(trials[final.number] for final in finals)
    accuracies = tuple(final.test_score.share or 0.0 for final in finals)
    bounds = [final.test_score.interval for final in finals]
    enough = len(finals) >= 3
    return TrustInfo(
        numbers=tuple(final.number for final in finals),
        scores=scores,
        finals=accuracies,
        intervals=tuple((float(b[0]), float(b[1])) if b else None for b in bounds),
        spearman=spearman(scores, accuracies) if enough else None,
        kendall=kendall(scores, accuracies) if enough else None,
        score=score_name(record),
    )


def plot_trust(info: TrustInfo) -> go.Figure:
    """Draws final accuracy over score, one labelled point per final."""
    figure = figure_base(height=380)
    lows = [bounds[0] if bounds else None for bounds in info.intervals]
    highs = [bounds[1] if bounds else None for bounds in info.intervals]
    figure.add_scatter(
        x=[100 * score for score in info.scores],
        y=[100 * final for final in info.finals],
        mode="markers+text",
        text=[f"trial {n}" for n in info.numbers],
        textposition="middle right",
        hovertemplate="%{text}<br>score %{x:.1f} %<br>test %{y:.1f} %<extra></extra>",
        marker=marker("final"),
        meta="final",
        error_y=error_bars(info.finals, lows, highs),
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
        yaxis={"title": {"text": f"test {info.score} of the final (%)"}},
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
    in_words = formats.seconds if info.unit == "s" else formats.count
    roles = ["saved" if name.startswith("saved") else "bar" for name in info.names]
    labels = [in_words(value) for value in info.values]
    title = "seconds of all workers" if info.unit == "s" else "examples"
    return _bars(info.names, info.values, labels, roles, title)


class ParametersInfo(NamedTuple):
    """Eta squared by parameter, from the scores of `trials` trials at rung 0."""

    ratios: Mapping[str, statistics.Ratio]
    trials: int


def parameters_info(record: StudyRecord) -> ParametersInfo:
    """Share of the rung-0 scores' variance that goes with each parameter."""
    scored: list[tuple[Mapping[str, Hashable], float]] = [
        (c.parameters, rung.score) for c in record.candidates for rung in c.rungs[:1]
    ]
    return ParametersInfo(statistics.importances(scored), len(scored))


def plot_parameters(info: ParametersInfo, max_bars: int = MAX_PARAMETERS) -> go.Figure:
    """Draws eta squared as bars, with what chance alone would give as a mark on each."""
    shown_ratios = dict(list(info.ratios.items())[:max_bars])
    ratios, rows = list(shown_ratios.values()), list(range(len(shown_ratios)))
    labels = [f"{100 * ratio.share:.0f} % (n = {ratio.trials})" for ratio in ratios]
    values = [100 * ratio.share for ratio in ratios]
    figure = _bars(
        tuple(shown_ratios), values, labels, ["bar"] * len(shown_ratios), "share of variance (%)"
    )
    figure.data[0].update(name="measured", showlegend=True, text=None)
    line = {"width": 2}
    figure.add_scatter(
        x=[100 * ratio.chance for ratio in ratios],
        y=rows,
        mode="markers",
        name="expected by chance",
        meta="limit",
        hoverinfo="x+name",
        marker={"symbol": "line-ns-open", "size": 16, "color": ROLES["limit"], "line": line},
    )
    ends = [100 * max(ratio.share, ratio.chance) for ratio in ratios]
    figure.add_scatter(
        x=ends,
        y=rows,
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
