"""A student's quality against its teacher's, as one dictionary."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill.analysis.evaluation import QUALITY_FILE, VERSION
from nasdistill.common.files import write_whole
from nasdistill.common.intervals import wilson
from nasdistill.evaluation.bias import LEVEL, confusions, find_bias, holm, paired_p
from nasdistill.evaluation.comparison import Comparison
from nasdistill.evaluation.corruptions import CORRUPTIONS
from nasdistill.models import artifact
from nasdistill.training.metrics import (
    Accuracy,
    accuracy,
    accuracy_with_interval,
    agreement,
    agreement_by_teacher,
    balanced_accuracy,
    expected_calibration_error,
    mean_relative_drop,
    overconfidence,
    pairwise_areas,
    preserved,
    reliability,
    right_by_class,
)

WORST_PAIRS = 5


def evaluate(
    student: nn.Module, comparison: Comparison, logits_NK: Tensor | None = None
) -> dict[str, Any]:
    """Compares a student with its teacher on the examples of a comparison.

    Args:
        student: In eval mode, on the device of the comparison's split; takes uint8 pictures.
        comparison: The teacher and the examples.
        logits_NK: The student's logits on all clean examples, where they are known.

    Returns:
        JSON values: `accuracy`, `balanced_accuracy`, `majority` (the share of the most frequent
        class), `agreement`, `per_class`, `class_relations`, `calibration`,
        `robustness` and `bias`, each of student and teacher; shares in [0, 1], and None where a
        share has no examples.
    """
    start = time.perf_counter()
    logits = comparison.logits(student) if logits_NK is None else logits_NK
    teacher_logits, labels = comparison.teacher_logits, comparison.labels
    names = list(comparison.classes)
    per_class = _per_class(logits, teacher_logits, labels, names)
    quality = {
        "version": VERSION,
        "data": comparison.data,
        "split": comparison.part,
        "examples": len(labels),
        "accuracy": {
            "student": _in_json(accuracy_with_interval(logits, labels)),
            "teacher": _in_json(accuracy_with_interval(teacher_logits, labels)),
        },
        "balanced_accuracy": {
            "student": _in_json(balanced_accuracy(logits, labels)),
            "teacher": _in_json(balanced_accuracy(teacher_logits, labels)),
        },
        "majority": int(torch.bincount(labels).max()) / len(labels),
        "agreement": _agreement(logits, teacher_logits, labels),
        "per_class": per_class,
        "class_relations": _relations(logits, teacher_logits, labels, names),
        "calibration": {
            "student": _calibration(logits, labels),
            "teacher": _calibration(teacher_logits, labels),
        },
        "robustness": _robustness(student, logits, comparison),
        "bias": _bias(logits, teacher_logits, labels, names, per_class),
        "seconds": time.perf_counter() - start,
    }
    values: dict[str, Any] = _without_nan(quality)
    return values


def write_quality(folder: Path, quality: dict[str, Any]) -> Path:
    """Writes a final's quality.json, whole or not at all.

    Args:
        folder: The final's.
        quality: The result of `evaluate`.

    Returns:
        The file.
    """
    path = folder / QUALITY_FILE
    write_whole(path, json.dumps(quality, indent=1, allow_nan=False))
    return path


def judge_final(folder: Path, comparison: Comparison, logits_NK: Tensor | None = None) -> None:
    """Evaluates a final as it was stored, and writes its quality.json.

    Args:
        folder: The final's.
        comparison: On the test split of the study's data.
        logits_NK: The final's logits on all clean examples, where they are known.

    Raises:
        UserError: If the final cannot be loaded.
    """
    student = artifact.load(folder).to(comparison.split.labels.device)
    write_quality(folder, evaluate(student, comparison, logits_NK))


def _interval(right: int, examples: int) -> dict[str, float]:
    low, high = wilson(right, examples)
    return {"value": right / examples if examples else math.nan, "low": low, "high": high}


def _in_json(accuracy: Accuracy) -> dict[str, float]:
    return {"value": accuracy.share, "low": accuracy.low, "high": accuracy.high}


def _agreement(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, Any]:
    by_teacher = agreement_by_teacher(logits, teacher_logits, labels)
    return {
        "all": agreement(logits, teacher_logits),
        "teacher_right": by_teacher.teacher_right.share,
        "teacher_right_examples": by_teacher.teacher_right.examples,
        "teacher_wrong": by_teacher.teacher_wrong.share,
        "teacher_wrong_examples": by_teacher.teacher_wrong.examples,
    }


def _per_class(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Accuracy within each class, and the p-value of its difference from the teacher's."""
    student_K, examples_K = right_by_class(logits, labels)
    teacher_K, _ = right_by_class(teacher_logits, labels)
    both_N = (logits.argmax(1) == labels) & (teacher_logits.argmax(1) == labels)
    both_K = torch.bincount(labels[both_N], minlength=len(names))
    counts = list(zip(*(t.tolist() for t in (student_K, teacher_K, both_K)), strict=True))
    p_values = holm([paired_p(s - both, t - both) for s, t, both in counts])
    rows = []
    for name, n, (s, t, _), p in zip(names, examples_K.tolist(), counts, p_values, strict=True):
        student, teacher = _interval(s, n), _interval(t, n)
        rows.append(
            {
                "class": name,
                "examples": n,
                "student": student,
                "teacher": teacher,
                "difference": student["value"] - teacher["value"],
                "p": p,
            }
        )
    return rows


