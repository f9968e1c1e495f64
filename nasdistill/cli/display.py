"""How news and results look in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nasdistill.analysis.audit import Audit
from nasdistill.common.events import Event
from nasdistill.results import Final, StudyRecord

if TYPE_CHECKING:
    from nasdistill.space import SearchSpace

PLAIN_SECONDS = 30.0
"""Time between two signs of life where there is no live line."""


class Display:
    """Shows events: a live line at the bottom on a terminal, plain lines elsewhere.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._begun = time.monotonic()
        self._stage_begun = time.monotonic()
        self._stage = ""
        self._trial: Event | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        if event.kind == "stage" and event.stage != self._stage:
            self._stage, self._stage_begun = event.stage, time.monotonic()
            if self._live is not None:
                self._live.update(Text(""))
        if event.kind == "progress":
            self._show_progress(event)
            return
        if event.kind in ("rung", "trial") and event.stage == "search":
            self._trial = event
        self._print(self._line(event))

    def _print(self, line: Text) -> None:
        self._shown = time.monotonic()
        self._console.print(Text(f"{self._shown - self._begun:6.0f} s  ", "dim"), line, sep="")

    def _line(self, event: Event) -> Text:
        label = {"warning": "warning: ", "stage": "", "note": ""}.get(event.kind, "")
        if event.kind in ("rung", "trial") and event.stage == "search":
            label = f"trial {event.trial:>3}, rung {event.rung}: "
            if event.kind == "trial" and event.rung is None:
                label = f"trial {event.trial:>3}: "
        tail = ""
        if event.kind == "trial" and event.total:
            tail = f"  [{event.done}/{event.total}; ETA {self._eta(event)}; front: "
            tail += f"{describe_front(event.front)}]"
        style = {"warning": "yellow", "stage": "bold", "final": "green"}.get(event.kind, "")
        return Text(label + event.text + tail, style)

    def _eta(self, event: Event) -> str:
        if not event.done:
            return "?"
        spent = time.monotonic() - self._stage_begun
        return duration(spent / event.done * (event.total - event.done))

    def _show_progress(self, event: Event) -> None:
        if self._live is None and time.monotonic() - self._shown < PLAIN_SECONDS:
            return
        where = f"trial {event.trial}, {event.text}" if event.stage == "search" else event.text
        line = f"{event.stage}: {where}, {event.images_per_second:,.0f} images/s"
        if event.total:
            line += f", {event.done:,} of {event.total:,} images"
        if event.eta_seconds is not None:
            line += f", ETA {duration(event.eta_seconds)}"
        if self._trial is not None and event.stage == "search" and self._trial.total:
            line += f" | {self._trial.done}/{self._trial.total} trials, "
            line += f"ETA {self._eta(self._trial)}, front {describe_front(self._trial.front)}"
        if self._live is None:
            self._print(Text(line))
        else:
            self._live.update(Text(line), refresh=True)


def describe_front(front: Sequence[tuple[int, float, float]]) -> str:
    """The front in a few words: accuracy at parameters, most accurate first."""
    shown = sorted(front, key=lambda point: -point[1])[:4]
    text = ", ".join(f"{accuracy:.3f} @ {short(params)}" for _, accuracy, params in shown)
    return (text + (", …" if len(front) > 4 else "")) or "empty"


