"""The report's section on the quality of finals."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from reported_study import NASTY, drawn_in_chromium, embedded, own_text

from nasdistill.analysis.evaluation import VERSION, findings
from nasdistill.report import evaluation, write_report
from nasdistill.results import StudyRecord

CLASSES = ("Coat", NASTY, "Shirt $x$")


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.03, "high": value + 0.02}


def quality_of(**changed: Any) -> dict[str, Any]:
    """The content of a quality.json, with some keys changed."""
    per_class = [
        {
            "class": name,
            "examples": 100,
            "student": share(s),
            "teacher": share(t),
            "difference": s - t,
            "p": p,
        }
        for name, s, t, p in zip(
            CLASSES, (0.9, 0.7, 0.8), (0.92, 0.85, 0.78), (0.4, 0.003, 1.0), strict=True
        )
    ]
    rows = [
        {
            "kind": kind,
            "severity": severity,
            "student": s,
            "teacher": s + 0.03,
            "retention": {"student": s / 0.8, "teacher": (s + 0.03) / 0.85},
            "agreement": 0.9,
        }
        for kind, severity, s in (("noise", 0.04, 0.79), ("noise", 0.12, 0.6), ("blur", 0.02, 0.7))
    ]
    calibration = {
        "ece": 0.03,
        "confidence": 0.87,
        "overconfidence": 0.021,
        "bins": [
            {"confidence": 0.3, "accuracy": 0.0, "examples": 2},
            {"confidence": 0.5, "accuracy": 0.4, "examples": 60},
            {"confidence": 0.9, "accuracy": 0.88, "examples": 238},
        ],
    }
    confusions = [
        {
            "true": NASTY,
            "answered": "Coat",
            "verdict": verdict,
            "examples": 100,
            "teacher": t,
            "student": s,
            "both": 0.01,
            "p": p,
        }
        for verdict, s, t, p in (
            ("inherited", 0.1, 0.09, 1.0),
            ("worsened", 0.2, 0.04, 0.002),
            ("mended", 0.0, 0.08, 0.01),
        )
    ]
    return {
        "version": VERSION,
        "data": "x",
        "split": "test",
        "examples": 300,
        "seconds": 1.0,
        "accuracy": {"student": share(0.8), "teacher": share(0.85)},
        "agreement": {
            "all": 0.9,
            "teacher_right": 0.95,
            "teacher_right_examples": 255,
            "teacher_wrong": 0.61,
            "teacher_wrong_examples": 45,
        },
        "per_class": per_class,
        "class_relations": {
            "preservation": 0.9912,
            "worst_pairs": [
                {"classes": ["Coat", NASTY], "preserved": 0.954, "student": 0.9, "teacher": 0.943}
            ],
        },
        "calibration": {
            "student": calibration,
            "teacher": calibration | {"ece": 0.017, "overconfidence": -0.004},
        },
        "robustness": {
            "examples": 250,
            "seed": 0,
            "clean": {"student": 0.8, "teacher": 0.85},
            "rows": rows,
            "mean_drop": {"student": 0.137, "teacher": 0.11},
        },
        "bias": {
            "level": 0.05,
            "mean_loss": 0.05,
            "tested_pairs": 4,
            "confusions": confusions,
            "spread": {
                "student": {"range": 0.2, "deviation": 0.08},
                "teacher": {"range": 0.14, "deviation": 0.06},
            },
            "losing_classes": [{"class": NASTY, "loss": 0.15, "p": 0.003}],
        },
    } | changed


def put(record: StudyRecord, rank: int, content: dict[str, Any]) -> None:
    folder = record.finals[rank - 1].folder
    folder.mkdir(exist_ok=True)
    (folder / "quality.json").write_text(json.dumps(content))


def page_of(record: StudyRecord, folder: Path) -> str:
    write_report(record, folder / "out" / "index.html")
    return (folder / "out" / "index.html").read_text("utf-8")


def section(page: str) -> str:
    return page.split("<h2>Quality of the finals</h2>")[1].split("</section>")[0]


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def test_classes_stand_with_their_intervals_worst_first() -> None:
    info = evaluation.classes_info(quality_of())
    assert info.names == (NASTY, "Coat", "Shirt $x$") and info.left_out == 0
    assert info.shares["student"][0] == (0.7, pytest.approx(0.67), pytest.approx(0.72))
    student = next(t for t in evaluation.plot_classes(info, 3).data if t.name == "student")
    assert list(student.x) == pytest.approx([70, 90, 80])
    assert list(student.error_x.array) == pytest.approx([2, 2, 2])
    assert list(student.error_x.arrayminus) == pytest.approx([3, 3, 3])


def test_of_many_classes_those_that_change_most_are_shown() -> None:
    row = quality_of()["per_class"][0]
    many = [row | {"class": str(i), "difference": (i - 50) / 1000} for i in range(100)]
    info = evaluation.classes_info(
        quality_of(per_class=[*many, row | {"class": "none", "examples": 0}])
    )
    assert info.left_out == 76
    changes = [(int(name) - 50) / 1000 for name in info.names]
    assert changes == sorted(changes) and min(abs(change) for change in changes) >= 0.038


def test_curves_begin_at_the_clean_pictures() -> None:
    info = evaluation.robustness_info(quality_of())
    assert info.severities == {"noise": (0.0, 0.04, 0.12), "blur": (0.0, 0.02)}
    assert info.shares["noise"]["student"] == (0.8, 0.79, 0.6)
    assert info.shares["blur"]["teacher"] == (0.85, 0.73)
    drawn = evaluation.plot_robustness(info).data
    blur = [trace for trace in drawn if trace.xaxis == "x2"]
    assert [list(trace.x) for trace in blur] == [[0, 2], [0, 2]]
    assert list(blur[1].y) == [80, 70] and blur[1].name == "student"


def test_bins_of_few_examples_are_not_drawn() -> None:
    info = evaluation.calibration_info(quality_of())
    assert info.bins["student"] == ((0.5, 0.4, 60), (0.9, 0.88, 238))
    diagonal, _, student = evaluation.plot_calibration(info).data
    assert list(diagonal.x) == list(diagonal.y) == [0, 100]
    assert list(student.y) == [40, 88]


def test_section_says_the_findings_and_figures(record: StudyRecord, tmp_path: Path) -> None:
    for rank in (1, 2, 3):
        put(record, rank, quality_of())
    shown = plain(section(page_of(record, tmp_path)))
    for expected in (
        "Coat worsened 20.0 % 4.0 % 1.0 % 0.002",
        "inherited 10.0 % 9.0 %",
        "mended 0.0 % 8.0 %",
        "1 confusion is inherited",
        "1 worsened and 1 mended beyond chance",
        "by more than chance: </script><script>alert(1)</script> (−15.0 points)",
        "Lose more than the mean class (−5.0 points)",
        "+2.1 points −0.4 points",
        "student is over-confident by 2.1 points, the teacher is under-confident by 0.4 points",
        "loses 14 % of its accuracy on average, the teacher 11 %",
        "The same 250 pictures",
        "where the teacher is right 95.0 %",
        "where it is wrong 61.0 %",
        "99.12 %",
        "95.40 %",
        "final 1 final 2 final 3",
    ):
        assert expected in shown, expected


def test_nothing_significant_is_said_in_words(record: StudyRecord, tmp_path: Path) -> None:
    calm = copy.deepcopy(quality_of())
    calm["bias"] |= {"confusions": [], "losing_classes": []}
    for row in calm["per_class"]:
        row["p"] = 1.0
    put(record, 1, calm)
    shown = plain(section(page_of(record, tmp_path)))
    assert "No class's accuracy differs from the teacher's by more than chance." in shown
    assert "None is worsened or mended by more than chance." in shown
    assert "of 4 pairs that could tell, none differs by more than chance" in shown
    calm["bias"]["tested_pairs"] = 0
    assert "Too few answers differ to tell" in findings(calm)[1]


def test_names_from_outside_are_escaped(record: StudyRecord, tmp_path: Path) -> None:
    put(record, 1, quality_of())
    page = page_of(record, tmp_path)
    assert "<script>alert" not in own_text(page)
    drawn = embedded(page)["classes"]["final-1"]
    assert "<script" not in json.dumps(drawn)
    assert "Shirt &#36;x&#36;" in drawn["layout"]["yaxis"]["ticktext"]


def test_finals_that_were_not_evaluated_say_how(record: StudyRecord, tmp_path: Path) -> None:
    named = dataclasses.replace(record, name="mine")
    shown = plain(section(page_of(named, tmp_path)))
    assert all(f"nasdistill evaluate mine/{rank} does it" in shown for rank in (1, 2, 3))
    put(named, 2, quality_of())
    put(named, 3, {"version": 0})
    page = page_of(named, tmp_path)
    shown = plain(section(page))
    assert "evaluate mine/1" in shown and "evaluate mine/3" in shown
    assert "evaluate mine/2" not in shown and "data-final" not in section(page)
    assert set(embedded(page)["robustness"]) == {"final-2"}
    none = dataclasses.replace(named, finals=[])
    assert "No finals yet" in plain(section(page_of(none, tmp_path)))


def test_the_recommended_final_is_shown_first(record: StudyRecord, tmp_path: Path) -> None:
    for rank in (1, 2, 3):
        put(record, rank, quality_of())
    finals = [
        dataclasses.replace(f, metrics={**f.metrics, "recommended": f.rank == 2})
        for f in record.finals
    ]
    page = page_of(dataclasses.replace(record, finals=finals), tmp_path)
    assert [*embedded(page)["classes"]][0] == "final-2"
    hidden = re.findall(r'data-of="final-(\d)"( hidden)?>', section(page))
    assert {rank for rank, mark in hidden if not mark} == {"2"}
    assert 'data-final="final-2" aria-pressed="true"' in page


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_chromium_draws_the_section(record: StudyRecord, tmp_path: Path, theme: str) -> None:
    put(record, 1, quality_of())
    put(record, 2, quality_of())
    drawn_in_chromium(page_of(record, tmp_path), tmp_path, theme)
