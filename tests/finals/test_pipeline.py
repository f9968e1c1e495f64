"""Finals: each made once, on its own, within the time; the best by the audit half recommended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from small_study import OpenContext

from nasdistill.common.events import Event
from nasdistill.finals import pipeline
from nasdistill.finals.pipeline import make_finals, missing_finals, train_ahead
from nasdistill.models.export import ExportError
from nasdistill.results import keys
from nasdistill.trials.context import Deadlines, StudyContext
from nasdistill.trials.loop import run_trials

QUICK = {
    "trials": 3,
    "stopping": False,
    "rungs": {"first": "100 images", "count": 1},
    "final_budget": "1 epochs",
}


@pytest.fixture
def context(opened: OpenContext) -> StudyContext:
    """A study with three scored trials and no final."""
    context = opened(**QUICK)
    assert run_trials(context) == "complete"
    return context


def scored(context: StudyContext) -> list[int]:
    return [c.number for c in context.study.candidates() if c.state == "complete"]


def test_a_final_is_a_whole_folder_and_made_once(
    context: StudyContext, events: list[Event]
) -> None:
    first, second, _ = scored(context)
    finals = make_finals(context, [second, first])
    assert [(f.rank, f.number) for f in finals] == [(1, second), (2, first)]
    for final in finals:
        names = {path.name for path in final.folder.iterdir()}
        assert {"model.safetensors", "architecture.json", "input.json", "model.onnx"} <= names
        assert {"metrics.json", "README.md", "quality.json"} <= names
    stamps = {p: p.stat().st_mtime_ns for p in Path("studies/small/finals").glob("*/*")}
    events.clear()
    assert [f.rank for f in make_finals(context, [second, first])] == [1, 2]
    assert stamps == {p: p.stat().st_mtime_ns for p in Path("studies/small/finals").glob("*/*")}
    assert not events and not list(Path("studies/small/finals").glob(".work-*"))


def test_who_is_best_on_the_audit_half_and_keeps_its_limits_is_recommended(
    context: StudyContext,
) -> None:
    make_finals(context, scored(context))
    folder = Path("studies/small/finals")
    for rank, accuracy, ok in ((1, 0.7, True), (2, 0.9, False), (3, 0.8, True)):
        metrics = json.loads((folder / str(rank) / "metrics.json").read_text())
        metrics["audit_accuracy"] = accuracy
        metrics["limits"]["accuracy"]["ok"] = True
        metrics["limits"]["params"]["ok"] = ok
        (folder / str(rank) / "metrics.json").write_text(json.dumps(metrics))
    finals = make_finals(context, scored(context))
    assert [final.recommended for final in finals] == [False, False, True]
    assert json.loads((folder / "recommended.json").read_text()) == {
        "rank": 3,
        "by": "audit_accuracy",
    }


def test_what_was_trained_ahead_is_only_tested_and_exported(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = scored(context)
    context.study.write(keys.FINALS, [first])
    train_ahead(context)
    work = Path(f"studies/small/finals/.work-{first}")
    seconds = json.loads((work / "seconds.json").read_text())
    assert list(seconds) == ["distill"] and (work / "final.pt").exists()
    assert missing_finals(context.study, [first]) == [first]

    def no_training(run: Any, until: int, every: int | None = None) -> Any:
        assert run.examples == until, "it was trained again"
        return iter(())

    monkeypatch.setattr("nasdistill.training.train", no_training)
    (final,) = make_finals(context, [first])
    assert set(final.metrics["seconds"]) == {"distill", "test", "export"}
    assert final.metrics["seconds"]["distill"] >= seconds["distill"]


def test_one_that_fails_leaves_the_others(
    context: StudyContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = scored(context)
    export_student = pipeline.export_student

    def broken(*arguments: Any) -> dict[str, Any]:
        if f".work-{first}" in str(arguments[2]):
            raise ExportError("an operator is missing")
        return export_student(*arguments)

    monkeypatch.setattr(pipeline, "export_student", broken)
    assert [f.rank for f in make_finals(context, [first, second])] == [2]
    assert context.study.read(keys.FINAL_FAILED.of(first)) == "an operator is missing"
    assert f"final 1 (trial {first}) failed: an operator is missing" in [e.text for e in events]
    assert missing_finals(context.study, [first, second]) == []
    context.study.write(keys.FINAL_FAILED.of(first), None)  # asked for by name
    monkeypatch.setattr(pipeline, "export_student", export_student)
    assert [f.rank for f in make_finals(context, [first, second])] == [1, 2]


def test_the_first_is_made_whatever_the_time_and_further_ones_are_not(
    context: StudyContext, events: list[Event]
) -> None:
    context.deadlines = Deadlines(whole=time.monotonic())
    finals = make_finals(context, scored(context))
    assert [final.rank for final in finals] == [1]
    assert "no time left for finals: 2, 3" in [e.text for e in events]


def test_sizes_alike_and_worlds_apart_are_told(
    context: StudyContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = sum(p.numel() for p in context.teacher.module.parameters())
    candidate = context.study.candidate(scored(context)[0])

    def warnings_at(params: int) -> list[str]:
        events.clear()
        from dataclasses import replace

        pipeline._warn_of_size(context, replace(candidate, params=params))
        return [event.text for event in events if event.kind == "warning"]

    assert warnings_at(teacher // 10) == []
    (alike,) = warnings_at(teacher)
    assert "(÷1.0): there is little to gain in size; choose a tighter limit" in alike
    (apart,) = warnings_at(teacher // 200)
    assert "the student may be too small to follow; try an assistant" in apart
    assert f"has {teacher // 200:,} parameters, the teacher {teacher:,}" in apart
