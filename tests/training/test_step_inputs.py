"""Inputs of steps: those of a whole stretch are those of its steps, taken one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import conv, objective, run_of, teacher_of
from small_study import write_blobs
from torch import Tensor

from nasdistill.data import Dataset, Mixing, load_data
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.table import Table
from nasdistill.teachers.targets import CachedTargets, TableTargets
from nasdistill.training import Run, step_inputs
from nasdistill.training.step_inputs import StepInputs, scheduled_values

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 25
"""Two epochs of ten steps, each in a view of its own, and a half."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=HERE)


def run_on(data: Dataset, folder: Path) -> Run:
    """A run with two teachers: a cached one, and a table that lacks some examples."""
    teacher = teacher_of(conv((4, 6), seed=5).to(HERE))
    cached = CachedTargets(teacher, LogitCache(teacher, data, folder))
    ids = torch.arange(len(data.train))
    logits = torch.stack([ids, ids + 1, ids * 2], dim=1).float().numpy()
    table = TableTargets(Table(logits, (ids % 3 != 0).numpy()), HERE)
    terms = ({"term": "labels"}, {"term": "kl"}, {"term": "js", "teacher": "table"})
    run = run_of(data, [conv()], objective(*terms), {"teacher": cached, "table": table})
    cached.prepare(run.stream.plan(0, STEPS))
    return run


def one_by_one(run: Run) -> Iterator[StepInputs]:
    for step in range(STEPS):
        run.step = step
        (inputs,) = step_inputs.step_inputs(run, step + 1)
        yield inputs
    run.step = 0


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left.dtype == right.dtype and torch.equal(left, right)


@pytest.mark.parametrize("mixing", [None, Mixing("mixup", 1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize("rendered_bytes", [step_inputs.RENDERED_BYTES, 3 * 50 * 16 * 16])
def test_inputs_of_a_stretch_are_those_of_single_steps(
    data: Dataset,
    tmp_path: Path,
    mixing: Mixing | None,
    rendered_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed = data.with_views(replace(data.views, mixing=mixing))
    run = run_on(mixed, tmp_path)
    singles = list(one_by_one(run))
    monkeypatch.setattr(step_inputs, "RENDERED_BYTES", rendered_bytes)
    stretch = list(step_inputs.step_inputs(run, STEPS))
    assert len(stretch) == len(singles) == STEPS
    for inputs, single in zip(stretch, singles, strict=True):
        assert len(inputs.batch.ids) == 50 and inputs.batch.view == single.batch.view
        assert_equal(inputs.tensors(), single.tensors())


def test_inputs_are_the_batches_of_the_stream_and_their_targets(
    data: Dataset, tmp_path: Path
) -> None:
    run = run_on(data, tmp_path)
    cached = run.targets["teacher"]
    assert isinstance(cached, CachedTargets)
    batches = data.train.batches(run.stream.plan(0, STEPS), run.size)
    for inputs, batch in zip(step_inputs.step_inputs(run, STEPS), batches, strict=True):
        assert inputs.batch.view == batch.view
        for name in ("images", "labels", "ids", "ids_host"):
            assert torch.equal(getattr(inputs.batch, name), getattr(batch, name)), name
        assert torch.equal(inputs.targets["teacher"].logits, cached.cache.logits(batch))
        table = inputs.targets["table"]
        assert table.known is not None and torch.equal(table.known, batch.ids % 3 != 0)
        assert torch.equal(table.logits[:, 2], batch.ids * 2.0)


def test_a_stretch_starts_at_the_step_of_the_run(data: Dataset, tmp_path: Path) -> None:
    run = run_on(data, tmp_path)
    whole = list(step_inputs.step_inputs(run, STEPS))
    run.step = 7
    rest = list(step_inputs.step_inputs(run, STEPS))
    assert len(rest) == STEPS - 7
    for inputs, other in zip(whole[7:], rest, strict=True):
        assert_equal(inputs.tensors(), other.tensors())
    assert not torch.equal(whole[0].batch.ids, rest[0].batch.ids)


def test_rows_hold_the_same_examples_of_every_tensor(data: Dataset, tmp_path: Path) -> None:
    inputs = next(step_inputs.step_inputs(run_on(data, tmp_path), 1))
    rows = inputs.rows(3, 8)
    assert torch.equal(rows.batch.ids, inputs.batch.ids[3:8])
    assert_equal(rows.tensors(), [tensor[3:8] for tensor in inputs.tensors()])


def test_scheduled_values_by_hand(data: Dataset) -> None:
    kl = {"term": "kl", "weight": {"linear": [0.2, 1.0]}, "temperature": 2.0}
    count = len(data.train)
    table = Table(np.zeros((count, 3), np.float32), np.ones(count, dtype=bool))
    targets = {"teacher": TableTargets(table, HERE)}
    run = run_of(data, [conv()], objective({"term": "labels"}, kl), targets)
    run.step = 4  # 200 of a horizon of 500 examples
    values = scheduled_values(run, 6)
    assert values.shape == (2, 4) and values.dtype == torch.float32
    # Learning rate after its warm-up, weight of the labels, temperature, weight of the KL.
    expected = [[0.01, 1.0, 2.0, 0.2 + 0.8 * 0.4], [0.01, 1.0, 2.0, 0.2 + 0.8 * 0.5]]
    torch.testing.assert_close(values.cpu(), torch.tensor(expected))