def _relations(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, names: Sequence[str]
) -> dict[str, Any]:
    """Class-relation preservation, and the pairs of classes that keep least."""
    student_P, teacher_P = pairwise_areas(logits, labels), pairwise_areas(teacher_logits, labels)
    share_P = preserved(student_P, teacher_P)
    pairs_2P = torch.triu_indices(len(names), len(names), offset=1)
    order = share_P.nan_to_num(math.inf).argsort(stable=True)[:WORST_PAIRS].tolist()
    worst = [
        {
            "classes": [names[int(k)] for k in pairs_2P[:, i]],
            "preserved": float(share_P[i]),
            "student": float(student_P[i]),
            "teacher": float(teacher_P[i]),
        }
        for i in order
        if not math.isnan(share_P[i])
    ]
    return {"preservation": float(share_P.nanmean()), "worst_pairs": worst}


def _calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    probabilities = logits.double().softmax(dim=1)
    bins = reliability(probabilities, labels)
    return {
        "ece": expected_calibration_error(probabilities, labels),
        "confidence": float(probabilities.amax(1).mean()),
        "overconfidence": overconfidence(probabilities, labels),
        "bins": [bin._asdict() for bin in bins],
    }


def _robustness(student: nn.Module, logits: Tensor, comparison: Comparison) -> dict[str, Any]:
    """Accuracy on the same pictures clean, under noise and blurred."""
    labels = comparison.labels[comparison.chosen]
    corrupted = {
        "student": comparison.logits_corrupted(student, logits),
        "teacher": comparison.teacher_corrupted,
    }
    models = tuple(corrupted)
    clean = {model: accuracy(corrupted[model][None], labels) for model in models}
    rows: list[dict[str, Any]] = []
    for corruption in CORRUPTIONS:
        row: dict[str, Any] = {"kind": corruption.kind, "severity": corruption.severity}
        row |= {model: accuracy(corrupted[model][corruption], labels) for model in models}
        row["retention"] = {model: _ratio(row[model], clean[model]) for model in models}
        pair = (corrupted[model][corruption] for model in models)
        row["agreement"] = agreement(*pair)
        rows.append(row)
    return {
        "examples": len(labels),
        "seed": comparison.seed,
        "clean": clean,
        "rows": rows,
        "mean_drop": {
            model: mean_relative_drop(clean[model], [row[model] for row in rows])
            for model in models
        },
    }


def _bias(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    names: Sequence[str],
    per_class: list[Any],
) -> dict[str, Any]:
    """Confusions with a verdict, and the spread of accuracy and of its loss over the classes."""
    counts = confusions(logits.argmax(1), teacher_logits.argmax(1), labels, len(names))
    bias = find_bias(counts)
    present = [row for row in per_class if row["examples"]]
    loss = sum(-row["difference"] for row in present) / max(len(present), 1)
    losing = sorted(
        (row for row in present if -row["difference"] > max(loss, 0.0)),
        key=lambda row: float(row["difference"]),
    )
    return {
        "level": LEVEL,
        "spread": {
            model: _spread([row[model]["value"] for row in present])
            for model in ("student", "teacher")
        },
        "mean_loss": loss,
        "losing_classes": [
            {"class": row["class"], "loss": -row["difference"], "p": row["p"]} for row in losing
        ],
        "tested_pairs": bias.tested,
        "confusions": [
            {
                "true": names[c.true],
                "answered": names[c.answered],
                "verdict": c.verdict,
                "examples": c.examples,
                "teacher": c.teacher / c.examples,
                "student": c.student / c.examples,
                "both": c.both / c.examples,
                "p": c.p,
            }
            for c in bias.confusions
        ],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Largest minus smallest, and the standard deviation over classes (of them all, not a draw)."""
    if not values:
        return {"range": math.nan, "deviation": math.nan}
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return {"range": max(values) - min(values), "deviation": math.sqrt(variance)}


def _ratio(value: float, clean: float) -> float:
    return value / clean if clean > 0 else math.nan


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
