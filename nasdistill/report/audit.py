"""The page of an audit: how far the short scores of a study can be trusted."""

from __future__ import annotations

from html import escape
from pathlib import Path

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.audit import Agreement, Audit, verdict
from nasdistill.common.files import write_whole
from nasdistill.report import text
from nasdistill.report.document import document, figure_box, section
from nasdistill.report.style import ROLES, SYMBOLS, figure_base
from nasdistill.results import StudyRecord


def write_audit(record: StudyRecord, audit: Audit, path: Path) -> None:
    """Writes the page as one HTML file that needs no network.

    Args:
        record: The audited study.
        audit: What was found.
        path: Where the file goes, e.g. `reports/<study>/audit.html`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render_audit(record, audit))


def render_audit(record: StudyRecord, audit: Audit) -> str:
    """The page's HTML."""
    figure = plot_audit(record, audit)
    summary = (
        f"{len(audit.numbers)} of {len(audit.chosen)} chosen trials distilled in full, "
        f"{len(audit.again)} of them with a second seed"
    )
    if audit.failed:
        summary += f"; {len(audit.failed)} failed: " + "; ".join(
            f"trial {number}, {reason}" for number, reason in audit.failed.items()
        )
    summary = f'{escape(summary)} · <a href="index.html">the study’s report</a>'
    sections = [_scatter(figure), _order(audit), _stopping(audit), _cost(audit)]
    head = f'<p class="verdict">{escape(verdict(audit))}</p>'
    return document(f"{record.name}: audit", summary, head, sections, {"audit": {"": figure}})


def plot_audit(record: StudyRecord, audit: Audit) -> go.Figure:
    """Full accuracy over the last short score, by how the trial ended."""
    states = {c.number: c.state for c in record.candidates}
    figure = figure_base(height=420)
    for state in ("stopped", "complete"):
        rows = [
            (number, score, full)
            for number, score, full in zip(audit.numbers, audit.scores, audit.full, strict=True)
            if states[number] == state
        ]
        if rows:
            figure.add_scatter(
                x=[100 * score for _, score, _ in rows],
                y=[100 * full for _, _, full in rows],
                text=[f"trial {number}" for number, _, _ in rows],
                mode="markers",
                meta=state,
                hovertemplate="%{text}<br>score %{x:.1f} %<br>in full %{y:.1f} %<extra></extra>",
                name={"stopped": "stopped early"}.get(state, state),
                marker={"size": 10, "symbol": SYMBOLS[state], "color": ROLES[state]},
            )
    figure.update_xaxes(title_text="last score in the search (%)")
    figure.update_yaxes(title_text="after full distillation, audit half (%)")
    return figure


def _scatter(figure: go.Figure) -> str:
    note = (
        "Each point is a trial that was drawn before anything was trained in full, in proportion "
        "from those that ended at each rung. Scores of stopped trials are of shorter runs."
    )
    return section("Score against full distillation", figure_box("audit", figure), note)


def _order(audit: Audit) -> str:
    rows = "".join(_row(row) for row in (*audit.scored, *audit.rivals))
    table = (
        '<div class="scroll"><table><thead><tr><th>figure</th><th>trials</th><th>Kendall τ</th>'
        "<th>95 % interval</th><th>Spearman ρ</th><th>95 % interval</th><th>ρ given MACs</th>"
        "</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
    said = []
    if audit.ceiling is not None and audit.noise is not None:
        said.append(
            f"Full accuracy varies with the seed by a standard deviation of "
            f"{100 * audit.noise:.2f} points, from {text.counted(len(audit.again), 'pair')}: two "
            f"full runs of each trial would agree by about τ {audit.ceiling:.2f}, and no short "
            "score can be expected to do better. A second seed draws other weights; order and "
            "views of the examples stay."
        )
    else:
        said.append("Without second seeds the ceiling that seeds allow is not known (--repeats).")
    if audit.recall is not None:
        said.append(f"Of the best tenth, scores name {text.percent(audit.recall, 0)}.")
    lines = "".join(f"<p>{line}</p>" for line in said)
    note = (
        "How well the order by each figure agrees with the order after full distillation; 1 is the "
        "same order, 0 none. Higher rungs hold only trials that were good enough to get there, "
        "which makes agreement harder. Intervals are by bootstrap over trials."
    )
    return section("Order", table + lines, note)


def _row(row: Agreement) -> str:
    def number(value: float | None) -> str:
        return text.NONE if value is None else f"{value:.2f}"

    def bounds(found: tuple[float, float] | None) -> str:
        return text.NONE if found is None else f"{found[0]:.2f} to {found[1]:.2f}"

    cells = (
        row.name,
        str(row.count),
        number(row.kendall),
        bounds(row.kendall_interval),
        number(row.spearman),
        bounds(row.spearman_interval),
        number(row.partial),
    )
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _stopping(audit: Audit) -> str:
    if audit.lost is None:
        said = "The sample holds no stopped or no complete trial: nothing to compare."
    elif audit.lost > 0:
        said = (
            f"The best stopped trial of the sample ends {100 * audit.lost:.1f} points above its "
            "best complete one: stopping lost it."
        )
    else:
        said = (
            f"The best stopped trial of the sample ends {100 * abs(audit.lost):.1f} points below "
            "its best complete one: stopping lost no accuracy here."
        )
    return section("What stopping lost", f"<p>{said}</p>")


def _cost(audit: Audit) -> str:
    search, everything = audit.spent["search"], audit.spent["everything"]
    said = (
        f"Trials trained on {text.count(search)} examples; distilling each of them in full would "
        f"take {text.count(everything)} ({everything / max(1, search):.1f} times as many). The "
        f"audit itself took {text.count(audit.spent['audit'])}."
    )
    return section("What was spent", f"<p>{said}</p>")
