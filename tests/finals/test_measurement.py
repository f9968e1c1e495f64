"""Figures of finals: accuracies, what was kept of the teacher, limits on the exported file."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
from small_study import OpenContext, write_blobs

from nasdistill import training
from nasdistill.common.intervals import of_the_mean, wilson
from nasdistill.finals import measurement
from nasdistill.results import Candidate
from nasdistill.space import Architecture
from nasdistill.trials.context import StudyContext

WHOLE = {"micro_batch": None, "processes": 1, "batch_norm_examples": None}
NET = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
)


def test_accuracy_on_test_has_its_interval() -> None:
    logits, labels = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 1])
    figures = measurement.accuracy_on_test(logits, labels)
    assert figures == {"test_accuracy": 0.75, "test_interval": list(wilson(3, 4))}
    assert measurement.balanced_on_test(logits, labels) == {
        "test_balanced_accuracy": pytest.approx(5 / 6),
        "test_balanced_interval": list(of_the_mean([(1, 1), (1, 2), (1, 1)])),
    }


def test_classes_without_examples_and_the_largest_one_are_named() -> None:
    figures = measurement.classes_on_test(torch.tensor([2, 0, 2, 2]), ("a", "b", "c"))
    assert figures == {
        "majority": {"class": "c", "share": 0.75, "even": 0.5},
        "untested_classes": ["b"],
    }


@pytest.fixture
def context(opened: OpenContext) -> StudyContext:
    return opened(max_params="2500", max_bytes="1M")


def test_the_teacher_itself_keeps_all_of_itself(context: StudyContext) -> None:
    logits, labels = context.teacher_on_test, context.dataset.test.labels.cpu()
    assert logits is not None
    figures = measurement._against_teacher(logits, logits, labels, "accuracy")
    assert figures["retention"] == figures["agreement"] == 1.0
    assert figures["class_relation_preservation"] == pytest.approx(1.0)
    unknown = measurement._against_teacher(logits, None, labels, "accuracy")
    assert list(unknown) == list(figures) and set(unknown.values()) == {None}


def test_what_is_tested_is_what_the_student_says(context: StudyContext) -> None:
    (student,) = context.final.students(NET, context.dataset, 0)
    candidate = Candidate(5, "complete", json.loads(NET.to_json()), "f", {})
    metrics, logits = measurement.measure_on_test(context, student, candidate, 2)
    data = context.dataset
    expected, labels = training.predict(student, data.test, data.input.size)
    assert torch.equal(logits, expected)
    correct = int((expected.argmax(1) == labels).sum())
    assert metrics["test_accuracy"] == correct / 200 and (metrics["rank"], metrics["trial"]) == (
        2,
        5,
    )
    audit, audit_labels = training.predict(student, data.audit, data.input.size)
    right = int((audit.argmax(1) == audit_labels).sum())
    assert metrics["audit_accuracy"] == right / len(audit_labels)


def test_limits_are_held_on_the_exported_file(context: StudyContext, tmp_path: Path) -> None:
    (student,) = context.final.students(NET, context.dataset, 0)
    path = tmp_path / "model.onnx"
    metrics = measurement.export_student(context, student, path)
    # 256 pixels to 8 units to 3 classes: 2,056 and 27 parameters.
    assert metrics["params"] == 2083 and metrics["macs"] == 256 * 8 + 8 * 3
    assert metrics["onnx_bytes"] == path.stat().st_size
    assert metrics["limits"] == {
        "params": {"limit": 2500.0, "value": 2083, "ok": True},
        "bytes": {"limit": 1e6, "value": path.stat().st_size, "ok": True},
    }
    teacher = sum(p.numel() for p in context.teacher.module.parameters())
    assert metrics["compression"] == teacher / 2083 and metrics["speedup"] > 0
    assert {(row["model"], row["batch"]) for row in metrics["latency"]} == {
        ("student", 1),
        ("teacher", 1),
        ("student", 64),
        ("teacher", 64),
    }
    assert (context.folder / "teacher.onnx").exists()


def test_retention_is_of_the_score_of_the_study(opened: OpenContext, tmp_path: Path) -> None:
    write_blobs(Path("blobs.npz"), uneven=True)
    context = opened(score="balanced-accuracy")
    (student,) = context.final.students(NET, context.dataset, 0)
    candidate = Candidate(5, "complete", json.loads(NET.to_json()), "0123abcd", {})
    metrics, _ = measurement.measure_on_test(context, student, candidate, 2)
    key = "test_balanced_accuracy"
    expected = metrics[key] / metrics[f"teacher_{key}"]
    assert metrics["retention"] == expected
    assert metrics["retention"] != metrics["test_accuracy"] / metrics["teacher_test_accuracy"]
    metrics |= measurement.export_student(context, student, tmp_path / "model.onnx")
    way = context.dataset.preparation
    card = measurement.model_card(context.study, metrics | WHOLE, way)
    assert f"- balanced test accuracy {metrics[key]:.4f} (95 % interval " in card
    teacher = metrics[f"teacher_{key}"]
    assert f"\n  {expected:.2%} of the teacher's {teacher:.4f}\n- test accuracy" in card


def test_the_card_says_what_was_measured(context: StudyContext, tmp_path: Path) -> None:
    (student,) = context.final.students(NET, context.dataset, 0)
    candidate = Candidate(5, "complete", json.loads(NET.to_json()), "0123abcd", {})
    metrics, _ = measurement.measure_on_test(context, student, candidate, 2)
    metrics |= measurement.export_student(context, student, tmp_path / "model.onnx")
    way = context.dataset.preparation
    card = measurement.model_card(context.study, metrics | WHOLE | {"micro_batch": 13}, way)
    assert card.startswith("# small, final 2\n") and "architecture `0123abcd`" in card
    assert "distilled for 4 epochs, in micro-batches of 13 for want of memory." in card
    assert f"Pillow was version {importlib.metadata.version('pillow')};" in card
    assert f"{metrics['compression']:.1f}x fewer than the teacher" in card
    unknown = dict.fromkeys(("retention", "agreement", "teacher_test_accuracy", "compression"))
    alone = measurement.model_card(context.study, metrics | unknown | WHOLE, way)
    single = measurement.model_card(context.study, metrics | WHOLE | {"epochs": 1}, way)
    assert "distilled for 1 epoch.\n" in single
    several = metrics | WHOLE | {"processes": 2, "batch_norm_examples": 50}
    divided = measurement.model_card(context.study, several, way)
    assert "distilled for 4 epochs, on 2 GPUs or processes;\nbatch norm's statistics are" in divided
    assert "of 50 examples each, over all of these.\n" in divided
    assert "processes" not in card
    assert "teacher's" not in alone and "fewer" not in alone and "micro-batches" not in alone