def short(number: float) -> str:
    """A count in three digits: 84.2k, 1.05M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:  # 999,600 is 1M, not 1000k
            return f"{number / factor:.3g}{unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Seconds as `95 s` or `12 min`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def finals_table(finals: Sequence[Final]) -> Table:
    """The finals as a table that fits 80 columns."""
    table = Table(title="Finals (* recommended)", title_justify="left", padding=(0, 1))
    for name in ("", "test accuracy", "of teacher", "params", "latency", "limits"):
        table.add_column(name, no_wrap=True)
    for final in finals:
        m = final.metrics
        low, high = m["test_interval"]
        alone = next(r for r in m["latency"] if r["model"] == "student" and r["batch"] == 1)
        broken = ", ".join(final.broken_limits)
        table.add_row(
            f"{final.rank}{'*' if final.recommended else ''}",
            f"{m['test_accuracy']:.3f} ({low:.3f}–{high:.3f})",
            "–" if m["retention"] is None else f"{m['retention']:.1%}",
            short(m["params"]) + _smaller(m["compression"]),
            f"{alone['median_ms']:.3f} ms" + _smaller(m["speedup"]),
            Text(f"broken: {broken}", "red") if broken else "kept",
        )
    return table


def _smaller(ratio: float | None) -> str:
    """The teacher's figure ÷ the student's, where there is one."""
    return "" if ratio is None else f" (÷{ratio:.1f})"


def studies_table(records: Sequence[StudyRecord]) -> Table:
    """The studies as a table."""
    table = Table()
    for name in ("study", "state", "trials", "finals", "best test accuracy", "params"):
        table.add_column(name)
    for row in map(summary, records):
        best: Mapping[str, Any] = row["best"] or {}
        accuracy = f"{best['test_accuracy']:.4f}" if best else "–"
        params = f"{best['params']:,}" if best else "–"
        table.add_row(
            row["study"],
            row["state"],
            f"{row['trials']}/{row['trials_total']}",
            str(row["finals"]),
            accuracy,
            params,
        )
    return table


def summary(record: StudyRecord) -> dict[str, Any]:
    """A study in a few JSON values."""
    done = sum(c.state in ("complete", "stopped", "failed") for c in record.candidates)
    finals = sorted(record.finals, key=lambda f: (not f.recommended, -f.metrics["test_accuracy"]))
    best = finals[0] if finals else None
    return {
        "study": record.name,
        "state": record.state,
        "trials": done,
        "trials_total": record.recipe.get("trials"),
        "finals": len(record.finals),
        "best": None if best is None else {"rank": best.rank, **best.metrics},
        "folder": str(record.folder),
    }


def outcome_lines(record: StudyRecord, report: Path, already_complete: bool) -> list[str]:
    """How a search ended, where its files are, and how to go on."""
    name, lines = record.name, []
    if already_complete:
        lines.append(
            f"The study {name} is complete: {record.recipe['trials']} trials, "
            f"{len(record.finals)} finals. To go on: `nasdistill resume {name} --trials N` "
            f"searches further, `nasdistill distill {name} --top-k K` makes more finals, "
            f"`nasdistill report {name}` writes the report anew."
        )
    elif record.state != "complete":
        lines.append(f"Not finished; go on with: nasdistill resume {name}")
    if record.finals:
        lines.append(f"Finals: {record.folder / 'finals'}")
    return [*lines, f"Report: {report}"]


def space_lines(space: SearchSpace, spread: Mapping[str, Any], shape: str) -> list[str]:
    """A space's tree, its size, and the spread of its parameters and MACs."""
    count = space.count()
    lines = [*space.tree(), ""]
    lines.append(f"architectures: {'infinitely many' if count is None else f'{count:,}'}")
    lines.append(f"spread over {spread['samples']} samples at {shape}:")
    for key in ("params", "macs"):
        figures = "  ".join(f"{name} {value:,.0f}" for name, value in spread[key].items())
        lines.append(f"  {key:7} {figures}")
    return lines


def profile_lines(figures: Mapping[str, Any]) -> list[str]:
    """A profile in four lines."""
    latency = figures["latency"]
    return [
        f"parameters     {figures['params']:,}",
        f"multiply-adds  {figures['macs']:,} an image",
        f"bytes          {figures['bytes']:,}",
        f"latency        {latency['median_ms']:.3f} ms median, quartiles "
        f"{latency['q1_ms']:.3f} to {latency['q3_ms']:.3f} ms ({latency['engine']}, batch "
        f"{latency['batch']}, {latency['threads']} thread(s))",
    ]


def tune_table(points: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> Table:
    """The points of a grid, best marked."""
    names = [name for name in points[0] if name not in ("accuracy", "low", "high")]
    table = Table(title="On the score half of the validation split (* best)")
    for column in ("", *names, "accuracy", "95 % interval"):
        table.add_column(column)
    for point in points:
        values = [f"{point[name]:g}" for name in names]
        bounds = f"{point['low']:.3f}–{point['high']:.3f}"
        mark = "*" if point == best else ""
        table.add_row(mark, *values, f"{point['accuracy']:.4f}", bounds)
    return table


def tune_lines(best: Mapping[str, Any], picture: Path) -> list[str]:
    """What the best point means for a search."""
    flags = " ".join(
        f"--{name} {best[name]:g}" for name in ("temperature", "alpha") if name in best
    )
    return [
        f"To search with it: nasdistill search {flags}",
        "Points whose intervals overlap cannot be told apart by one run each.",
        f"Picture: {picture}",
    ]


def audit_table(audit: Audit) -> Table:
    """How well each figure's order agrees with that after full distillation."""
    table = Table(
        title=f"Against full distillation of {len(audit.numbers)} trials (95 % intervals)"
    )
    for column in ("figure", "trials", "Kendall τ", "Spearman ρ", "ρ given MACs"):
        table.add_column(column)

    def shown(value: float | None, interval: tuple[float, float] | None = None) -> str:
        bounds = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
        return "–" if value is None else f"{value:.2f}{bounds}"

    for row in (*audit.scored, *audit.rivals):
        table.add_row(
            row.name,
            str(row.count),
            shown(row.kendall, row.kendall_interval),
            shown(row.spearman, row.spearman_interval),
            shown(row.partial),
        )
    return table
