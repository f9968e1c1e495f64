"""The page of an audit."""

from __future__ import annotations

import dataclasses
import re
from html import unescape
from pathlib import Path

import pytest
from reported_study import NASTY, drawn_in_chromium, embedded, own_text

from nasdistill.analysis.audit import Agreement, Audit
from nasdistill.report.audit import audit_info, plot_audit, write_audit
from nasdistill.results import StudyRecord


def audit_of(record: StudyRecord) -> Audit:
    """An audit of the first eight trials that were scored."""
    trials = [c for c in record.candidates if c.state in ("complete", "stopped")][:8]
    return Audit(
        numbers=tuple(trial.number for trial in trials),
        chosen=(*(trial.number for trial in trials), 30),
        full=tuple(0.8 + 0.01 * i for i in range(8)),
        again=((0.8, 0.81), (0.82, 0.83)),
        scores=tuple(trial.score or 0.0 for trial in trials),
        scored=(Agreement("last score", 8, 0.7, (0.3, 0.9), 0.8, None, 0.4),),
        rivals=(Agreement("MACs", 8, 0.3, None, None, None, None),),
        ahead=(0.1, 0.3),
        noise=0.004,
        ceiling=0.88,
        recall=0.5,
        lost=-0.012,
        spent={"search": 120_000, "audit": 900_000, "everything": 4_000_000},
        failed={30: f"out of memory {NASTY}"},
    )


def shown(record: StudyRecord, audit: Audit, folder: Path) -> str:
    write_audit(record, audit, folder / "out" / "index.html")
    text = own_text((folder / "out" / "index.html").read_text("utf-8"))
    assert "<script>alert" not in text
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def test_trials_are_sorted_by_state(record: StudyRecord) -> None:
    audit = audit_of(record)
    trials = audit_info(record, audit).trials
    states = {c.number: c.state for c in record.candidates}
    assert list(trials) == ["stopped", "complete"]
    assert all(states[t.number] == state for state, rows in trials.items() for t in rows)
    assert sum(map(len, trials.values())) == 8
    drawn = plot_audit(audit_info(record, audit)).data
    assert [trace.name for trace in drawn] == ["stopped early", "complete"]
    assert list(drawn[1].y) == pytest.approx([100 * trial.full for trial in trials["complete"]])


def test_page_says_what_matters(record: StudyRecord, tmp_path: Path) -> None:
    audit = audit_of(record)
    text = shown(record, audit, tmp_path)
    for expected in (
        "8 of 9 chosen trials distilled in full, 2 of them with a second seed; 1 failed: trial 30",
        "last score 8 0.70 0.30 to 0.90 0.80 – 0.40",
        "standard deviation of 0.40 points, from 2 pairs",
        "Of the best tenth, scores name 50 %",
        "ends 1.2 points below its best complete one: stopping lost no accuracy here",
        "Trials trained on 120k examples",
        "would take 4M (33.3 times as many). The audit itself took 900k",
    ):
        assert expected in text, expected


def test_page_without_repeats_or_losses(record: StudyRecord, tmp_path: Path) -> None:
    audit = dataclasses.replace(audit_of(record), again=(), noise=None, ceiling=None, recall=None)
    text = shown(record, dataclasses.replace(audit, lost=0.012), tmp_path)
    assert "Without second seeds the ceiling" in text and "best tenth" not in text
    assert "ends 1.2 points above its best complete one: stopping lost it" in text
    text = shown(record, dataclasses.replace(audit, lost=None), tmp_path)
    assert "no stopped or no complete trial" in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_chromium_draws_the_figure(record: StudyRecord, tmp_path: Path, theme: str) -> None:
    write_audit(record, audit_of(record), tmp_path / "out" / "index.html")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert set(embedded(page)) == {"audit"}
    drawn_in_chromium(page, tmp_path, theme)
