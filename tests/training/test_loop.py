from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import teacher_of
from small_study import write_blobs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nasdistill.common.errors import UserError
from nasdistill.common.types import Sampling
from nasdistill.data import Dataset, Mixing, load_data
from nasdistill.losses import Objective
from nasdistill.losses.schedules import constant
from nasdistill.models import Classifier
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import CachedTargets, TargetRequest, TeacherTargets
from nasdistill.training import BatchStream, Diverged, LRSchedule, Run, predict, seed_weights, train
from nasdistill.training.schedule import class_weights_of

PACE = LRSchedule(0.01, 100, None, 2000)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


def student(data: Dataset) -> nn.Module:
    seed_weights(0, "student")
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(196, 3),
    )
    return Classifier(net, data.mean, data.std)


def make(data: Dataset, lr_schedule: LRSchedule = PACE, seed: int = 3) -> Run:
    stream, objective = BatchStream(data, 50, 2, 7), Objective.labels()
    return Run([student(data)], stream, objective, horizon=2000, lr_schedule=lr_schedule, seed=seed)


def train_until(run: Run, until: int) -> list[float]:
    return [progress.loss for progress in train(run, until)]


WAITING = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "masked_select",
        "bincount",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "repeat_interleave.Tensor",
    )
}
"""What needs a value, or a size that depends on values, on the host."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what would make the host wait for a device, whatever the device is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._schema.name)
        by_mask = name in ("aten::index", "aten::index_put_") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in WAITING or f"{name}.{func._overloadname}" in WAITING:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[list[Any]]:
    """Collects them: on a card as CUDA tells of them, elsewhere from what is called."""
    if not torch.cuda.is_available():
        with Waits() as mode:
            yield mode.calls
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[key], right[key]) for key in left)


def test_training_lowers_the_loss_and_learns(data: Dataset) -> None:
    run = make(data)
    losses = train_until(run, 4000)
    assert losses[-1] < losses[0] / 2
    logits, labels = predict(run.student, data.score, (16, 16))
    assert (logits.argmax(1) == labels).float().mean() > 0.7


def test_a_run_restored_goes_on_bit_for_bit(data: Dataset, tmp_path: Path) -> None:
    whole = make(data)
    train_until(whole, 1500)
    first = make(data)
    train_until(first, 700)
    first.save(tmp_path / "run.pt")
    second = make(data)
    second.restore(tmp_path / "run.pt")
    assert second.examples == 700
    train_until(second, 1500)
    assert same(whole.student, second.student)


def test_a_branch_leaves_the_trunk_alone(data: Dataset) -> None:
    lone, trunk = make(data), make(data)
    train_until(lone, 1000)
    train_until(trunk, 500)
    branch = trunk.branch(LRSchedule(0.01, 100, 500, 800))
    train_until(branch, 800)
    assert not same(branch.student, trunk.student)
    train_until(trunk, 1000)
    assert same(lone.student, trunk.student)


def test_the_stream_depends_on_the_seed_and_the_step_alone(data: Dataset) -> None:
    stream = BatchStream(data, 50, 2, 7)
    whole = list(stream.plan(0, 25))
    parts = [*stream.plan(0, 13), *stream.plan(13, 25)]
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(whole, parts, strict=True))
    assert not torch.equal(whole[0][0], next(BatchStream(data, 50, 2, 8).plan(0, 1))[0])
    assert [view for _, view in whole] == [0] * 10 + [1] * 10 + [0] * 5
    seen = torch.cat([ids for ids, _ in whole[:10]])
    assert len(seen.unique()) == 500


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_a_step_counts_the_examples_that_there_are(data: Dataset, sampling: Sampling) -> None:
    stream = BatchStream(data, 600, 2, 7, sampling)
    assert (stream.examples_per_epoch, stream.steps_per_epoch) == (501, 1)
    assert [(len(ids), view) for ids, view in stream.plan(0, stream.steps(1000))] == [
        (501, 0),
        (501, 1),
    ]


def test_balanced_sampling_shows_every_class_equally_often(tmp_path: Path) -> None:
    path = write_blobs(tmp_path / "uneven.npz", uneven=True)
    data = load_data(f"npz:{path}", device=torch.device("cpu"))
    stream = BatchStream(data, 50, 2, 7, "balanced")
    whole = list(stream.plan(0, 3 * stream.steps_per_epoch))
    parts = [*stream.plan(0, 13), *stream.plan(13, len(whole))]
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(whole, parts, strict=True))
    assert {len(ids) for ids, _ in whole} == {50}
    labels, ids = data.train.labels, torch.cat([ids for ids, _ in whole])
    shown = torch.bincount(labels[ids])
    assert shown.max() - shown.min() <= 3 and shown.sum() == len(ids)
    # In a class, all examples come before any comes again; what an epoch cuts off may be missing.
    for label in range(3):
        times = torch.bincount(ids[labels[ids] == label], minlength=len(labels))
        times = times[labels == label]
        assert times.max() - times.min() <= 2
    order = next(BatchStream(data, 50, 2, 8, "balanced").plan(0, 1))[0]
    assert not torch.equal(whole[0][0], order)


def test_class_weights_make_up_for_uneven_classes(tmp_path: Path) -> None:
    path = write_blobs(tmp_path / "uneven.npz", uneven=True)
    data = load_data(f"npz:{path}", device=torch.device("cpu"))
    weights, labels = class_weights_of("balanced", data), data.train.labels
    assert weights is not None
    total = torch.stack([weights[labels][labels == k].sum() for k in range(3)])
    assert torch.allclose(total, torch.full((3,), len(labels) / 3))
    named = class_weights_of({"1": 4.0}, data)
    assert named is not None and named.tolist() == [1.0, 4.0, 1.0]
    assert class_weights_of(None, data) is None
    with pytest.raises(UserError, match="class_weights: 'two' is no class of .*its classes: 0, 1"):
        class_weights_of({"two": 4.0}, data)


def test_pace_warms_up_holds_and_cools_down() -> None:
    lr_schedule = LRSchedule(1.0, 100, 500, 1000)
    assert [lr_schedule(n) for n in (49, 99, 300, 750, 1000)] == pytest.approx([0.5, 1, 1, 0.5, 0])


def test_a_loss_that_is_not_finite_ends_the_run(data: Dataset) -> None:
    run = make(data, LRSchedule(1e20, 1, None, 1000))
    with pytest.raises(Diverged, match="the loss became"):
        train_until(run, 1000)


def test_distilling_asks_for_each_batch_and_leaves_the_teacher_alone(data: Dataset) -> None:
    teacher = student(data).eval()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    sizes: list[int] = []

    class Live(TeacherTargets):
        def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
            sizes.append(len(request.batch.ids))
            with torch.no_grad():
                return Outputs(teacher(request.batch.images))

    objective = Objective.classic(constant(0.1), constant(4.0))
    run = Run(
        [student(data)],
        BatchStream(data, 50, 2, 7),
        objective,
        horizon=500,
        lr_schedule=PACE,
        seed=1,
        targets={"teacher": Live()},
    )
    assert [p.examples for p in train(run, 500, every=4)] == [200, 400, 500]
    assert sizes == [50] * 10
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_leaving_the_loop_leaves_a_run_that_goes_on(data: Dataset) -> None:
    whole, left = make(data), make(data)
    train_until(whole, 1000)
    for progress in train(left, 1000, every=3):
        if progress.examples >= 300:
            break
    assert left.examples == 300
    train_until(left, 1000)
    assert same(whole.student, left.student)


def test_what_waits_is_seen() -> None:
    here = torch.ones(3, device="cuda" if torch.cuda.is_available() else "cpu")
    for wait in (lambda: here[0].item(), lambda: here[here > 0], lambda: here.nonzero()):
        with waits() as calls:
            wait()
        assert calls, wait


@pytest.mark.parametrize(
    "views",
    [
        {},
        {"cut_out": 0.3},
        {"kind": "crop"},
        {"mixing": Mixing("mixup", 0.4)},
        {"mixing": Mixing("cutmix", 1.0)},
    ],
    ids=["shift", "cut-out", "crop", "mixup", "cutmix"],
)
def test_the_host_waits_for_the_device_only_where_it_tells(
    views: dict[str, Any], tmp_path: Path
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(f"npz:{write_blobs(tmp_path / 'blobs.npz')}", device=device)
    data = data.with_views(replace(data.views, **views))
    teacher = teacher_of(student(data).to(device), data.input)
    targets = CachedTargets(teacher, LogitCache(teacher, data, tmp_path / "answers"))
    stream = BatchStream(data, 50, 2, 7)
    targets.prepare(stream.plan(0, 12))
    objective = Objective.classic(lambda progress: 0.1 + progress / 2, constant(4.0))
    run = Run(
        [student(data)],
        stream,
        objective,
        horizon=600,
        lr_schedule=PACE,
        seed=1,
        targets={"teacher": targets},
    )
    for _ in train(run, 100):  # what is made at first use: moments of the optimiser, tables
        pass
    with waits() as calls:
        examples = [progress.examples for progress in train(run, 600, every=5)]
    assert examples == [250, 500, 600]
    assert len(calls) == len(examples), calls
