"""The terminal's display: events as they come, and results as tables and lines."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nasdistill.analysis.audit import Audit
from nasdistill.common import formats
from nasdistill.common.events import Event
from nasdistill.results import DamagedStudy, Final, StudyRecord

if TYPE_CHECKING:
    from nasdistill.models.pruned_space import MadeSpace
    from nasdistill.space import SearchSpace

STUDENT = ("student", 1)
"""Model and batch of the latency that is shown."""
PLAIN_SECONDS = 30.0
"""Time between two signs of life where there is no live line, in seconds."""


class Display:
    """Shows events: a live line at the bottom on a terminal, plain lines elsewhere.

    Args:
        console: The terminal or file to print to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._start = time.monotonic()
        self._stage_start = time.monotonic()
        self._stage = ""
        self._latest_trial: Event | None = None
        self._printed = time.monotonic()

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
        if event.kind == "stage":
            if event.stage != self._stage:
                self._stage, self._stage_start = event.stage, time.monotonic()
            if self._live is not None:  # what was under way has ended
                self._live.update(Text(""))
        if event.kind == "progress":
            self._show_progress(event)
            return
        if event.kind in ("rung", "trial") and event.stage == "search":
            self._latest_trial = event
        self._print(self._line(event))

    def _print(self, line: Text) -> None:
        self._printed = time.monotonic()
        self._console.print(Text(f"{self._printed - self._start:6.0f} s  ", "dim"), line, sep="")

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
        spent = time.monotonic() - self._stage_start
        return short_duration(spent / event.done * (event.total - event.done))

    def _show_progress(self, event: Event) -> None:
        if self._live is None and time.monotonic() - self._printed < PLAIN_SECONDS:
            return
        text = f"trial {event.trial}, {event.text}" if event.stage == "search" else event.text
        line = f"{event.stage}: {text}, {event.images_per_second:,.0f} images/s"
        if event.total:
            line += f", {event.done:,} of {event.total:,} images"
        if event.eta_seconds is not None:
            line += f", ETA {short_duration(event.eta_seconds)}"
        trial = self._latest_trial
        if trial is not None and event.stage == "search" and trial.total:
            line += f" | {trial.done}/{trial.total} trials, "
            line += f"ETA {self._eta(trial)}, front {describe_front(trial.front)}"
        if self._live is None:
            self._print(Text(line))
        else:
            self._live.update(Text(line), refresh=True)


def describe_front(front: Sequence[tuple[int, float, float]]) -> str:
    """The front in a few words: accuracy at parameters, most accurate first.

    Args:
        front: `(trial, accuracy, params)` of each candidate.
    """
    points = sorted(front, key=lambda point: -point[1])[:4]
    text = ", ".join(f"{accuracy:.3f} @ {formats.count(params)}" for _, accuracy, params in points)
    return (text + (", …" if len(front) > 4 else "")) or "empty"


