"""What is measured of a final: tested once, exported, compared, timed as exported."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.files import write_whole
from nasdistill.models import Classifier
from nasdistill.models.counts import count_module
from nasdistill.models.export import export_onnx, quick_onnx, verify_onnx
from nasdistill.models.latency import Latency, measure_latencies
from nasdistill.results import Candidate
from nasdistill.study import Study
from nasdistill.training.metrics import (
    accuracy,
    agreement,
    class_relation_preservation,
    expected_calibration_error,
    wilson,
)
from nasdistill.trials.context import StudyContext

TIMED_BATCHES = (1, 64)


def tested(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Test accuracy with its 95 % Wilson interval."""
    share = accuracy(logits, labels)
    interval = wilson(round(share * len(labels)), len(labels))
    return {"test_accuracy": share, "test_interval": list(interval)}


def test_student(
    bench: StudyContext, student: Classifier, candidate: Candidate, rank: int
) -> tuple[dict[str, Any], Tensor]:
    """Everything that needs the student's answers, and its logits on the test split."""
    data = bench.dataset
    logits, labels = training.predict(student, data.test, data.input.size)
    taught = bench.teacher_on_test
    audit, audit_labels = training.predict(student, data.audit, data.input.size)
    own = tested(logits, labels)
    metrics = own | {
        "rank": rank,
        "trial": candidate.number,
        "fingerprint": candidate.fingerprint,
        "score_accuracy": candidate.score,
        "audit_accuracy": accuracy(audit, audit_labels),
        "ece": expected_calibration_error(logits.softmax(dim=1), labels),
        "checkpoint": "last",
        "epochs": bench.final_epochs,
        "precision": "fp32",
    }
    return metrics | _against_teacher(logits, taught, labels), logits


def _against_teacher(logits: Tensor, taught: Tensor | None, labels: Tensor) -> dict[str, Any]:
    """What a student kept of its teacher; all None where that cannot be run."""
    names = (
        "teacher_test_accuracy",
        "retention",
        "agreement",
        "class_relation_preservation",
        "teacher_ece",
    )
    if taught is None:
        return dict.fromkeys(names)
    teacher = accuracy(taught, labels)
    figures = (
        teacher,
        accuracy(logits, labels) / max(teacher, 1e-9),
        agreement(logits, taught),
        class_relation_preservation(logits, taught, labels),
        expected_calibration_error(taught.softmax(dim=1), labels),
    )
    return dict(zip(names, figures, strict=True))


def export_student(bench: StudyContext, student: Classifier, path: Path) -> dict[str, Any]:
    """Exports, compares and measures the exported file, side by side with the teacher."""
    student = student.cpu()
    export_onnx(student, bench.dataset.input, path)
    verified = verify_onnx(student, bench.dataset.input, path)
    counts = count_module(student, bench.dataset.input)
    teacher = bench.teacher
    taught = count_module(teacher.module, teacher.input) if teacher.runs else None
    measured = _latencies(bench, student, path)
    alone = {name: latency for (name, batch), latency in measured.items() if batch == 1}
    median = {name: latency.median_ms for name, latency in alone.items()}
    figures = {
        "params": counts.params,
        "macs": counts.macs,
        "bytes": path.stat().st_size,
        "latency": bench.settled(alone["student"], alone.get("teacher")),
    }
    limits = {
        name: {"limit": limit, "value": figures[name], "ok": figures[name] <= limit}
        for name, limit in bench.limits.items()
        if name in figures
    }
    return {
        "params": counts.params,
        "macs": counts.macs,
        "bytes": counts.bytes,
        "onnx_bytes": path.stat().st_size,
        "teacher_params": None if taught is None else taught.params,
        "teacher_macs": None if taught is None else taught.macs,
        "teacher_bytes": None if taught is None else taught.bytes,
        "compression": None if taught is None else taught.params / counts.params,
        "latency": [{"model": model, **asdict(found)} for (model, _), found in measured.items()],
        "speedup": None if taught is None else median["teacher"] / median["student"],
        "limits": limits,
        "onnx_max_abs_difference": verified.max_abs_difference,
    }


def _latencies(
    bench: StudyContext, student: nn.Module, path: Path
) -> dict[tuple[str, int], Latency]:
    """Of student and teacher, by model and batch."""
    engine = bench.recipe.latency_engine
    teacher_path = bench.folder / "teacher.onnx"
    exported = engine not in ("torch", "cuda")
    models: dict[str, nn.Module | Path] = {"student": path if exported else student}
    if bench.teacher.runs:
        if exported and not teacher_path.exists():
            module = bench.teacher.module.cpu()
            write_whole(teacher_path, quick_onnx(module, bench.teacher.input))
            bench.teacher.module.to(bench.dataset.train.labels.device)
        models["teacher"] = teacher_path if exported else bench.teacher.module
    inputs = {"student": bench.dataset.input, "teacher": bench.teacher.input}
    found: dict[tuple[str, int], Latency] = {}
    with locks.quiet(bench.lock):
        for batch in TIMED_BATCHES:
            measured = measure_latencies(
                models,
                {name: inputs[name] for name in models},
                engine=engine,
                batch=batch,
                threads=bench.threads,
                seconds=0.5,
            )
            found |= {(name, batch): latency for name, latency in measured.items()}
    return found


def model_card(study: Study, metrics: dict[str, Any]) -> str:
    """The model card that lies in a final's folder."""
    low, high = metrics["test_interval"]
    latency = "\n".join(
        f"| {row['model']} | {row['engine']} | {row['batch']} | {row['threads']} "
        f"| {row['median_ms']:.3f} | {row['q1_ms']:.3f}–{row['q3_ms']:.3f} |"
        for row in metrics["latency"]
    )
    kept = ("", "", "")
    if metrics["retention"] is not None:
        kept = (
            f",\n  {metrics['retention']:.2%} of the teacher's "
            f"{metrics['teacher_test_accuracy']:.4f}",
            f" ({metrics['compression']:.1f}x fewer than the teacher)",
            f"; agreement with the teacher\n  {metrics['agreement']:.4f}",
        )
    parts = metrics["micro_batch"]
    in_parts = "" if parts is None else f", in micro-batches of {parts} for want of memory"
    return f"""# {study.folder.name}, final {metrics["rank"]}

Found by nasdistill in the space `{study.recipe.space}` on `{study.recipe.data}`, trial
{metrics["trial"]}, architecture `{metrics["fingerprint"]}`;
distilled for {metrics["epochs"]} epochs{in_parts}.

- test accuracy {metrics["test_accuracy"]:.4f} (95 % interval {low:.4f}–{high:.4f}){kept[0]}
- {metrics["params"]:,} parameters{kept[1]},
  {metrics["macs"]:,} multiply-adds an image
- expected calibration error {metrics["ece"]:.4f}{kept[2]}

| model | engine | batch | threads | median ms | quartiles ms |
|---|---|---|---|---|---|
{latency}

Input: see `input.json`; normalisation is part of the model. Load it with
`nasdistill.load("path/of/this/folder")`, or run `model.onnx`.
"""
