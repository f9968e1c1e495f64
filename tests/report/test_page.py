"""The report: what its figures show, that it stands alone, and that a browser draws it."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from reported_study import BUDGETS, drawn_in_chromium, embedded, own_text, switched_in_chromium

from nasdistill.common.errors import UserError
from nasdistill.report import (
    figures,
    progress,
    shipped,
    statistics,
    tables,
    text,
    write_report,
)
from nasdistill.results import Candidate, StudyRecord


def test_trade_off_places_every_trial_and_the_front_is_not_beaten(record: StudyRecord) -> None:
    info = figures.trade_off_info(record, "params")
    for state in ("complete", "stopped", "rejected", "failed"):
        expected = {c.number for c in record.candidates if c.state == state}
        assert {point.number for point in info.groups[state]} == expected
    assert [p.number for p in info.groups["recommended"]] == [record.finals[0].number]
    assert [p.number for p in info.groups["broken"]] == [record.finals[1].number]
    assert info.groups["teacher"][0][1:3] == (1_050_000, 0.922)
    for point in info.front:
        assert not any(
            o.x <= point.x and (o.y or 0) > (point.y or 0) for o in info.groups["complete"]
        )
    assert (info.cost_limit, info.accuracy_limit) == (100_000, 0.83)
    drawn = {trace.name: trace for trace in figures.plot_trade_off(info).data}
    trial = record.candidates[drawn["complete"].customdata[0]]
    assert drawn["complete"].x[0] == trial.params
    assert drawn["complete"].y[0] == pytest.approx(100 * (trial.score or 0))
    assert drawn["rejected"].yaxis == "y2"


def unevenly_tested(record: StudyRecord, score: str) -> StudyRecord:
    """The record, its finals tested on 97 : 3 and without examples of one class."""
    more = {
        "score": score,
        "test_balanced_accuracy": 0.612,
        "test_balanced_interval": [0.55, 0.68],
        "teacher_test_balanced_accuracy": 0.655,
        "majority": {"class": "ok <1>", "share": 0.97, "even": 0.5},
        "untested_classes": ["rust", "<dent>"],
    }
    finals = [dataclasses.replace(f, metrics={**f.metrics, **more}) for f in record.finals]
    return dataclasses.replace(record, finals=finals, recipe={**record.recipe, "score": score})


def test_what_accuracy_hides_in_uneven_classes_stands_beside_it(record: StudyRecord) -> None:
    assert "balanced" not in tables.finals_table(record), "finals of an earlier release"
    shown = unescape(tables.finals_table(unevenly_tested(record, "accuracy")))
    assert "balanced accuracy (mean over classes)</th><td>61.2 %<br><small>55.0–68.0 %" in shown
    assert "<td class=teacher>65.5 %" in shown
    assert "always answering 'ok <1>'</th><td>97.0 %<br><small>balanced 50.0 %" in shown
    assert "without test examples</th><td>rust, <dent>" in shown
    assert "test accuracy" in tables.verdict(unevenly_tested(record, "accuracy"))


def test_a_balanced_score_is_compared_with_balanced_figures(record: StudyRecord) -> None:
    balanced = unevenly_tested(record, "balanced-accuracy")
    info = figures.trade_off_info(balanced, "params")
    recommended = info.groups["recommended"][0]
    assert (recommended.y, recommended.low, recommended.high) == (0.612, 0.55, 0.68)
    assert "balanced test accuracy 61.2 %" in recommended.label
    assert info.groups["teacher"][0].y == 0.655
    assert figures.plot_trade_off(info).layout.yaxis.title.text == "balanced accuracy (%)"
    assert progress.trust_info(balanced).finals == (0.612,) * 3
    assert "balanced test accuracy</span><b>61.2 %" in tables.verdict(balanced)
    assert "balanced audit accuracy: 90.5 %" in tables.finals_table(balanced)
    kept = "retention of balanced accuracy"  # 0.612 of 0.655
    assert f"{kept} (student ÷ teacher)</th><td>93.4 %" in tables.finals_table(balanced)
    assert f"{kept}</span><b>93.4 %</b><small>of the teacher&#x27;s 65.5 %" in tables.verdict(
        balanced
    )
    plain = unevenly_tested(record, "accuracy")
    assert "retention (student ÷ teacher)</th><td>98.9 %" in tables.finals_table(plain)


def test_latency_of_finals_and_teacher_is_what_was_measured_side_by_side(
    record: StudyRecord,
) -> None:
    info = figures.trade_off_info(record, "latency")
    assert info.groups["recommended"][0].x == 0.31
    assert info.groups["teacher"][0].x == 1.24
    assert "rejected" not in info.groups and info.unplaced > 0


def test_lines_of_stopped_trials_end_at_their_rung(record: StudyRecord) -> None:
    info = progress.rungs_info(record)
    ends = {line.number: line.rungs[-1] for lines in info.lines.values() for line in lines}
    for trial in record.candidates:
        assert ends.get(trial.number) == (trial.rungs[-1].rung if trial.rungs else None)
    assert info.budgets == BUDGETS
    assert {trace.name for trace in progress.plot_rungs(info).data} >= {"stopped", "complete"}


def test_trust_needs_three_finals(record: StudyRecord) -> None:
    info = progress.trust_info(record)
    assert info.finals == (0.912, 0.905, 0.89)
    assert info.spearman == pytest.approx(1) and info.kendall == pytest.approx(1)
    few = progress.trust_info(dataclasses.replace(record, finals=record.finals[:2]))
    assert few.spearman is None and few.kendall is None


def test_bars_hold_stages_and_savings(record: StudyRecord) -> None:
    assert progress.stages_info(record).values == tuple(record.stages.values())
    saved = progress.savings_info(record)
    # 17 trials scored at all three rungs, 5 at two, 4 at one; each cool-down is 40 % of its budget.
    trained = 17 * (5400 + 400 + 1200 + 3600) + 5 * (1800 + 400 + 1200) + 4 * 1000
    assert saved.names == ("trained", "saved by stopping", "saved by cache", "saved by gates")
    assert saved.values == (trained, 61_000, 140_000, 36_000)
    assert list(progress.plot_bars(saved).data[0].x) == list(saved.values)


def test_statistics_against_figures_worked_by_hand() -> None:
    assert statistics.front_of_two([3, 1, 2, 2], [0.9, 0.5, 0.4, 0.7]) == [1, 3, 0]
    ratio = statistics.correlation_ratio(["a", "a", "b", "b"], [1.0, 2.0, 3.0, 4.0])
    assert ratio is not None and ratio.share == pytest.approx(0.8)
    assert ratio.chance == pytest.approx(1 / 3)
    assert statistics.correlation_ratio(["a", "a"], [1.0, 2.0]) is None
    by_tercile = statistics.correlation_ratio([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 2])
    assert by_tercile is not None and by_tercile[0] == pytest.approx(1) and by_tercile.groups == 3


def test_parameters_that_matter_come_first_and_rare_ones_are_left_out(record: StudyRecord) -> None:
    info = progress.parameters_info(record)
    assert next(iter(info.ratios)) == "stem"
    assert all(ratio.trials >= 8 for ratio in info.ratios.values())
    few = dataclasses.replace(record, candidates=record.candidates[:6], finals=[])
    assert progress.parameters_info(few).ratios == {}


def test_text_of_costs_and_architectures() -> None:
    values = {"stem": 8, "stages": [{"block": {"type": "mbconv", "expansion": 3}, "width": [1, 2]}]}
    tree = {"family": "mobile", "values": values | {"head": {"width": 64}}}
    lines = text.architecture(tree)
    assert lines == [
        "mobile, stem 8",
        "stages.0: block mbconv, expansion 3, width [1, 2]",
        "head: width 64",
    ]
    assert text.architecture(tree, lines=2) == ["mobile, stem 8", "… and 2 more"]
    assert text.architecture(tree, width=8)[0] == "mobile,…"
    candidate = Candidate(0, "complete", tree, "0" * 16, {}, params=81_234, latency=0.31)
    assert text.costs(candidate) == "81.2k params · 0.31 ms"
    assert text.costs(dataclasses.replace(candidate, params=None, latency=None)) == "costs unknown"


def test_page_loads_nothing(page: str) -> None:
    assert not re.search(r"<(link|img|iframe|object|embed|base|form)\b", own_text(page), re.I)
    assert not re.search(r"""\b(src|href|action)\s*=""", own_text(page), re.I)
    assert "@import" not in page.split("</style>")[0] and "url(" not in page.split("</style>")[0]
    assert "default-src 'none'" in page


def test_page_escapes_everything(page: str) -> None:
    assert page.count("<script") - page.count("<script>alert") == 3 + page.count("'<script")
    assert "<script>alert" not in own_text(page) and "<b>bold" not in own_text(page)
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert set(embedded(page)) == {"trade-off", "rungs", "trust", "stages", "savings", "parameters"}
    assert "<script" not in json.dumps(embedded(page))
    assert "${danger} $title" in unescape(own_text(page))


def test_page_says_what_matters(page: str) -> None:
    shown = unescape(re.sub(r"<[^>]+>", " ", own_text(page)))
    for expected in (
        "Final 1, from trial",
        "91.2 %",
        "90.4–92.0 %",
        "13.1× smaller",
        "4× faster",
        "Meets its limits",
        "✓ params: 92.2k ≤ 100k",
        "✓ audit accuracy: 90.5 % ≥ 83.0 %",
        "✗ breaks latency: 0.31 ms > 0.3 ms",
        "not trained",
        "+1.2 points",
        "0.31 [0.294–0.341] ms",
        "batch 64",
        "onnxruntime, 1 thread",
        "Spearman 1.00",
        "n = 3",
        "best on validation",
        "3.1e-06",
        "eta squared",
        "torch 2.11.0",
        "--space mobile",
    ):
        assert expected in re.sub(r"\s+", " ", shown), expected


def test_a_final_that_breaks_a_limit_is_never_shown_as_meeting_it(
    record: StudyRecord, tmp_path: Path
) -> None:
    worst = dataclasses.replace(
        record.finals[1], metrics={**record.finals[1].metrics, "recommended": True}
    )
    write_report(dataclasses.replace(record, finals=[worst]), tmp_path / "r.html")
    shown = (tmp_path / "r.html").read_text("utf-8")
    assert "Breaks its limits" in shown and "Meets its limits" not in shown
    assert "says nothing" in shown
    info = figures.trade_off_info(dataclasses.replace(record, finals=[worst]), "params")
    assert "broken" in info.groups and "recommended" not in info.groups
    audit = {"accuracy": {"limit": 0.83, "value": 0.82, "ok": False}}
    low = dataclasses.replace(worst, metrics={**worst.metrics, "limits": audit})
    write_report(dataclasses.replace(record, finals=[low]), tmp_path / "r.html")
    assert "✗ breaks audit accuracy: 82.0 % &lt; 83.0 %" in (tmp_path / "r.html").read_text("utf-8")


INT8 = {
    "file": "model-int8.onnx",
    "engine": "onnxruntime 1.31.1",
    "bytes": 100_250,
    "pictures": 5000,
    "largest_difference": 1.9,
    "mean_difference": 0.08,
    "test_accuracy": 0.901,
    "test_interval": [0.893, 0.909],
    "loss_points": 1.1,
    "agreement": 0.987,
    "latency": [],
    "problems": ["loses 1.10 points against fp32; allowed are 0.5"],
    "remarks": {"text": ["calibrated on <b>"]},
}


def with_files(record: StudyRecord, *files: dict[str, Any]) -> StudyRecord:
    """The record, its first finals with these files."""
    finals = list(record.finals)
    for i, of_final in enumerate(files):
        finals[i] = dataclasses.replace(finals[i], metrics={**finals[i].metrics, "files": of_final})
    return dataclasses.replace(record, finals=finals)


def test_files_that_ship_and_what_is_wrong_with_them(record: StudyRecord, tmp_path: Path) -> None:
    failed = {"failed": "onnx-fp16: no <operator>"}
    ships = with_files(record, {"onnx-int8": INT8, "onnx-fp16": failed})
    write_report(ships, tmp_path / "index.html")
    html = (tmp_path / "index.html").read_text()
    assert "What ships" in html and "<td>25 %</td>" in html and "1.10 points" in html
    assert '<span class="bad">✗ loses 1.10 points against fp32; allowed are 0.5</span>' in html
    assert '<span class="bad">onnx-fp16: no &lt;operator&gt;</span>' in html
    assert "calibrated on &lt;b&gt;" in html
    assert 'data-ships="onnx-int8"' in html and 'data-ships="onnx-fp16"' not in html
    write_report(record, tmp_path / "none.html")
    page = (tmp_path / "none.html").read_text()
    assert "What ships" not in page and 'data-ships="' not in page


def two_shipped(record: StudyRecord) -> StudyRecord:
    """The record: an int8 file that loses, one that is well, and a final without."""
    single = {"batch": 1, "threads": 1, "fp32_ms": 0.31}
    single |= {"median_ms": 0.2, "q1_ms": 0.19, "q3_ms": 0.22}
    well = {**INT8, "latency": [single], "bytes": 90_000, "test_accuracy": 0.904, "problems": []}
    return with_files(record, {"onnx-int8": INT8}, {"onnx-int8": well, "onnx-fp16": well})


def test_shipped_files_take_the_place_of_their_finals(record: StudyRecord) -> None:
    ships = two_shipped(record)
    assert shipped.shipped_formats(ships) == ["onnx-int8", "onnx-fp16"]
    info = shipped.shipped_info(ships, "bytes", "onnx-int8")
    first, second, third = (final.number for final in record.finals)
    [broken], [well], [hollow] = (info.groups[r] for r in ("broken", "final", "unshipped"))
    assert (broken.number, broken.x, broken.y, broken.low) == (first, 100_250, 0.901, 0.893)
    assert "loses 1.10 points against fp32" in broken.label and "0.2 ms" in well.label
    assert (well.number, well.x, well.y) == (second, 90_000, 0.904)
    bytes_of = {c.number: c.bytes for c in record.candidates}
    assert (hollow.number, hollow.x, hollow.y) == (third, bytes_of[third], 0.89)
    assert [point.number for point in info.shipped_front] == [second]
    fp32 = figures.trade_off_info(ships, "bytes")
    assert info.front == fp32.front and info.groups["complete"] == fp32.groups["complete"]
    drawn = {trace.name: trace for trace in figures.plot_trade_off(info).data}
    assert drawn["final without onnx-int8 figures, as fp32"].marker.symbol == "square-open"
    assert drawn["front of onnx-int8"].x == (90_000,)


def test_latency_of_a_file_that_was_not_measured_there_is_that_of_fp32(record: StudyRecord) -> None:
    ships = two_shipped(record)
    info = shipped.shipped_info(ships, "latency", "onnx-int8")
    assert [p.x for p in info.groups["final"]] == [0.2]
    assert [p.x for p in info.groups["unshipped"]][0] == 0.31  # its file has no latency
    board = [{"model": "student", "engine": "command:board", "batch": 1, "median_ms": 9.0}]
    finals = [dataclasses.replace(f, metrics={**f.metrics, "latency": board}) for f in ships.finals]
    info = shipped.shipped_info(dataclasses.replace(ships, finals=finals), "latency", "onnx-int8")
    assert [p.x for p in info.groups["unshipped"]] == [9.0] * 3 and not info.shipped_front


def test_study_in_progress_has_a_report(record: StudyRecord, tmp_path: Path) -> None:
    few = [c for c in record.candidates if c.state in ("rejected", "stopped")][:3]
    write_report(
        dataclasses.replace(record, state="searching", candidates=few, finals=[], savings={}),
        tmp_path / "r.html",
    )
    assert "No finals yet" in (tmp_path / "r.html").read_text("utf-8")
    only = Candidate(0, "running", {"family": "mlp", "values": {}}, "0" * 16, {})
    bare = dataclasses.replace(
        record,
        candidates=[only],
        finals=[],
        stages={},
        savings={},
        teacher={},
        data={},
        recipe={},
        limits={},
        rungs=(),
    )
    write_report(bare, tmp_path / "r.html")
    assert "no trial is complete" in (tmp_path / "r.html").read_text("utf-8")


def test_empty_study_is_an_error_and_leaves_the_old_report(
    record: StudyRecord, tmp_path: Path
) -> None:
    target = tmp_path / "index.html"
    target.write_text("old")
    with pytest.raises(UserError, match="has no trials yet"):
        write_report(dataclasses.replace(record, candidates=[], finals=[]), target)
    assert target.read_text() == "old"


def test_report_imports_neither_torch_nor_optuna() -> None:
    code = "import nasdistill.report, sys; print({'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_chromium_draws_every_figure(page: str, tmp_path: Path, theme: str) -> None:
    drawn_in_chromium(page, tmp_path, theme)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_chromium_switches_to_what_ships_and_back(
    record: StudyRecord, tmp_path: Path, theme: str
) -> None:
    write_report(two_shipped(record), tmp_path / "out" / "index.html")
    pressed = ["[data-cost=bytes]", "[data-ships=onnx-int8]", '[data-ships=""]']
    before, by_bytes, int8, back = switched_in_chromium(tmp_path, theme, pressed)
    assert before["front"] and by_bytes == back
    assert int8["onnx-int8 file"] == [[90_000, 90.4]]
    assert int8["onnx-int8 file with something wrong"] == [[100_250, pytest.approx(90.1)]]
    [[x, y]] = int8["final without onnx-int8 figures, as fp32"]
    assert [x, y] in by_bytes["final"] and y == 89
    assert int8["complete"] == by_bytes["complete"] and int8["teacher"] == by_bytes["teacher"]
    assert int8["front of onnx-int8"] == [[90_000, 90.4]] and "recommended final" not in int8
