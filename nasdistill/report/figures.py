"""Accuracy against cost: `trade_off_info(record)` collects what `plot_trade_off(info)` draws.

Colours follow from each trace's `meta` (its role), so that a page can recolour a figure for its
theme. Text that came from outside is escaped for Plotly's own small markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.common import formats
from nasdistill.common.types import Cost
from nasdistill.report import statistics, text
from nasdistill.report.style import (
    NAMES,
    ROLES,
    cost_axis,
    error_bars,
    figure_base,
    marker,
    plain,
)
from nasdistill.results import Candidate, Final, RungScore, StudyRecord, tested_by_score


class Point(NamedTuple):
    """One model in a figure; `y` is a share in [0, 1], `low`–`high` its 95 % interval."""

    number: int | None
    x: float
    y: float | None
    label: str
    low: float | None = None
    high: float | None = None


class TradeOffInfo(NamedTuple):
    """Accuracy against one cost.

    Attributes:
        cost: Name of the cost.
        groups: Points by role: trials by state, finals, the recommended one, the teacher.
        front: Complete trials that no complete trial beats in this cost and score.
        cost_limit: The upper limit on this cost, if any.
        accuracy_limit: The lower limit on accuracy, in [0, 1], if any.
        unplaced: Trials without a value of this cost.
        floor: Lower end of the close-up, in [0, 1].
        below: Scored trials below the floor.
        score: What is drawn over the cost, in words.
        shipped: The format whose files the finals stand for; None for fp32.
        shipped_front: Those files that no other beats in this cost and score.
    """

    cost: Cost
    groups: Mapping[str, tuple[Point, ...]]
    front: tuple[Point, ...]
    cost_limit: float | None
    accuracy_limit: float | None
    unplaced: int
    floor: float
    below: int
    score: str = "accuracy"
    shipped: str | None = None
    shipped_front: tuple[Point, ...] = ()


FINAL_ROLES = ("final", "recommended", "broken", "unshipped")
"""Roles of finals, and of what is drawn of them."""


def trade_off_info(record: StudyRecord, cost: Cost) -> TradeOffInfo:
    """Places trials (last score), finals and teacher (test accuracy) against one cost."""
    groups: dict[str, list[Point]] = {}
    for candidate in record.candidates:
        if (point := _trial_point(candidate, cost)) is not None:
            groups.setdefault(candidate.state, []).append(point)
    unplaced = len(record.candidates) - sum(map(len, groups.values()))
    for final in record.finals:
        if (x := final_cost(record, final, cost)) is not None:
            groups.setdefault(_role(final), []).append(final_point(record, final, x))
    if (teacher := _teacher_point(record, cost)) is not None:
        groups["teacher"] = [teacher]
    complete = groups.get("complete", [])
    front = statistics.front_of_two([p.x for p in complete], [p.y or 0.0 for p in complete])
    floor = floor_of(groups, record.limits.get("accuracy"))
    scored = [p.y for points in groups.values() for p in points if p.y is not None]
    return TradeOffInfo(
        cost=cost,
        groups={role: tuple(groups[role]) for role in NAMES if role in groups},
        front=tuple(complete[i] for i in front),
        cost_limit=record.limits.get(cost),
        accuracy_limit=record.limits.get("accuracy"),
        unplaced=unplaced,
        floor=floor,
        below=sum(y < floor for y in scored),
        score=score_name(record),
    )


def final_cost(record: StudyRecord, final: Final, cost: Cost) -> float | None:
    """A final's cost, from its exported file where it was measured again."""
    value = latency_of(final, "student") if cost == "latency" else final.metrics.get(cost)
    if value is None:
        trials = [c for c in record.candidates if c.number == final.number]
        value = trials[0].cost(cost) if trials else None
    return value


def latency_of(final: Final, model: str, batch: int = 1) -> float | None:
    """The median milliseconds of `student` or `teacher` at a batch size, None if not measured."""
    for entry in final.metrics.get("latency") or ():
        if entry.get("model") == model and entry.get("batch") == batch:
            return float(entry["median_ms"])
    return None


class Limit(NamedTuple):
    """One limit of the study, and the value of a final: accuracy is to be above, costs below."""

    name: str
    limit: float
    value: float
    ok: bool


def limits_of(final: Final) -> list[Limit]:
    """The checked limits of a final: costs of its exported file, accuracy on the audit half."""
    checked = final.limits.items()
    return [Limit(str(n), e["limit"], e["value"], bool(e["ok"])) for n, e in checked]


