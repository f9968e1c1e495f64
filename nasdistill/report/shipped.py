"""Accuracy against cost by the files that ship: finals stand where one format's files stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.common import formats
from nasdistill.common.types import Cost
from nasdistill.report import figures, statistics
from nasdistill.report.figures import Point, TradeOffInfo
from nasdistill.report.style import NAMES, plain
from nasdistill.results import Final, StudyRecord, tested_by_score

FP32 = "onnx"
"""The format that finals are tested and measured in, whatever else ships."""


def shipped_formats(record: StudyRecord) -> list[str]:
    """Formats, other than fp32, that at least one final has a tested file in."""
    names = (
        name
        for final in record.finals
        for name, file in (final.metrics.get("files") or {}).items()
        if name != FP32 and _share(final, file) is not None
    )
    return list(dict.fromkeys(names))


def shipped_info(record: StudyRecord, cost: Cost, format: str) -> TradeOffInfo:
    """`trade_off_info`, with each final where its file of one format stands.

    Parameters and multiply-adds are those of the final. A final without such a file, or without
    this figure of it, stays where fp32 is, in the group `unshipped`.

    Args:
        record: The study.
        cost: Name of the cost.
        format: Name of the format.
    """
    base = figures.trade_off_info(record, cost)
    groups: dict[str, list[Point]] = {
        role: list(points)
        for role, points in base.groups.items()
        if role not in figures.FINAL_ROLES
    }
    placed = []
    for final in record.finals:
        file = (final.metrics.get("files") or {}).get(format, {})
        x, share = _cost(record, final, file, cost), _share(final, file)
        if x is not None and share is not None:
            point = _file_point(record, final, format, file, x, share)
            placed.append(point)
            groups.setdefault(_role(final, file), []).append(point)
        elif (at := figures.final_cost(record, final, cost)) is not None:
            point = figures.final_point(record, final, at)
            label = f"{point.label}<br>no {plain(format)} file, or not measured: as fp32"
            groups.setdefault("unshipped", []).append(point._replace(label=label))
    front = statistics.front_of_two([p.x for p in placed], [p.y or 0.0 for p in placed])
    floor = figures.floor_of(groups, base.accuracy_limit)
    scored = [p.y for points in groups.values() for p in points if p.y is not None]
    return base._replace(
        groups={role: tuple(groups[role]) for role in NAMES if role in groups},
        floor=floor,
        below=sum(y < floor for y in scored),
        shipped=format,
        shipped_front=tuple(placed[i] for i in front),
    )


def without_trials(figure: go.Figure) -> go.Figure:
    """What a figure of shipped files has beyond the one of fp32, whose other marks are its own."""
    own = [trace for trace in figure.data if trace.meta in figures.FINAL_ROLES]
    return go.Figure(data=own, layout=figure.layout)


def _share(final: Final, file: Mapping[str, Any]) -> float | None:
    """A file's figure on the test split, by the study's score."""
    return tested_by_score({**file, "score": final.metrics.get("score")}).share


def _cost(record: StudyRecord, final: Final, file: Mapping[str, Any], cost: Cost) -> float | None:
    if cost == "bytes":
        return file.get("bytes")
    if cost != "latency":
        return figures.final_cost(record, final, cost)
    # Files are timed on the machine that made them: next to a device's figures they say nothing.
    engines = {row.get("engine") for row in final.metrics.get("latency") or ()}
    rows = [row for row in file.get("latency") or () if row["batch"] == 1]
    return float(rows[0]["median_ms"]) if rows and engines <= {"onnxruntime"} else None


def _role(final: Final, file: Mapping[str, Any]) -> str:
    if file.get("problems"):
        return "broken"
    return "recommended" if final.recommended else "final"


def _file_point(
    record: StudyRecord, final: Final, format: str, file: Mapping[str, Any], x: float, share: float
) -> Point:
    by_score = tested_by_score({**file, "score": final.metrics.get("score")})
    low, high = by_score.interval or (None, None)
    lost, row = file.get("loss_points"), next(iter(file.get("latency") or ()), None)
    lines = [
        f"<b>Final {final.rank}</b>, {plain(format)}" + (", recommended" * final.recommended),
        *(f"<b>{plain(problem)}</b>" for problem in file.get("problems") or ()),
        f"{by_score.name} {formats.percent(share)} [{formats.interval(by_score.interval)}]"
        + (f", {lost:.2f} points lost" if lost is not None else ""),
        f"{formats.size(file.get('bytes'))} · {formats.milliseconds(row and row['median_ms'])}"
        f" · {plain(str(file.get('engine', '')))}",
        *figures.final_point(record, final, x).label.split("<br>")[1:2],
    ]
    lines[-1] = f"fp32: {lines[-1]}"
    return Point(final.number, x, share, "<br>".join(lines), low, high)
