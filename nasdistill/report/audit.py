"""The page of an audit: how far the short scores of a study can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.audit import Agreement, Audit, verdict
from nasdistill.common import formats
from nasdistill.report.document import (
    Section,
    document,
    figure_box,
    section,
    table,
    text_row,
    write_page,
)
from nasdistill.report.style import NAMES, figure_base, marker
from nasdistill.results import StudyRecord


def write_audit(record: StudyRecord, audit: Audit, path: Path) -> None:
    """Writes the page as one HTML file that needs no network.

    Args:
        record: The audited study.
        audit: Its audit.
        path: The file, e.g. `reports/<study>/audit.html`.
    """
    write_page(path, render_audit(record, audit))


def render_audit(record: StudyRecord, audit: Audit) -> str:
    """The page's HTML."""
    summary = (
        f"{len(audit.numbers)} of {len(audit.chosen)} chosen trials distilled in full, "
        f"{len(audit.again)} of them with a second seed"
    )
    if audit.failed:
        summary += f"; {len(audit.failed)} failed: " + "; ".join(
            f"trial {number}, {reason}" for number, reason in audit.failed.items()
        )
    summary = f'{escape(summary)} · <a href="index.html">the study’s report</a>'
    figure = plot_audit(audit_info(record, audit))
    sections = [_scatter(figure), _order(audit), _stopping(audit), _cost(audit)]
    head = f'<p class="verdict">{escape(verdict(audit))}</p>'
    return document(f"{record.name}: audit", summary, head, sections)


class AuditedTrial(NamedTuple):
    """A trial's last score and its accuracy after full distillation, shares in [0, 1]."""

    number: int
    score: float
    full: float


class AuditInfo(NamedTuple):
    """Audited trials by state: `stopped` and `complete`."""

    trials: Mapping[str, tuple[AuditedTrial, ...]]


def audit_info(record: StudyRecord, audit: Audit) -> AuditInfo:
    """Sorts the audited trials by state; a state without any is left out."""
    state_of = {candidate.number: candidate.state for candidate in record.candidates}
    trials = [
        AuditedTrial(number, score, full)
        for number, score, full in zip(audit.numbers, audit.scores, audit.full, strict=True)
    ]
    by_state = {
        state: tuple(trial for trial in trials if state_of[trial.number] == state)
        for state in ("stopped", "complete")
    }
    return AuditInfo({state: chosen for state, chosen in by_state.items() if chosen})


def plot_audit(info: AuditInfo) -> go.Figure:
    """Draws full accuracy over the last short score."""
    figure = figure_base(height=420)
    for state, trials in info.trials.items():
        figure.add_scatter(
            x=[100 * trial.score for trial in trials],
            y=[100 * trial.full for trial in trials],
            text=[f"trial {trial.number}" for trial in trials],
            mode="markers",
            meta=state,
            hovertemplate="%{text}<br>score %{x:.1f} %<br>in full %{y:.1f} %<extra></extra>",
            name=NAMES[state],
            marker=marker(state, 10),
        )
    figure.update_xaxes(title_text="last score in the search (%)")
    figure.update_yaxes(title_text="after full distillation, audit half (%)")
    return figure


def _scatter(figure: go.Figure) -> Section:
    remark = (
        "Each point is a trial that was drawn before anything was trained in full, in proportion "
        "from those that ended at each rung. Scores of stopped trials are of shorter runs."
    )
    box = figure_box("audit", figure)
    return section("Score against full distillation", box, remark, {"audit": {"": figure}})


def _order(audit: Audit) -> Section:
    titles = (
        "figure",
        "trials",
        "Kendall τ",
        "95 % interval",
        "Spearman ρ",
        "95 % interval",
        "ρ given MACs",
    )
    agreements = table(titles, [_row(row) for row in (*audit.scored, *audit.rivals)])
    sentences = [_ceiling(audit)]
    if audit.recall is not None:
        sentences.append(f"Of the best tenth, scores name {formats.percent(audit.recall, 0)}.")
    lines = "".join(f"<p>{sentence}</p>" for sentence in sentences)
    remark = (
        "How well the order by each figure agrees with the order after full distillation; 1 is the "
        "same order, 0 none. Higher rungs hold only trials that were good enough to get there, "
        "which makes agreement harder. Intervals are by bootstrap over trials."
    )
    return section("Order", agreements + lines, remark)


def _row(row: Agreement) -> str:
    return text_row(
        (
            row.name,
            str(row.count),
            _correlation(row.kendall),
            _bounds(row.kendall_interval),
            _correlation(row.spearman),
            _bounds(row.spearman_interval),
            _correlation(row.partial),
        )
    )


def _correlation(value: float | None) -> str:
    return formats.NONE if value is None else f"{value:.2f}"


def _bounds(interval: tuple[float, float] | None) -> str:
    return formats.NONE if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _ceiling(audit: Audit) -> str:
    """The agreement that two full runs would have."""
    if audit.ceiling is None or audit.noise is None:
        return "Without second seeds the ceiling that seeds allow is not known (--repeats)."
    return (
        f"Full accuracy varies with the seed by a standard deviation of "
        f"{100 * audit.noise:.2f} points, from {formats.counted(len(audit.again), 'pair')}: two "
        f"full runs of each trial would agree by about τ {audit.ceiling:.2f}, and no short "
        "score can be expected to do better. A second seed draws other weights; order and "
        "views of the examples stay."
    )


def _stopping(audit: Audit) -> Section:
    if audit.lost is None:
        sentence = "The sample holds no stopped or no complete trial: nothing to compare."
    elif audit.lost > 0:
        sentence = (
            f"The best stopped trial of the sample ends {100 * audit.lost:.1f} points above its "
            "best complete one: stopping lost it."
        )
    else:
        sentence = (
            f"The best stopped trial of the sample ends {100 * abs(audit.lost):.1f} points below "
            "its best complete one: stopping lost no accuracy here."
        )
    return section("What stopping lost", f"<p>{sentence}</p>")


def _cost(audit: Audit) -> Section:
    search, everything = audit.spent["search"], audit.spent["everything"]
    sentences = (
        f"Trials trained on {formats.count(search)} examples; distilling each of them in full "
        f"would take {formats.count(everything)} ({everything / max(1, search):.1f} times as "
        f"many). The audit itself took {formats.count(audit.spent['audit'])}."
    )
    return section("What was spent", f"<p>{sentences}</p>")
