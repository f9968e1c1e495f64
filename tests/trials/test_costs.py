"""Studies whose limits and objectives mean the int8 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from click import unstyle
from small_study import OpenContext
from typer.testing import CliRunner

from nasdistill import api
from nasdistill.cli import app
from nasdistill.common.errors import UserError
from nasdistill.deployment.calibration import few_pictures
from nasdistill.deployment.int8 import quick_int8
from nasdistill.models.counts import count_architecture
from nasdistill.models.export import ExportError, quick_onnx
from nasdistill.recipe import load_recipe
from nasdistill.results import Candidate, Final, keys
from nasdistill.study import architecture_of
from nasdistill.trials import costs
from nasdistill.trials.context import StudyContext
from nasdistill.trials.proposals import propose
from nasdistill.trials.trial import run_trial

INT8: dict[str, Any] = {"deploy": "int8", "minimize": "latency,bytes", "max_latency": "1s"}
QUICK: dict[str, Any] = {
    "deploy": "int8",
    "minimize": "bytes",
    "max_params": None,
    "max_bytes": 30_000,
    "trials": 5,
    "top_k": 2,
    "min_accuracy": 0,
    "rungs": {"first": "100 images", "count": 1},
    "final_budget": "1 epoch",
    "experience": False,
}


def ended(context: StudyContext) -> Candidate:
    number = propose(context)
    assert number is not None
    with context.study.holding(number):
        run_trial(context, number)
    return context.study.candidate(number)


def int8_of(context: StudyContext, candidate: Candidate) -> bytes:
    """The int8 file of a trial's untrained student."""
    student = context.scoring.students(architecture_of(candidate), context.dataset, 0)[0]
    return quick_int8(quick_onnx(student, context.dataset.input), few_pictures(context.dataset))


def test_bytes_and_latency_of_trials_are_those_of_the_int8_file(opened: OpenContext) -> None:
    context = opened(**INT8)
    candidate = ended(context)
    content = int8_of(context, candidate)
    assert candidate.bytes == len(content) and candidate.latency is not None
    counts = count_architecture(architecture_of(candidate), context.dataset.input, 3)
    assert counts.params < len(content) < counts.bytes
    [trial] = [t for t in context.study.trials() if t.number == candidate.number]
    assert trial.values[1:] == [candidate.latency, candidate.bytes]
    operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert "DequantizeLinear" in operators


def test_a_limit_on_bytes_is_held_against_the_int8_file(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened(deploy="int8", max_bytes=100_000)
    monkeypatch.setattr(costs, "quick_int8", lambda onnx, pictures: bytes(100_001))
    candidate = ended(context)
    assert candidate.state == "rejected" and not candidate.rungs
    assert candidate.reason == "bytes 100 kB, limit 100 kB" and candidate.bytes == 100_001


def test_what_cannot_fit_is_rejected_without_quantising_it(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(onnx: bytes, pictures: Any) -> bytes:
        raise AssertionError("quantised")

    monkeypatch.setattr(costs, "quick_int8", never)
    context = opened(deploy="int8", max_bytes=1000)
    with pytest.raises(UserError, match="keeps the limits"):
        propose(context)


def test_what_was_measured_is_not_measured_again(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened(deploy="int8")
    number = propose(context)
    assert number is not None and context.study.candidate(number).bytes is None
    content = int8_of(context, context.study.candidate(number))
    context.study.note(number, keys.BYTES, len(content))
    monkeypatch.setattr(costs, "quick_int8", lambda onnx, pictures: bytes(1))
    with context.study.holding(number):
        run_trial(context, number)
    assert context.study.candidate(number).bytes == len(content)


def test_a_student_that_cannot_be_quantised_fails_with_the_reason(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no kernel for Foo")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", broken)
    context = opened(deploy="int8")
    candidate = ended(context)
    assert candidate.state == "failed"
    assert candidate.reason == "as int8 it cannot be had (no kernel for Foo)"
    with pytest.raises(ExportError, match="no kernel for Foo"):
        int8_of(context, candidate)


@pytest.mark.parametrize("engine", ["torch", "cuda", "command:./board.sh"])
def test_int8_with_another_engine_is_refused(engine: str) -> None:
    with pytest.raises(UserError, match=f"latency_engine is {engine}; allowed beside it is onnx"):
        load_recipe(None, {"deploy": "int8", "latency_engine": engine})
    with pytest.raises(UserError, match="deploy.*fp32, int8"):
        load_recipe(None, {"deploy": "int4"})


def test_finals_are_recommended_by_their_int8_files(here: Path) -> None:
    recipe = load_recipe("recipe.yaml", QUICK)
    outcome = api.search(recipe)
    finals = outcome.record.finals
    assert len(finals) == 2 and recipe.shipped_formats == ("onnx-int8",)
    for final in finals:
        file = final.metrics["files"]["onnx-int8"]
        size = (final.folder / "model-int8.onnx").stat().st_size
        assert final.deployed == file and final.limits["bytes"]["value"] == size < 30_000
        assert final.audit_score == file["audit_score"]
        assert final.test_score.share == file["test_accuracy"]
        assert onnxruntime.InferenceSession(str(final.folder / "model-int8.onnx"))
        trial = next(c for c in outcome.record.candidates if c.number == final.number)
        assert trial.bytes is not None and abs(trial.bytes - size) < 0.2 * size
    [best] = [final for final in finals if final.recommended]
    assert best.audit_score == max(final.audit_score for final in finals)
    page = outcome.report.read_text()
    assert "as the int8 file that ships" in page and "Meets its limits on the int8 file" in page
    assert 'data-ships="onnx-int8" aria-pressed="true"' in page
    assert api.search(recipe).already_complete
    with pytest.raises(UserError, match="deploy"):
        api.search(load_recipe("recipe.yaml", {**QUICK, "deploy": "fp32"}))


def test_a_final_without_its_int8_file_is_not_recommended() -> None:
    metrics = {"deploy": "int8", "limits": {}, "files": {"onnx-int8": {"failed": "no"}}}
    final = Final(1, 0, Path("1"), metrics)
    assert final.broken_limits == ("int8",) and final.audit_score == 0
    assert final.test_score.share is None


def test_the_flag_is_a_key_of_the_recipe() -> None:
    recipe = load_recipe(None, {"deploy": "int8"})
    assert recipe.stored()["deploy"] == "int8" and recipe.study_name() == "mobile-deploy-int8"
    assert "--deploy" in unstyle(CliRunner().invoke(app, ["search", "--help"]).output)
