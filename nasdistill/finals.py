"""The top-k, distilled in full, tested once, exported and measured as exported."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from nasdistill import artifact, distillation, evaluation, final_runs, locks, profile
from nasdistill.bench import Bench
from nasdistill.files import write_whole
from nasdistill.models import Classifier
from nasdistill.options import Cost
from nasdistill.pareto import as_points, spread
from nasdistill.quality import (
    accuracy,
    agreement,
    class_relation_preservation,
    expected_calibration_error,
    wilson,
)
from nasdistill.results import Candidate, Event, Final, front, load_finals
from nasdistill.results.quality import read_quality
from nasdistill.study import Study, architecture_of
from nasdistill.trials import FAILURES, reason_of

Emit = Callable[[Event], None]
TIMED_BATCHES = (1, 64)
ALIKE, WORLDS_APART = 2.0, 100.0
"""Ratios of the teacher's parameters to the student's at which a run warns."""
LATER_GAIN = 0.05
"""What a full run adds to a short score, in [0, 1]: 0.045 to 0.067 in the first six measured."""


def choose(
    candidates: Sequence[Candidate], costs: Sequence[Cost], count: int, min_accuracy: float
) -> list[Candidate]:
    """The top-k: spread along the front by the hypervolume each adds.

    The most accurate comes first; then whichever adds the most to those chosen before.

    Args:
        candidates: All trials.
        costs: The costs that the study minimises.
        count: How many to choose, at most.
        min_accuracy: Lowest score, in [0, 1]; one whose interval reaches it still counts, because
            a full run scores higher than a short one.
    """
    able = [c for c in front(candidates, costs) if c.rungs[-1].high + LATER_GAIN >= min_accuracy]
    if not able:
        return []
    points = as_points([[c.score or 0.0, *(c.cost(n) or 0.0 for n in costs)] for c in able])
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    best = int(np.argmin(points[:, 0]))
    return [able[i] for i in spread(points, reference, count, best)]


def distill_finals(
    study: Study, bench: Bench, chosen: Sequence[int], emit: Emit, deadline: float | None = None
) -> list[Final]:
    """Makes the finals that are still missing, and recommends one.

    Args:
        study: The study.
        bench: What its finals share.
        chosen: Trial numbers, by rank.
        emit: Told what happens.
        deadline: `time.monotonic()` by which a further final must be expected to end (one is
            always made).

    Returns:
        All finals of the study, by rank.
    """
    candidates = {c.number: c for c in study.candidates()}
    data, longest = bench.dataset, 0.0
    exam = evaluation.Exam(
        bench.teacher, data.test, data.input.size, data.classes, data.name, "test"
    )
    for rank, number in enumerate(chosen, start=1):
        folder = study.folder / "finals" / str(rank)
        if (folder / "metrics.json").exists():
            _judge(study, bench, exam, folder, emit)
            continue
        if study.attrs.get(f"final_failed:{number}"):
            continue
        start = time.monotonic()
        if deadline is not None and rank > 1 and start + longest > deadline:
            emit(Event("warning", f"no time left for finals {rank} to {len(chosen)}"))
            break
        try:
            logits = _make_final(study, bench, candidates[number], rank, emit)
        except (*FAILURES, artifact.ExportError) as error:
            reason = reason_of(error)
            study.set(f"final_failed:{number}", reason)
            shutil.rmtree(_work_folder(study, number), ignore_errors=True)
            emit(Event("warning", f"final {rank} (trial {number}) failed: {reason}"))
        else:
            _judge(study, bench, exam, folder, emit, logits)
        longest = max(longest, time.monotonic() - start)
    _recommend(study)
    return load_finals(study.folder)


def _judge(
    study: Study, bench: Bench, exam: evaluation.Exam, folder: Path, emit: Emit,
    logits: Tensor | None = None,
) -> None:  # fmt: skip
    """Holds a final against its teacher, once; if that fails, the final stays as it is."""
    if read_quality(folder) is not None:
        return
    start = time.perf_counter()
    try:
        exam.taught = bench.teacher_on_test
        evaluation.judge_final(folder, exam, logits)
    except FAILURES as error:
        emit(Event("warning", f"final {folder.name} could not be evaluated: {reason_of(error)}"))
    study.add_seconds("quality", time.perf_counter() - start)


def _work_folder(study: Study, number: int) -> Path:
    return study.folder / "finals" / f".work-{number}"


def _make_final(study: Study, bench: Bench, candidate: Candidate, rank: int, emit: Emit) -> Tensor:
    """Makes one final; gives its logits on the test split."""
    work = _work_folder(study, candidate.number)
    work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    _warn_of_size(bench, candidate, emit)
    trained = final_runs.train_final(study, bench, candidate, work, rank, emit)
    student = trained.student
    seconds = {"distill": time.perf_counter() - start}
    baseline = None
    if bench.recipe.baseline:
        start = time.perf_counter()
        plain = final_runs.train_baseline(study, bench, candidate, work, rank, emit)
        logits, labels = distillation.predict(plain, bench.dataset.test, bench.dataset.input.size)
        baseline = _tested(logits, labels)
        seconds["baseline"] = time.perf_counter() - start
    emit(Event("note", f"final {rank}: testing, exporting, measuring", stage="finals"))
    start = time.perf_counter()
    metrics, logits = _test(bench, student, candidate, rank)
    seconds["test"] = time.perf_counter() - start
    start = time.perf_counter()
    metrics |= _export(bench, student, candidate, work / "model.onnx")
    seconds["export"] = time.perf_counter() - start
    metrics |= {"seconds": seconds, "baseline": baseline, "steps": list(trained.steps)}
    floor, audit = bench.limits["accuracy"], metrics["audit_accuracy"]
    metrics["limits"]["accuracy"] = {"limit": floor, "value": audit, "ok": audit >= floor}
    architecture = architecture_of(candidate)
    artifact.write_final(
        study.folder / "finals" / str(rank),
        module=student,
        architecture=architecture,
        input=bench.dataset.input,
        classes=bench.dataset.classes,
        metrics=metrics,
        card=_card(study, metrics),
        onnx=work / "model.onnx",
    )
    for stage, spent in seconds.items():
        study.add_seconds({"distill": "finals"}.get(stage, stage), spent)
    shutil.rmtree(work)
    text = (
        f"test accuracy {metrics['test_accuracy']:.4f} ({metrics['retention']:.1%} of the "
        f"teacher's), {metrics['params']:,} parameters"
    )
    emit(Event("final", text, stage="finals", trial=candidate.number, done=rank))
    return logits


def _warn_of_size(bench: Bench, candidate: Candidate, emit: Emit) -> None:
    """Distillation works between models whose sizes are neither alike nor worlds apart."""
    taught = sum(p.numel() for p in bench.teacher.module.parameters())
    ratio = taught / max(1, candidate.params or 1)
    if ratio < ALIKE:
        hint = "there is little to gain in size; choose a tighter limit"
    elif ratio > WORLDS_APART:
        hint = "the student may be too small to follow; try an assistant (iterate.assistants)"
    else:
        return
    text = (
        f"trial {candidate.number} has {candidate.params:,} parameters, the teacher {taught:,} "
        f"(÷{ratio:.1f}): {hint}"
    )
    emit(Event("warning", text, stage="finals", trial=candidate.number))


def _tested(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    share = accuracy(logits, labels)
    interval = wilson(round(share * len(labels)), len(labels))
    return {"test_accuracy": share, "test_interval": list(interval)}


def _test(
    bench: Bench, student: Classifier, candidate: Candidate, rank: int
) -> tuple[dict[str, Any], Tensor]:
    """Everything that needs the student's answers, and its logits on the test split."""
    data = bench.dataset
    logits, labels = distillation.predict(student, data.test, data.input.size)
    taught = bench.teacher_on_test
    audit, audit_labels = distillation.predict(student, data.audit, data.input.size)
    tested, teacher_accuracy = _tested(logits, labels), accuracy(taught, labels)
    metrics = tested | {
        "rank": rank,
        "trial": candidate.number,
        "fingerprint": candidate.fingerprint,
        "score_accuracy": candidate.score,
        "audit_accuracy": accuracy(audit, audit_labels),
        "teacher_test_accuracy": teacher_accuracy,
        "retention": tested["test_accuracy"] / max(teacher_accuracy, 1e-9),
        "agreement": agreement(logits, taught),
        "class_relation_preservation": class_relation_preservation(logits, taught, labels),
        "ece": expected_calibration_error(logits.softmax(dim=1), labels),
        "teacher_ece": expected_calibration_error(taught.softmax(dim=1), labels),
        "checkpoint": "last",
        "epochs": final_runs.final_epochs(bench, bench.final),
        "precision": "fp32",
    }
    return metrics, logits


