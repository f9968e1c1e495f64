"""The terminal's display of an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from nasdistill.analysis.evaluation import findings, points
from nasdistill.common import formats

MODELS = ("student", "teacher")


def quality_tables(quality: Mapping[str, Any]) -> list[Table]:
    """An evaluation as tables: in all, by class, under corruption, confusions."""
    tables = [_overall(quality), _by_class(quality["per_class"]), _corrupted(quality["robustness"])]
    if quality["bias"]["confusions"]:
        tables.append(_confusions(quality["bias"]["confusions"]))
    return tables


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", padding=(0, 1))


def _overall(quality: Mapping[str, Any]) -> Table:
    agreement, calibration = quality["agreement"], quality["calibration"]
    count_text = formats.counted(quality["examples"], "example")
    which = "all" if quality["split"] == "all" else f"{quality['split']} split"
    title = f"{count_text} of {quality['data']}, {which}"
    table = _table(title, "", *MODELS)
    drop, spread = quality["robustness"]["mean_drop"], quality["bias"]["spread"]
    surplus = [calibration[model]["overconfidence"] for model in MODELS]
    percent = formats.percent
    table.add_row("accuracy", *(_with_interval(quality["accuracy"][m]) for m in MODELS))
    if "balanced_accuracy" in quality:  # not in evaluations by earlier releases
        balanced = quality["balanced_accuracy"]
        table.add_row("balanced accuracy", *(_with_interval(balanced[m]) for m in MODELS))
        table.add_row("share of the largest class", percent(quality["majority"]), "")
    table.add_row("calibration error", *(percent(calibration[m]["ece"]) for m in MODELS))
    table.add_row(
        "confidence − accuracy", *(formats.NONE if x is None else points(x) for x in surplus)
    )
    table.add_row("lost under noise and blur", *(percent(drop[m]) for m in MODELS))
    table.add_row("best − worst class", *(percent(spread[m]["range"]) for m in MODELS))
    table.add_row("deviation", *(percent(spread[m]["deviation"]) for m in MODELS))
    table.add_section()
    table.add_row("agreement", percent(agreement["all"]), "")
    for case in ("right", "wrong"):
        share, examples = agreement[f"teacher_{case}"], agreement[f"teacher_{case}_examples"]
        table.add_row(
            f"  where the teacher is {case}", percent(share), formats.counted(examples, "example")
        )
    relations = quality["class_relations"]
    table.add_row("class relations kept", percent(relations["preservation"]), "")
    for pair in relations["worst_pairs"][:3]:
        table.add_row(Text(f"  {' / '.join(pair['classes'])}"), percent(pair["preserved"]), "")
    return table


def _by_class(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("By class (p: of the difference)", "class", *MODELS, "points", "p")
    for row in sorted(rows, key=lambda row: row["difference"] or 0.0):
        if not row["examples"]:
            table.add_row(Text(row["class"]), "no examples", "no examples", "", "")
            continue
        change = f"{100 * row['difference']:+.1f}"
        accuracies = (_with_interval(row[model]) for model in MODELS)
        table.add_row(Text(row["class"]), *accuracies, change, f"{row['p']:.2g}")
    return table


def _corrupted(robustness: Mapping[str, Any]) -> Table:
    count_text = formats.counted(robustness["examples"], "example")
    title = f"Under noise and blur, {count_text} (share of the clean)"
    table = _table(title, "", "severity", *MODELS, "agreement")
    clean, percent = robustness["clean"], formats.percent
    table.add_row("clean", "", percent(clean["student"]), percent(clean["teacher"]), "")
    for row in robustness["rows"]:
        accuracies = (f"{percent(row[m])} ({percent(row['retention'][m])})" for m in MODELS)
        severity = f"{row['severity']:g}"
        table.add_row(row["kind"], severity, *accuracies, percent(row["agreement"]))
    return table


def _confusions(rows: Sequence[Mapping[str, Any]], max_rows: int = 12) -> Table:
    more = f"; {len(rows) - max_rows} more with --json" if len(rows) > max_rows else ""
    title = f"Confusions, share of the class{more}"
    table = _table(title, "class", "taken for", *MODELS, "", "p")
    ranked = sorted(rows, key=lambda row: (row["verdict"] == "inherited", row["p"]))
    for row in ranked[:max_rows]:
        style = {"worsened": "red", "mended": "green"}.get(row["verdict"], "")
        table.add_row(
            Text(row["true"]),
            Text(row["answered"]),
            *(formats.percent(row[model]) for model in MODELS),
            Text(row["verdict"], style),
            f"{row['p']:.2g}",
        )
    return table


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """The findings of an evaluation in sentences, and its file."""
    lines = findings(quality)
    if quality["file"]:
        study = shlex.quote(quality["final"].split("/")[0])
        lines.append(f"Written: {quality['file']}; `nasdistill report {study}` shows it")
    else:
        lines.append("Not written: quality.json is for the study's own test split")
    return lines


def _with_interval(share: Mapping[str, float]) -> str:
    low, high = share["low"], share["high"]
    return f"{formats.percent(share['value'])} ({100 * low:.1f}–{100 * high:.1f})"
