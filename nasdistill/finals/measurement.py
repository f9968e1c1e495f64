"""The figures of a final: tested once, exported, compared, timed as exported."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from nasdistill.common import formats, locks
from nasdistill.common.errors import DamagedFileError
from nasdistill.common.files import set_aside, write_whole
from nasdistill.common.json_files import read_json
from nasdistill.common.types import ScoreName
from nasdistill.data.pictures import Preparation
from nasdistill.deployment.metadata import metadata_of, with_metadata
from nasdistill.models import Classifier
from nasdistill.models.artifact import ModelSpec, describe_input
from nasdistill.models.counts import count_module
from nasdistill.models.export import export_onnx, quick_onnx, verify_onnx
from nasdistill.models.latency import Latency, measure_latencies, runs_onnx
from nasdistill.results import Candidate, tested_by_score
from nasdistill.results.records import UNEVEN
from nasdistill.study import Study, architecture_of
from nasdistill.training.metrics import (
    MEASURES,
    accuracy,
    accuracy_with_interval,
    agreement,
    balanced_accuracy,
    class_relation_preservation,
    expected_calibration_error,
)
from nasdistill.trials.autotune import predict
from nasdistill.trials.context import StudyContext

TIMED_BATCHES, TIMED_SECONDS = (1, 64), 0.5
"""Images in a call whose latency is measured, and the seconds that each model is given."""
_HASHES = TypeAdapter(dict[str, str])


def accuracy_on_test(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Test accuracy with its 95 % Wilson interval."""
    share, low, high = accuracy_with_interval(logits, labels)
    return {"test_accuracy": share, "test_interval": [low, high]}