def _export(bench: Bench, student: Classifier, candidate: Candidate, path: Path) -> dict[str, Any]:
    """Exports, compares and measures the exported file, side by side with the teacher."""
    student = student.cpu()
    artifact.export_onnx(student, bench.dataset.input, path)
    verified = artifact.verify_onnx(student, bench.dataset.input, path)
    counts = profile.count_module(student, bench.dataset.input)
    taught = profile.count_module(bench.teacher.module, bench.teacher.input)
    latency = _latencies(bench, student, path)
    alone = {row["model"]: row["median_ms"] for row in latency if row["batch"] == 1}
    figures = {
        "params": counts.params,
        "macs": counts.macs,
        "bytes": path.stat().st_size,
        "latency": alone["student"],
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
        "teacher_params": taught.params,
        "teacher_macs": taught.macs,
        "teacher_bytes": taught.bytes,
        "compression": taught.params / counts.params,
        "latency": latency,
        "speedup": alone["teacher"] / alone["student"],
        "limits": limits,
        "onnx_max_abs_difference": verified.max_abs_difference,
        "onnx_ok": verified.ok,
    }


def _latencies(bench: Bench, student: nn.Module, path: Path) -> list[dict[str, Any]]:
    engine = bench.recipe.latency_engine
    teacher_path = bench.folder / "teacher.onnx"
    models: dict[str, nn.Module | Path] = {"student": student, "teacher": bench.teacher.module}
    if engine not in ("torch", "cuda"):
        if not teacher_path.exists():
            module = bench.teacher.module.cpu()
            write_whole(teacher_path, artifact.quick_onnx(module, bench.teacher.input))
            bench.teacher.module.to(bench.dataset.train.labels.device)
        models = {"student": path, "teacher": teacher_path}
    inputs = {"student": bench.dataset.input, "teacher": bench.teacher.input}
    rows = []
    with locks.quiet(bench.lock):
        for batch in TIMED_BATCHES:
            measured = profile.measure(
                models, inputs, engine=engine, batch=batch, threads=bench.threads, seconds=0.5
            )
            rows += [{"model": name, **asdict(latency)} for name, latency in measured.items()]
    return rows


