"""The table of the files that ship: size, speed, accuracy, and what they lose against fp32."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nasdistill.common import formats
from nasdistill.report.document import table
from nasdistill.results import Final, StudyRecord

_TITLES = (
    "final",
    "file",
    "size",
    "of fp32",
    "test accuracy",
    "lost",
    "as fp32",
    "batch 1",
    "batch 64",
    "logits apart",
    "",
)


def files_table(record: StudyRecord) -> str:
    """A row for each file of each final; empty where there are none."""
    rows = [
        _row(final, name, file)
        for final in record.finals
        for name, file in (final.metrics.get("files") or {}).items()
    ]
    return table(_TITLES, rows, name="files") if rows else ""


def _row(final: Final, name: str, file: Mapping[str, Any]) -> str:
    if file.get("failed"):
        reason = f'<span class="bad">{escape(file["failed"])}</span>'
        return (
            f"<tr><td>{final.rank}</td><td>{escape(name)}</td>"
            f"<td colspan={len(_TITLES) - 2}>{reason}</td></tr>"
        )
    fp32_bytes, latency = final.metrics.get("onnx_bytes"), file.get("latency") or ()
    by_batch = {row["batch"]: row for row in latency}
    largest, mean = file.get("largest_difference"), file.get("mean_difference")
    cells = [
        str(final.rank),
        f"{escape(name)}<br><small>{escape(str(file.get('file')))}, "
        f"{escape(str(file.get('engine')))}</small>",
        formats.size(file["bytes"]),
        formats.percent(file["bytes"] / fp32_bytes, 0) if fp32_bytes else formats.NONE,
        _accuracy(file),
        _lost(file.get("loss_points")),
        formats.percent(file.get("agreement")),
        _latency(by_batch.get(1)),
        _latency(by_batch.get(64)),
        formats.NONE
        if largest is None
        else f"{largest:.2g}<br><small>mean {mean:.1g}, {file['pictures']:,} pictures</small>",
        _remarks(file),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _accuracy(file: Mapping[str, Any]) -> str:
    share = formats.percent(file.get("test_accuracy"))
    bounds = file.get("test_interval")
    return f"{share}<br><small>{formats.interval(bounds)}</small>" if bounds else share


def _lost(points: float | None) -> str:
    return formats.NONE if points is None else f"{points:.2f} points"


def _latency(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return formats.NONE
    return (
        f"{row['median_ms']:.3g} [{row['q1_ms']:.3g}–{row['q3_ms']:.3g}] ms<br><small>fp32 "
        f"{row['fp32_ms']:.3g} ms; {formats.counted(row['threads'], 'thread')}</small>"
    )


def _remarks(file: Mapping[str, Any]) -> str:
    lines = [f'<span class="bad">✗ {escape(text)}</span>' for text in file.get("problems") or ()]
    remarks, preparation = file.get("remarks") or {}, file.get("preparation")
    lines += [escape(str(text)) for text in remarks.get("text", ())]
    if remarks.get("takes"):
        lines.append(f"takes {escape(remarks['takes'])}")
    if preparation:
        lines.append(f"prepares it {escape(formats.preparation(preparation))}")
    return f"<small>{'<br>'.join(lines)}</small>" if lines else ""