def balanced_on_test(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Balanced test accuracy with its 95 % interval."""
    share, low, high = balanced_accuracy(logits, labels)
    return {"test_balanced_accuracy": share, "test_balanced_interval": [low, high]}


def classes_on_test(labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What an answer that is always the same is worth, and which classes are not tested at all.

    Args:
        labels: int64 `[N]`.
        classes: Names by label.

    Returns:
        `majority`: the most frequent class, its share of the examples, and what its share would be
        if those that are tested were even; `untested_classes`: names of those without examples.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    most = int(counts.argmax())
    share = int(counts[most]) / len(labels)
    return {
        "majority": {"class": classes[most], "share": share, "even": 1 / int((counts > 0).sum())},
        "untested_classes": [
            name for name, n in zip(classes, counts.tolist(), strict=True) if not n
        ],
    }


def measure_on_test(
    context: StudyContext, student: Classifier, candidate: Candidate, rank: int
) -> tuple[dict[str, Any], Tensor]:
    """All figures that need the student's answers, and its logits on the test split."""
    data = context.dataset
    logits, labels = predict(context, student, data.test, f"final {rank}: testing")
    audit = predict(context, student, data.audit, f"final {rank}: testing on audit")
    synthetic = context.final.options.feed.synthetic
    metrics = accuracy_on_test(logits, labels) | balanced_on_test(logits, labels)
    metrics |= classes_on_test(labels, data.classes)
    metrics |= {
        "rank": rank,
        "trial": candidate.number,
        "fingerprint": candidate.fingerprint,
        "score": context.recipe.score,
        "score_accuracy": candidate.score,
        "audit_accuracy": accuracy(*audit),
        "audit_balanced_accuracy": balanced_accuracy(*audit).share,
        "ece": expected_calibration_error(logits.softmax(dim=1), labels),
        "checkpoint": "last",
        "epochs": context.epochs_worth,
        "begin": context.recipe.begin,
        "begin_weights": context.final.beginning.origin(architecture_of(candidate)) or None,
        "learning_rate": context.recipe.rate(),
        "synthetic_images": None if synthetic is None else synthetic.images,
        "precision": "fp32",
    }
    against = _against_teacher(logits, context.teacher_on_test, labels, context.recipe.score)
    return metrics | against, logits


def _against_teacher(
    logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, score: ScoreName
) -> dict[str, Any]:
    """Figures of what a student kept of its teacher; all None where that cannot be run.

    Its `retention` is of the study's score.
    """
    if teacher_logits is None:
        names = ("retention", "agreement", "class_relation_preservation", "teacher_ece")
        return dict.fromkeys(("teacher_test_accuracy", "teacher_test_balanced_accuracy", *names))
    share, teacher_share = (MEASURES[score](x, labels).share for x in (logits, teacher_logits))
    preservation = class_relation_preservation(logits, teacher_logits, labels)
    return {
        "teacher_test_accuracy": accuracy(teacher_logits, labels),
        "teacher_test_balanced_accuracy": balanced_accuracy(teacher_logits, labels).share,
        "retention": share / max(teacher_share, 1e-9),
        "agreement": agreement(logits, teacher_logits),
        "class_relation_preservation": None if math.isnan(preservation) else preservation,
        "teacher_ece": expected_calibration_error(teacher_logits.softmax(dim=1), labels),
    }


def export_student(
    context: StudyContext, student: Classifier, path: Path, spec: ModelSpec | None = None
) -> dict[str, Any]:
    """Exports, compares and measures the exported file, side by side with the teacher.

    Args:
        context: The study's.
        student: The final.
        path: The file.
        spec: What the file says of itself is taken from it; without, it says nothing.
    """
    student, shape = student.cpu(), context.dataset.input
    export_onnx(student, shape, path)
    if spec is not None:
        metadata = metadata_of(
            describe_input(student, spec),
            context.folder.name,
            spec.architecture.fingerprint,
            context.dataset.attribution,
        )
        write_whole(path, with_metadata(path.read_bytes(), metadata))
    verified = verify_onnx(student, shape, path)
    counts = count_module(student, shape)
    teacher = context.teacher
    teacher_counts = count_module(teacher.module, teacher.input) if teacher.runs else None
    latencies = _measure_latencies(context, student, path)
    single = {model: latency for (model, batch), latency in latencies.items() if batch == 1}
    figures = {
        "params": counts.params,
        "macs": counts.macs,
        "bytes": path.stat().st_size,
        "latency": context.normalised_latency(single["student"], single.get("teacher")),
    }
    limits = {
        name: {"limit": limit, "value": figures[name], "ok": figures[name] <= limit}
        for name, limit in context.limits.items()
        if name in figures
    }
    metrics: dict[str, Any] = {
        "params": counts.params,
        "macs": counts.macs,
        "bytes": counts.bytes,
        "onnx_bytes": path.stat().st_size,
        "teacher_params": None,
        "teacher_macs": None,
        "teacher_bytes": None,
        "compression": None,
        "latency": [{"model": model, **asdict(row)} for (model, _), row in latencies.items()],
        "speedup": None,
        "limits": limits,
        "onnx_max_abs_difference": verified.max_abs_difference,
        "onnx_allowed_difference": verified.allowed,
    }
    if teacher_counts is not None:
        metrics |= {
            "teacher_params": teacher_counts.params,
            "teacher_macs": teacher_counts.macs,
            "teacher_bytes": teacher_counts.bytes,
            "compression": teacher_counts.params / counts.params,
            "speedup": single["teacher"].median_ms / single["student"].median_ms,
        }
    return metrics


def _measure_latencies(
    context: StudyContext, student: nn.Module, path: Path
) -> dict[tuple[str, int], Latency]:
    """Latencies of student and teacher, by model and batch."""
    engine, teacher = context.recipe.latency_engine, context.teacher
    exported = runs_onnx(engine)
    models: dict[str, nn.Module | Path] = {"student": path if exported else student}
    if teacher.runs:
        models["teacher"] = _exported_teacher(context) if exported else teacher.module
    inputs = {"student": context.dataset.input, "teacher": teacher.input}
    latencies: dict[tuple[str, int], Latency] = {}
    with locks.quiet(context.latency_lock):
        for batch in TIMED_BATCHES:
            measured = measure_latencies(
                models,
                {name: inputs[name] for name in models},
                engine=engine,
                batch=batch,
                threads=context.threads,
                seconds=TIMED_SECONDS,
            )
            latencies |= {(name, batch): latency for name, latency in measured.items()}
    return latencies


def _exported_teacher(context: StudyContext) -> Path:
    """The teacher's ONNX file, which is written if it is not there yet, or not this teacher's.

    Beside it lie the hashes of the teacher's weights and of the file. One of an earlier release,
    which has none, is written anew; one that is not what they say is set aside first.
    """
    path, teacher = context.folder / "teacher.onnx", context.teacher
    about = path.with_name("teacher.onnx.json")
    if path.exists() and about.exists():
        problem = _problem_of_export(path, about, teacher.weights_hash)
        if problem is None:
            return path
        context.warn(f"{problem}; it was put aside as {set_aside(path).name}", stage="finals")
    content = quick_onnx(teacher.module.cpu(), teacher.input)
    teacher.module.to(context.dataset.train.labels.device)
    about.unlink(missing_ok=True)  # it tells of the old file
    write_whole(path, content)
    hashes = {"weights_hash": teacher.weights_hash, "hash": _hash(content)}
    write_whole(about, json.dumps(hashes))
    return path


def _problem_of_export(path: Path, about: Path, weights_hash: str) -> str | None:
    """What is wrong with the teacher's ONNX file; None if it is whole and of these weights."""
    try:
        hashes = read_json(about, _HASHES)
    except DamagedFileError as error:
        return str(error)
    if hashes.get("weights_hash") != weights_hash:
        return f"{path}: another teacher's"
    return None if hashes.get("hash") == _hash(path.read_bytes()) else f"{path}: cut off or changed"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _rivals_text(metrics: dict[str, Any]) -> str:
    """Lines of the card for the runs that the final was held against, if any."""
    titles = {"baseline": "trained on labels alone", "fresh": "distilled from fresh weights"}
    return "".join(
        f"\n- the same architecture {title}: test accuracy {metrics[name]['test_accuracy']:.4f}"
        for name, title in titles.items()
        if metrics.get(name)
    )


def _processes_text(metrics: dict[str, Any]) -> str:
    """How a final was trained by several processes, for its card; empty if it was not."""
    if metrics["processes"] == 1:
        return ""
    text = f", on {metrics['processes']} GPUs or processes"
    examples = metrics["batch_norm_examples"]
    if examples is None:
        return text
    return f"{text};\nbatch norm's statistics are of {examples} examples each, over all of these"


def model_card(study: Study, metrics: dict[str, Any], preparation: Preparation) -> str:
    """The model card that lies in a final's folder."""
    low, high = metrics["test_interval"]
    accuracy_text = f"{metrics['test_accuracy']:.4f} (95 % interval {low:.4f}–{high:.4f})"
    latency = "\n".join(
        f"| {row['model']} | {row['engine']} | {row['batch']} | {row['threads']} "
        f"| {row['median_ms']:.3f} | {row['q1_ms']:.3f}–{row['q3_ms']:.3f} |"
        for row in metrics["latency"]
    )
    retention = compression = agreement_text = ""
    tested = tested_by_score(metrics)
    if tested.retention is not None:
        retention = f",\n  {tested.retention:.2%} of the teacher's {tested.teacher:.4f}"
        compression = f" ({metrics['compression']:.1f}x fewer than the teacher)"
        agreement_text = f"; agreement with the teacher\n  {metrics['agreement']:.4f}"
    by_score = ""
    if metrics["score"] == "balanced-accuracy":
        low_end, high_end = metrics["test_balanced_interval"]
        by_score = (
            f"- {tested.name} {tested.share:.4f} (95 % interval {low_end:.4f}–{high_end:.4f})"
            f"{retention}\n"
        )
        retention = ""
    uneven = ""
    majority, untested = metrics["majority"], metrics["untested_classes"]
    if majority["share"] >= UNEVEN * majority["even"]:
        uneven = (
            f"\n- classes are uneven: balanced accuracy {metrics['test_balanced_accuracy']:.4f}; "
            f"always answering\n  {majority['class']!r} has accuracy {majority['share']:.4f}, "
            f"balanced {majority['even']:.4f}"
        )
    if untested:
        uneven += f"\n- not tested, for want of examples: {', '.join(untested)}"
    beside = retention + uneven
    parts = metrics["micro_batch"]
    in_parts = "" if parts is None else f", in micro-batches of {parts} for want of memory"
    in_parts += _processes_text(metrics)
    feed_text = ""
    if metrics["synthetic_images"] is not None:
        feed_text = (
            f" of {metrics['synthetic_images']:,} images made from the teacher\n"
            "alone; no real training picture was used to train it"
        )
    begun = ""
    if metrics["begin"] != "fresh":
        begun = f"\nIt began with weights: {metrics['begin_weights']}."
    rivals = _rivals_text(metrics)
    return f"""# {study.folder.name}, final {metrics["rank"]}

Found by nasdistill in the space `{study.recipe.space_name}` on `{study.recipe.data}`, trial
{metrics["trial"]}, architecture `{metrics["fingerprint"]}`;
distilled for {formats.counted(metrics["epochs"], "epoch")}{feed_text}{in_parts}.{begun}

{by_score}- test accuracy {accuracy_text}{beside}
- {metrics["params"]:,} parameters{compression},
  {metrics["macs"]:,} multiply-adds an image
- expected calibration error {metrics["ece"]:.4f}{agreement_text}{rivals}

| model | engine | batch | threads | median ms | quartiles ms |
|---|---|---|---|---|---|
{latency}

Load it with `nasdistill.load("path/of/this/folder")`, or have
`nasdistill.classify("path/of/this/folder", "picture.jpg")` rank the classes of a picture. Without
nasdistill, these lines prepare a picture as the model saw its pictures in training (`input.json`
says the same); normalisation is part of the model. Pillow was version {PIL.__version__}; others
may resize differently in the last bit.

```python
{preparation.recipe()}```

```python
import onnxruntime

logits = onnxruntime.InferenceSession("model.onnx").run(None, {{"images": pixels}})[0]
```
"""