def _trial_point(candidate: Candidate, cost: Cost) -> Point | None:
    """A trial's point; None without this cost, and without a score where it ought to have one."""
    unscored = candidate.state in ("rejected", "failed")
    x = candidate.cost(cost)
    if x is None or (candidate.score is None and not unscored):
        return None
    y = None if unscored else candidate.score
    return Point(candidate.number, x, y, _trial_label(candidate))


def _role(final: Final) -> str:
    if final.broken_limits:
        return "broken"
    return "recommended" if final.recommended else "final"


def final_point(record: StudyRecord, final: Final, x: float) -> Point:
    """A final's point at a cost: its figure on the test split, and a label of all its costs."""
    metrics = final.metrics
    tested = tested_by_score(metrics)
    low, high = tested.interval or (None, None)
    trial = next((c for c in record.candidates if c.number == final.number), None)
    lines = [
        f"<b>Final {final.rank}</b>, trial {final.number}"
        + (", recommended" if final.recommended else ""),
        f"{tested.name} {formats.percent(tested.share)} [{formats.interval(tested.interval)}]",
        f"{formats.count(metrics.get('params'))} params · {formats.count(metrics.get('macs'))} MACs"
        f" · {formats.size(metrics.get('bytes'))}"
        f" · {formats.milliseconds(latency_of(final, 'student'))}",
    ]
    if broken := final.broken_limits:
        lines.insert(1, f"<b>breaks: {plain(', '.join(broken))}</b>")
    lines += _architecture(trial)
    return Point(final.number, x, tested.share, "<br>".join(lines), low, high)


def _teacher_point(record: StudyRecord, cost: Cost) -> Point | None:
    teacher = record.teacher
    accuracy = teacher_score(record)
    x = teacher.get(cost)
    if cost == "latency":
        finals = sorted(record.finals, key=lambda final: not final.recommended)
        measured = (latency_of(final, "teacher") for final in finals)
        x = next((latency for latency in measured if latency is not None), x)
    if x is None or accuracy is None:
        return None
    label = f"<b>Teacher</b> {plain(str(teacher.get('name', '')))}<br>"
    label += f"{score_name(record)} {formats.percent(accuracy)}<br>{formats.cost(cost, x)}"
    label += {"params": " params", "macs": " MACs"}.get(cost, "")
    return Point(None, float(x), accuracy, label)


def teacher_accuracy(record: StudyRecord) -> float | None:
    """The teacher's test accuracy; on validation where the test was not touched yet."""
    finals = [final.metrics.get("teacher_test_accuracy") for final in record.finals]
    card = [record.teacher.get(key) for key in ("test_accuracy", "validation_accuracy")]
    known = [float(value) for value in (*finals, *card) if value is not None]
    return known[0] if known else None


def teacher_score(record: StudyRecord) -> float | None:
    """As `teacher_accuracy`, by the study's score."""
    if score_name(record) == "accuracy":
        return teacher_accuracy(record)
    finals = [final.test_score.teacher for final in record.finals]
    known = [*finals, record.teacher.get("validation_balanced_accuracy")]
    return next((float(value) for value in known if value is not None), None)


def score_name(record: StudyRecord) -> str:
    """The study's score in words."""
    return str(record.recipe.get("score", "accuracy")).replace("-", " ")


def _trial_label(candidate: Candidate) -> str:
    lines = [f"<b>Trial {candidate.number}</b>, {candidate.state}"]
    if candidate.rungs:
        lines.append(_score(candidate.rungs[-1]))
    if candidate.reason:
        reason = candidate.reason if len(candidate.reason) < 90 else candidate.reason[:89] + "…"
        lines.append(plain(reason))
    return "<br>".join([*lines, text.costs(candidate), *_architecture(candidate)])


def _score(rung: RungScore) -> str:
    bounds = formats.interval((rung.low, rung.high))
    return f"score {formats.percent(rung.score)} [{bounds}] at rung {rung.rung}"


def _architecture(candidate: Candidate | None) -> list[str]:
    lines = text.architecture(candidate.architecture) if candidate else []
    return [plain(line) for line in lines]


def floor_of(groups: Mapping[str, Sequence[Point]], limit: float | None) -> float:
    """Lower end of the close-up: below all that competes; below everything if nothing does.

    Args:
        groups: Points by role.
        limit: The lower limit on accuracy, in [0, 1], if any.
    """
    roles = ("complete", *FINAL_ROLES, "teacher")
    best = [p.low or p.y for role in roles for p in groups.get(role, ()) if p.y is not None]
    best += [] if limit is None else [limit]
    scores = [p.y for points in groups.values() for p in points if p.y is not None]
    values = [value for value in best if value is not None] or scores or [0.0]
    return max(0.0, min(values) - 0.02)