def short_duration(seconds: float) -> str:
    """Seconds as `95 s` or `12 min`: an estimate needs no more."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def finals_table(finals: Sequence[Final]) -> Table:
    """The finals as a table that fits 80 columns."""
    uneven = all("majority" in final.metrics for final in finals) and any(
        final.unevenly_tested or final.metrics["untested_classes"] for final in finals
    )
    caption = Text(_constant_answer(finals[0])) if uneven else None
    as_int8 = ", as int8 files" if any(final.deployed is not None for final in finals) else ""
    table = Table(
        title=f"Finals (* recommended){as_int8}",
        title_justify="left",
        caption=caption,
        caption_justify="left",
        padding=(0, 1),
    )
    for name in ("", "test accuracy", "of teacher", "params", "latency", "limits"):
        table.add_column(name, no_wrap=True)
    for final in finals:
        metrics = final.metrics
        tested, file = final.test_score, final.deployed or metrics
        bounds = file.get("test_interval")
        accuracy = _share_of(file["test_accuracy"], bounds) if bounds else "no int8 file"
        kept = formats.NONE if tested.retention is None else f"{tested.retention:.1%}"
        balanced_kept = kept if tested.name.startswith("balanced") else ""
        rows = file.get("latency", ())
        median = next(
            (r["median_ms"] for r in rows if (r.get("model", "student"), r["batch"]) == STUDENT),
            None,
        )
        broken = ", ".join(final.broken_limits)
        table.add_row(
            f"{final.rank}{'*' if final.recommended else ''}",
            accuracy,
            "" if balanced_kept and uneven else kept,
            formats.count(metrics["params"]) + _ratio(metrics["compression"]),
            (formats.NONE if median is None else f"{median:.3f} ms")
            + _ratio(metrics["speedup"] if final.deployed is None else None),
            Text(f"broken: {broken}", "red") if broken else "kept",
        )
        if uneven:
            balanced = metrics["test_balanced_accuracy"], metrics["test_balanced_interval"]
            table.add_row("b", _share_of(*balanced), balanced_kept)
    return table


def _constant_answer(final: Final) -> str:
    """What balanced is, what always the same answer is worth, which classes are not tested."""
    majority, untested = final.metrics["majority"], final.metrics["untested_classes"]
    text = (
        "b: balanced, the mean over classes. "
        f"Always {majority['class']!r}: {majority['share']:.3f}, b {majority['even']:.3f}"
    )
    return text + (f"; no test examples of {', '.join(untested)}" if untested else "")


def _share_of(share: float, bounds: Sequence[float]) -> str:
    return f"{share:.3f} ({bounds[0]:.3f}–{bounds[1]:.3f})"


def _ratio(ratio: float | None) -> str:
    """The teacher's figure ÷ the student's, where there is one."""
    return "" if ratio is None else f" (÷{ratio:.1f})"


def studies_table(records: Sequence[StudyRecord | DamagedStudy]) -> Table:
    """The studies as a table."""
    table = Table("study", "state", "trials", "finals", "best test accuracy", "params")
    for row in map(study_summary, records):
        best: Mapping[str, Any] = row.get("best") or {}
        accuracy = f"{best['test_accuracy']:.4f}" if best else formats.NONE
        params = f"{best['params']:,}" if best else formats.NONE
        known = "trials" in row
        table.add_row(
            Text(row["study"]),
            row["state"] + (", partly damaged" if known and row["damage"] else ""),
            f"{row['trials']}/{row['trials_total']}" if known else formats.NONE,
            str(row["finals"]) if known else formats.NONE,
            accuracy,
            params,
        )
    return table


def damage_lines(records: Sequence[StudyRecord | DamagedStudy]) -> list[str]:
    """What is damaged in each study, in a line each."""
    return [
        f"{record.name}: {reason}"
        for record in records
        for reason in ([record.reason] if isinstance(record, DamagedStudy) else record.damage)
    ]


def study_summary(record: StudyRecord | DamagedStudy) -> dict[str, Any]:
    """A study in a few JSON values; of a damaged one its name, folder, and what is wrong."""
    if isinstance(record, DamagedStudy):
        name = {"study": record.name, "state": "damaged"}
        return {**name, "folder": str(record.folder), "damage": [record.reason]}
    done = sum(c.state in ("complete", "stopped", "failed") for c in record.candidates)
    finals = sorted(record.finals, key=lambda f: (not f.recommended, -f.metrics["test_accuracy"]))
    best = finals[0] if finals else None
    return {
        "study": record.name,
        "state": record.state,
        "begin": record.recipe.get("begin") or "fresh",
        "trials": done,
        "trials_total": record.recipe.get("trials"),
        "finals": len(record.finals),
        "best": None if best is None else {"rank": best.rank, **best.metrics},
        "folder": str(record.folder),
        "damage": list(record.damage),
    }


def outcome_lines(record: StudyRecord, report: Path, already_complete: bool) -> list[str]:
    """The end of a search in words: its state, its files, and how to go on."""
    name, lines = shlex.quote(record.name), list[str]()
    trials = formats.counted(record.recipe["trials"], "trial")
    if already_complete:
        lines.append(
            f"The study {record.name} is complete: {trials}, "
            f"{formats.counted(len(record.finals), 'final')}. To go on: "
            f"`nasdistill resume {name} --trials N` searches further, "
            f"`nasdistill distill {name} --top-k K` makes more finals, "
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


def weight_lines(weights: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    """Where the weights of each model lie, or come from; none where a space has no models."""
    if not weights:
        return []
    width, lines = max(map(len, weights)), ["pretrained weights:"]
    for model, place in weights.items():
        file, address = place["file"], place["address"]
        where = f"here: {file}" if file else f"to be fetched: {address}"
        if not file and not address:
            where = "missing: the file that the space names is not there"
        lines.append(f"  {model:{width}}  {where}")
    return lines


def cut_lines(made: MadeSpace) -> list[str]:
    """What a space cuts from a net: from how many channels or blocks to how many."""
    lines = ["what is kept, of channels or blocks of the whole net:"]
    width = max(len(axis.name) for axis in made.axes)
    for axis in made.axes:
        others = f" and {len(axis.layers) - 1} more" if len(axis.layers) > 1 else ""
        kept = f"{axis.least:,} to {axis.most:,} of {axis.whole:,}"
        lines.append(f"  {axis.name:{width}}  {kept}  ({axis.layers[0]}{others})")
    lines += [f"  left whole: {name} ({reason})" for name, reason in made.left_whole.items()]
    return lines


def profile_lines(figures: Mapping[str, Any]) -> list[str]:
    """A profile in four lines; a file has inputs where a net has multiply-adds."""
    latency, params = figures["latency"], figures["params"]
    if "macs" in figures:
        second = f"multiply-adds  {figures['macs']:,} an image"
    else:
        shapes = (f"{n} {'x'.join(map(str, sizes))}" for n, sizes in figures["inputs"].items())
        second = f"inputs         {', '.join(shapes)}"
    return [
        f"parameters     {formats.NONE if params is None else f'{params:,}'}",
        second,
        f"bytes          {figures['bytes']:,}",
        f"latency        {latency['median_ms']:.3f} ms median, quartiles "
        f"{latency['q1_ms']:.3f} to {latency['q3_ms']:.3f} ms ({latency['engine']}, batch "
        f"{latency['batch']}, {formats.counted(latency['threads'], 'thread')})",
    ]


def tune_table(points: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> Table:
    """The points of a grid, best marked."""
    names = [name for name in points[0] if name not in ("accuracy", "low", "high")]
    title = "On the score half of the validation split (* best)"
    table = Table("", *names, "accuracy", "95 % interval", title=title)
    for point in points:
        values = [f"{point[name]:g}" for name in names]
        bounds = f"{point['low']:.3f}–{point['high']:.3f}"
        mark = "*" if point == best else ""
        table.add_row(mark, *values, f"{point['accuracy']:.4f}", bounds)
    return table


def tune_lines(best: Mapping[str, Any], picture: Path) -> list[str]:
    """The best point as flags of a search, and the picture's file."""
    flags = " ".join(
        f"--{name} {best[name]:g}" for name in ("temperature", "alpha") if name in best
    )
    return [
        f"To search with it: nasdistill search {flags}",
        "Points whose intervals overlap cannot be told apart by one run each.",
        f"Picture: {picture}",
    ]


def audit_table(audit: Audit) -> Table:
    """The agreement of each figure's order with that after full distillation."""
    title = f"Against full distillation of {len(audit.numbers)} trials (95 % intervals)"
    table = Table("figure", "trials", "Kendall τ", "Spearman ρ", "ρ given MACs", title=title)
    for row in (*audit.scored, *audit.rivals):
        table.add_row(
            row.name,
            str(row.count),
            _correlation(row.kendall, row.kendall_interval),
            _correlation(row.spearman, row.spearman_interval),
            _correlation(row.partial, None),
        )
    return table


def _correlation(value: float | None, interval: tuple[float, float] | None) -> str:
    bounds = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return formats.NONE if value is None else f"{value:.2f}{bounds}"
