"""How an evaluation looks in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from nasdistill.analysis.evaluation import findings, points


def quality_tables(quality: Mapping[str, Any]) -> list[Table]:
    """An evaluation as tables: in all, by class, under corruption, confusions."""
    tables = [_overall(quality), _by_class(quality["per_class"]), _corrupted(quality["robustness"])]
    if quality["bias"]["confusions"]:
        tables.append(_confused(quality["bias"]["confusions"]))
    return tables


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", padding=(0, 1))
    for name in columns:
        table.add_column(name)
    return table


def _overall(quality: Mapping[str, Any]) -> Table:
    agreed, calibration = quality["agreement"], quality["calibration"]
    title = f"{quality['examples']:,} examples of {quality['data']}, {quality['split']} split"
    table = _table(title, "", "student", "teacher")
    both = ("student", "teacher")
    drop, spread = quality["robustness"]["mean_drop"], quality["bias"]["spread"]
    table.add_row("accuracy", *(_bounded(quality["accuracy"][each]) for each in both))
    table.add_row("calibration error", *(_percent(calibration[each]["ece"]) for each in both))
    sure = [calibration[each]["overconfidence"] for each in both]
    table.add_row("confidence − accuracy", *("–" if x is None else points(x) for x in sure))
    table.add_row("lost under noise and blur", *(_percent(drop[each]) for each in both))
    table.add_row("best − worst class", *(_percent(spread[each]["range"]) for each in both))
    table.add_row("deviation", *(_percent(spread[each]["deviation"]) for each in both))
    table.add_section()
    table.add_row("agreement", _percent(agreed["all"]), "")
    for which in ("right", "wrong"):
        count = f"{agreed[f'teacher_{which}_examples']:,} examples"
        table.add_row(
            f"  where the teacher is {which}", _percent(agreed[f"teacher_{which}"]), count
        )
    relations = quality["class_relations"]
    table.add_row("class relations kept", _percent(relations["preservation"]), "")
    for pair in relations["worst_pairs"][:3]:
        name = Text(f"  {' / '.join(pair['classes'])}")
        table.add_row(name, _percent(pair["preserved"]), "")
    return table


def _by_class(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("By class (p: of the difference)", "class", "student", "teacher", "points", "p")
    for row in sorted(rows, key=lambda row: row["difference"] or 0.0):
        change = "–" if row["difference"] is None else f"{100 * row['difference']:+.1f}"
        sides = (_bounded(row["student"]), _bounded(row["teacher"]))
        table.add_row(Text(row["class"]), *sides, change, f"{row['p']:.2g}")
    return table


def _corrupted(robustness: Mapping[str, Any]) -> Table:
    title = f"Under noise and blur, {robustness['examples']:,} examples (share of the clean)"
    table = _table(title, "", "severity", "student", "teacher", "agreement")
    clean = robustness["clean"]
    table.add_row("clean", "", _percent(clean["student"]), _percent(clean["teacher"]), "")
    for row in robustness["rows"]:
        sides = [
            f"{_percent(row[m])} ({_percent(row['retention'][m])})" for m in ("student", "teacher")
        ]
        table.add_row(row["kind"], f"{row['severity']:g}", *sides, _percent(row["agreement"]))
    return table


def _confused(rows: Sequence[Mapping[str, Any]], most: int = 12) -> Table:
    more = f"; {len(rows) - most} more with --json" if len(rows) > most else ""
    table = _table(
        f"Confusions, share of the class{more}", "class", "taken for", "student", "teacher", "", "p"
    )
    ranked = sorted(rows, key=lambda row: (row["verdict"] == "inherited", row["p"]))
    for row in ranked[:most]:
        style = {"worsened": "red", "mended": "green"}.get(row["verdict"], "")
        table.add_row(
            Text(row["true"]),
            Text(row["answered"]),
            _percent(row["student"]),
            _percent(row["teacher"]),
            Text(row["verdict"], style),
            f"{row['p']:.2g}",
        )
    return table


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """What an evaluation found, in sentences, and where it is kept."""
    lines = findings(quality)
    if quality["file"]:
        study = quality["final"].split("/")[0]
        lines.append(f"Written: {quality['file']}; `nasdistill report {study}` shows it")
    else:
        lines.append("Not written: quality.json is for the study's own test split")
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _bounded(share: Mapping[str, float]) -> str:
    low, high = share["low"], share["high"]
    return f"{_percent(share['value'])} ({100 * low:.1f}–{100 * high:.1f})"