def _recommend(study: Study) -> None:
    """Recommends the final that keeps its limits and is best on the audit half."""
    finals = [f for f in load_finals(study.folder) if not f.broken_limits]
    chosen = study.folder / "finals" / "recommended.json"
    if not finals:
        chosen.unlink(missing_ok=True)
        return
    best = max(finals, key=lambda f: (f.metrics["audit_accuracy"], -f.metrics["params"]))
    write_whole(chosen, json.dumps({"rank": best.rank, "by": "audit_accuracy"}))


def _card(study: Study, metrics: dict[str, Any]) -> str:
    """The model card that lies in a final's folder."""
    low, high = metrics["test_interval"]
    latency = "\n".join(
        f"| {row['model']} | {row['engine']} | {row['batch']} | {row['threads']} "
        f"| {row['median_ms']:.3f} | {row['q1_ms']:.3f}–{row['q3_ms']:.3f} |"
        for row in metrics["latency"]
    )
    return f"""# {study.folder.name}, final {metrics["rank"]}

Found by nasdistill in the space `{study.recipe.space}` on `{study.recipe.data}`, trial
{metrics["trial"]}, architecture `{metrics["fingerprint"]}`;
distilled for {metrics["epochs"]} epochs.

- test accuracy {metrics["test_accuracy"]:.4f} (95 % interval {low:.4f}–{high:.4f}),
  {metrics["retention"]:.2%} of the teacher's {metrics["teacher_test_accuracy"]:.4f}
- {metrics["params"]:,} parameters ({metrics["compression"]:.1f}x fewer than the teacher),
  {metrics["macs"]:,} multiply-adds an image
- expected calibration error {metrics["ece"]:.4f}; agreement with the teacher
  {metrics["agreement"]:.4f}

| model | engine | batch | threads | median ms | quartiles ms |
|---|---|---|---|---|---|
{latency}

Input: see `input.json`; normalisation is part of the model. Load it with
`nasdistill.load("path/of/this/folder")`, or run `model.onnx`.
"""