def _trace(role: str, points: Sequence[Point], **extra: Any) -> go.Scatter:
    style: dict[str, Any] = {
        "mode": "markers",
        "name": NAMES[role],
        "marker": marker(role),
        "hovertext": [point.label for point in points],
        "customdata": [point.number for point in points],
        "hoverinfo": "text",
        "meta": role,
    }
    return go.Scatter(x=[point.x for point in points], **(style | extra))


def _per_cent(points: Sequence[Point]) -> list[float | None]:
    return [None if point.y is None else 100 * point.y for point in points]


def plot_trade_off(info: TradeOffInfo) -> go.Figure:
    """Draws accuracy against a cost, with a strip of rejected and failed trials below."""
    figure = figure_base(height=520)
    values = [point.x for points in info.groups.values() for point in points]
    values += [] if info.cost_limit is None else [info.cost_limit]
    own = ", of finals the whole file" if info.shipped and info.cost == "bytes" else ""
    axis = cost_axis(values, text.COST_TITLES[info.cost] + own)
    ends = [10**end if axis["type"] == "log" else end for end in axis["range"]]
    _draw_limits(figure, info, ends)
    if info.front:
        _draw_front(figure, info.front, "front", "complete")
    if info.shipped_front:
        _draw_front(figure, info.shipped_front, f"front of {info.shipped}", "final")
    strip = [role for role in ("rejected", "failed") if role in info.groups]
    for role, points in info.groups.items():
        if role in strip:
            row = [strip.index(role)] * len(points)
            figure.add_trace(_trace(role, points, y=row, yaxis="y2"))
        else:
            bars = {"error_y": _intervals(points)} if any(p.low for p in points) else {}
            name = _shipped_name(role, info.shipped) if info.shipped else NAMES[role]
            figure.add_trace(_trace(role, points, y=_per_cent(points), name=name, **bars))
    top = max((p.high or p.y or 0 for points in info.groups.values() for p in points), default=1)
    span = 100 * (top - info.floor)
    figure.update_layout(
        xaxis=axis | {"anchor": "y2" if strip else "y"},
        yaxis={
            "title": {"text": f"{info.score} (%)"},
            "range": [100 * info.floor, 100 * top + 0.06 * span + 0.2],
            "domain": [0.08 + 0.06 * len(strip) if strip else 0, 1],
        },
    )
    if strip:
        figure.update_layout(yaxis2=_strip_axis(strip))
    return figure


def _shipped_name(role: str, format: str) -> str:
    """The legend's name of a role where finals stand for their files of a format."""
    names = {
        "final": f"{format} file",
        "recommended": f"{format} file of the recommended final",
        "broken": f"{format} file with something wrong",
        "unshipped": f"final without {format} figures, as fp32",
    }
    return names.get(role, NAMES[role])


def _intervals(points: Sequence[Point]) -> dict[str, Any]:
    return error_bars([p.y for p in points], [p.low for p in points], [p.high for p in points])


def _strip_axis(roles: Sequence[str]) -> dict[str, Any]:
    """The y axis of the trials without accuracy, a row for each role."""
    return {
        "domain": [0, 0.02 + 0.06 * len(roles)],
        "range": [-0.7, len(roles) - 0.3],
        "fixedrange": True,
        "tickvals": list(range(len(roles))),
        "ticktext": roles,
        "zeroline": False,
    }


def _draw_front(figure: go.Figure, front: Sequence[Point], name: str, role: str) -> None:
    figure.add_scatter(
        x=[point.x for point in front],
        y=_per_cent(front),
        mode="lines",
        name=name,
        line={"shape": "hv", "color": ROLES[role], "width": 2},
        meta=role,
        hoverinfo="skip",
    )


def _draw_limits(figure: go.Figure, info: TradeOffInfo, ends: Sequence[float]) -> None:
    """Draws the limits as lines; `ends` are those of the x axis."""
    style = {"color": ROLES["limit"], "width": 1.5, "dash": "dot"}
    if info.cost_limit is not None:
        name = f"limit: {formats.cost(info.cost, info.cost_limit)}"
        _draw_limit(figure, [info.cost_limit] * 2, [0, 110], name, style)
    if info.accuracy_limit is not None:
        name = f"least accuracy: {formats.percent(info.accuracy_limit)}"
        y = [100 * info.accuracy_limit] * 2
        _draw_limit(figure, ends, y, name, style | {"dash": "dash"})


def _draw_limit(
    figure: go.Figure, x: Sequence[float], y: Sequence[float], name: str, line: Mapping[str, Any]
) -> None:
    figure.add_scatter(
        x=list(x),
        y=list(y),
        mode="lines",
        name=name,
        line=dict(line),
        hoverinfo="name",
        meta="limit",
        legendrank=2000,
    )
