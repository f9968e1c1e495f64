"""Inputs of many steps at once: the pictures and targets that single steps see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_helpers import conv, objective, run_of, teacher_of
from small_study import write_blobs

from nasdistill.data import Dataset, load_data
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import CachedTargets
from nasdistill.training import Run
from nasdistill.training.step_inputs import step_inputs, values_of

TERMS = ({"term": "labels"}, {"term": "kl", "temperature": {"linear": [4, 2]}, "weight": 0.5})


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    spec = f"npz:{write_blobs(tmp_path / 'blobs.npz')}"
    return load_data(spec, device=torch.device("cpu"))


@pytest.fixture
def run(data: Dataset, tmp_path: Path) -> Run:
    teacher = teacher_of(conv(seed=5))
    targets = CachedTargets(teacher, LogitCache(teacher, data, tmp_path / "cache"))
    run = run_of(data, [conv()], objective(*TERMS), {"teacher": targets})
    targets.prepare(run.stream.plan(0, 12))
    return run


def test_each_step_has_its_own_batch_and_targets(run: Run) -> None:
    # Twelve steps: an epoch of ten, and two of the next, in another view.
    inputs = list(step_inputs(run, 12))
    assert len(inputs) == 12
    plan = list(run.stream.plan(0, 12))
    singles = run.stream.dataset.train.batches(plan, run.size)
    for one, single in zip(inputs, singles, strict=True):
        assert torch.equal(one.batch.images, single.images)
        assert torch.equal(one.batch.labels, single.labels)
        assert one.batch.ids_host.tolist() == single.ids_host.tolist()
        expected = run.targets["teacher"].cache.logits(single)  # type: ignore[attr-defined]
        assert torch.equal(one.targets["teacher"].logits, expected)
    assert inputs[0].batch.view == 0 and inputs[11].batch.view == 1


def test_they_begin_where_the_run_stands(run: Run) -> None:
    whole = list(step_inputs(run, 4))
    run.step = 3
    (last,) = step_inputs(run, 4)
    assert torch.equal(last.batch.images, whole[3].batch.images)


def test_values_are_the_rate_and_the_schedules_of_each_step(run: Run) -> None:
    values = values_of(run, 3)
    rates = [run.lr_schedule(50 * step) for step in range(3)]
    # Weights 1 and 0.5, and a temperature that falls from 4 to 2 over 500 images.
    rows = [[rate, 1.0, 4 - 2 * 50 * step / 500, 0.5] for step, rate in enumerate(rates)]
    assert sorted(values[2].tolist()) == pytest.approx(sorted(rows[2]))
    assert values.shape == (3, 4) and values[:, 0].tolist() == pytest.approx(rates)
