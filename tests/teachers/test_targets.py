"""Targets of each kind of teacher by hand, and their effect on a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import GREY, batch_of, conv, objective, pictures, run_of, same, teacher_of
from small_study import write_blobs
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.data import Dataset, load_data
from nasdistill.models.hooks import LayerError, Outputs, summarise
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.table import Table
from nasdistill.teachers.targets import (
    CachedTargets,
    EMATargets,
    EnsembleTargets,
    PeerTargets,
    SnapshotTargets,
    TableTargets,
    TargetRequest,
    TeacherTargets,
    needed_students,
)
from nasdistill.training import Run, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=CPU)


def train_until(run: Run, until: int) -> Run:
    for targets in run.targets.values():
        targets.prepare(run.stream.plan(0, run.stream.steps(until)))
    for _ in train(run, until):
        pass
    return run


@dataclass
class Stated(TeacherTargets):
    """Targets with stated probabilities."""

    p: list[list[float]]
    known: list[bool] | None = None

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        known = None if self.known is None else torch.tensor(self.known)
        return Outputs(torch.tensor(self.p).log() + 3.0, known=known)


def request(
    count: int = 2, student_outputs: list[Outputs] | None = None, student: int = 0
) -> TargetRequest:
    return TargetRequest(batch_of(pictures(count)), (), student_outputs or [], student)


def probabilities(targets: TeacherTargets, count: int = 2) -> list[list[float]]:
    """The probabilities of examples with labels 0, 1, …"""
    p: list[list[float]] = targets(request(count), None).logits.exp().tolist()
    return p


A = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]
B = [[0.1, 0.5, 0.4], [0.2, 0.6, 0.2]]


def near(p: list[list[float]], worked: list[list[float]]) -> bool:
    return bool(np.allclose(p, worked, rtol=1e-4, atol=1e-6))


def test_a_mean_by_shares() -> None:
    worked = [
        [0.75 * a + 0.25 * b for a, b in zip(*rows, strict=True)] for rows in zip(A, B, strict=True)
    ]
    assert near(probabilities(EnsembleTargets([Stated(A), Stated(B)], [0.75, 0.25])), worked)
    assert near(probabilities(EnsembleTargets([Stated(A), Stated(B)], [3.0, 1.0])), worked)


def test_a_mean_by_certainty() -> None:
    def sure(row: list[float]) -> float:
        return 1 + sum(p * math.log(p) for p in row) / math.log(3)

    worked = []
    for one, other in zip(A, B, strict=True):
        a, b = 0.4 * sure(one), 0.6 * sure(other)
        worked.append([(a * p + b * q) / (a + b) for p, q in zip(one, other, strict=True)])
    assert near(
        probabilities(EnsembleTargets([Stated(A), Stated(B)], [0.4, 0.6], "certainty")), worked
    )
    even = [[1 / 3] * 3] * 2
    mean = probabilities(EnsembleTargets([Stated(A), Stated(even)], [0.5, 0.5], "certainty"))
    assert near(mean, A), "who does not know does not count"


def test_a_mean_of_those_that_are_right() -> None:
    # The labels are 0 and 1: each teacher is right about one.
    p = probabilities(EnsembleTargets([Stated(A), Stated(B)], [0.5, 0.5], "correct"))
    assert near(p, [A[0], B[1]])
    wrong = [[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]
    also = [[0.2, 0.2, 0.6], [0.4, 0.2, 0.4]]
    p = probabilities(EnsembleTargets([Stated(wrong), Stated(also)], [0.5, 0.5], "correct"))
    assert near(p, [[0.15, 0.2, 0.65], [0.25, 0.2, 0.55]]), "none is right: all count"


@pytest.mark.parametrize("by", ["shares", "certainty", "correct"])
def test_a_mean_with_examples_that_one_does_not_know(by: Any) -> None:
    # What stands for an unknown answer would be right, but does not count.
    blank = [[1 / 3] * 3] * 3
    wrong = [[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1]]
    mean = EnsembleTargets([Stated(wrong), Stated(blank, [False, True, False])], [0.5, 0.5], by)
    outputs = mean(request(3), None)
    assert outputs.known is not None and outputs.known.tolist() == [True, True, True]
    p = outputs.logits.exp().tolist()
    assert near([p[0], p[2]], [wrong[0], wrong[2]])
    both = EnsembleTargets(
        [Stated(wrong, [True, False, True]), Stated(blank, [False, False, True])], [0.5, 0.5], by
    )
    outputs = both(request(3), None)
    assert outputs.known is not None and outputs.known.tolist() == [True, False, True]
    assert outputs.logits.isfinite().all()


def test_targets_without_layers_raise_an_error() -> None:
    with_layers = TargetRequest(batch_of(pictures(2)), ("stages.0",), [], 0)
    table = TableTargets(Table(np.zeros((2, 3), np.float32), np.ones(2, bool)), CPU)
    for targets, words in (
        (EnsembleTargets([Stated(A)], [1.0]), "a mean of teachers has no layers"),
        (table, "a table of recorded answers has no layers"),
        (PeerTargets(2), "peers teach by their logits alone"),
    ):
        assert targets.summary(summarise(conv(), "student", GREY)) is None
        with pytest.raises(LayerError, match=words):
            targets(with_layers, None)


def test_peers_give_the_mean_of_the_others() -> None:
    outputs = [
        Outputs(torch.tensor(p).log().requires_grad_()) for p in (A, B, [[0.2, 0.2, 0.6]] * 2)
    ]
    targets = PeerTargets(3)(request(2, outputs, student=1), None)
    worked = [[(a + 0.2) / 2, (b + 0.2) / 2, (c + 0.6) / 2] for a, b, c in A]
    assert near(targets.logits.exp().tolist(), worked) and not targets.logits.requires_grad
    assert near(PeerTargets(2)(request(2, outputs[:2], 0), None).logits.exp().tolist(), B)
    assert needed_students({"a": PeerTargets(3), "b": EMATargets(0.9)}) == 3
    assert needed_students({}) == 1


def test_two_peers_learn_from_each_other(data: Dataset) -> None:
    students = [conv((4, 6), seed=0), conv((4, 6), seed=1)]
    described = objective(
        {"term": "labels", "weight": 0.5}, {"term": "kl", "teacher": "peers", "temperature": 2}
    )
    run = run_of(data, students, described, {"peers": PeerTargets(2)}, horizon=2000)
    (batch,) = data.train.batches(run.stream.plan(0, 1), run.size)
    run.students.eval()
    with torch.no_grad():
        log_p = [(s(batch.images) / 2).log_softmax(dim=1) for s in students]
        plain = [nn.functional.cross_entropy(s(batch.images), batch.labels) for s in students]
    # KL(peer ‖ student)·T², each for the other; the mean of one peer is that peer's, at any T.
    worked = sum(
        0.5 * float(plain[i])
        + 4 * float((log_p[1 - i].exp() * (log_p[1 - i] - log_p[i])).sum(dim=1).mean())
        for i in range(2)
    )
    assert float(run.loss(batch).detach()) == pytest.approx(worked, rel=1e-4)
    before = [p.detach().clone() for p in run.students.parameters()]
    losses = [p.loss for p in train(run, 1500)]
    assert losses[-1] < losses[0]
    pairs = zip(before, run.students.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_gradients_do_not_cross_between_peers(data: Dataset) -> None:
    def grads(weight: float, students: list[nn.Module]) -> list[Tensor]:
        described = objective(
            {"term": "kl", "teacher": "peers"}, {"term": "labels", "weight": weight}
        )
        run = run_of(data, students, described, {"peers": PeerTargets(2)})
        (batch,) = data.train.batches(run.stream.plan(0, 1), run.size)
        return list(torch.autograd.grad(run.loss(batch), list(students[0].parameters())))

    # The gradient of one is that of its own loss alone, where the other is a frozen teacher.
    frozen = conv((4, 6), seed=1).train()

    @dataclass
    class Other(TeacherTargets):
        def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
            with torch.no_grad():
                return Outputs(frozen(request.batch.images))

    crossing = grads(0.5, [conv((4, 6), seed=0), conv((4, 6), seed=1)])
    alone = conv((4, 6), seed=0)
    described = objective({"term": "kl", "teacher": "it"}, {"term": "labels", "weight": 0.5})
    run = run_of(data, [alone], described, {"it": Other()})
    (batch,) = data.train.batches(run.stream.plan(0, 1), run.size)
    for one, other in zip(
        crossing, torch.autograd.grad(run.loss(batch), list(alone.parameters())), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_average_follows_its_formula(data: Dataset) -> None:
    described = objective({"term": "labels"}, {"term": "kl", "teacher": "mean"})
    run = run_of(data, [conv((4, 6), dropout=0.2)], described, {"mean": EMATargets(0.4)})
    worked = {k: v.clone() for k, v in run.student.state_dict().items()}
    for step, _ in enumerate(train(run, 500, every=1), start=1):
        decay = min(0.4, (1 + step) / (10 + step))
        for key, value in run.student.state_dict().items():
            if value.is_floating_point():
                worked[key] = decay * worked[key] + (1 - decay) * value
            else:
                worked[key] = value.clone()
    average = run.teacher_copies[0].get_submodule("mean")
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    for key, value in average.state_dict().items():
        torch.testing.assert_close(value, worked[key], rtol=1e-5, atol=1e-6)
    assert not same(average, run.student)


def test_the_earlier_student_is_that_of_some_steps_ago(data: Dataset) -> None:
    described = objective({"term": "labels"}, {"term": "kl", "teacher": "past"})
    run = run_of(data, [conv((4, 6))], described, {"past": SnapshotTargets(3)})
    states = [{k: v.clone() for k, v in run.student.state_dict().items()}]
    for step, _ in enumerate(train(run, 400, every=1), start=1):
        states.append({k: v.clone() for k, v in run.student.state_dict().items()})
        earlier = run.teacher_copies[0].get_submodule("past").state_dict()
        assert all(torch.equal(earlier[k], v) for k, v in states[step - step % 3].items())


def test_copies_of_the_student_have_its_layers(data: Dataset) -> None:
    described = objective(
        {"term": "labels"}, {"term": "features", "teacher": "mean", "layers": {0: 0}}
    )
    run = run_of(data, [conv((4, 6))], described, {"mean": EMATargets(0.9)})
    (batch,) = data.train.batches(run.stream.plan(0, 1), run.size)
    assert run.loss(batch).isfinite() and list(run.auxiliaries[0].parameters()) == []
    with pytest.raises(LayerError, match="the moving average has no layer 9"):
        wrong = {"term": "features", "teacher": "mean", "layers": {0: 9}}
        run_of(data, [conv((4, 6))], objective(wrong), {"mean": EMATargets(0.9)})


def test_examples_without_a_recorded_answer_add_nothing(data: Dataset) -> None:
    known = np.arange(len(data.names)) % 3 != 0
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(known), 3)).astype(np.float32) * known[:, None]
    student = conv((4, 6)).eval()
    described = objective(
        {"term": "labels", "weight": 0.5}, {"term": "kl", "teacher": "table", "temperature": 1}
    )
    table = TableTargets(Table(logits, known), CPU)
    assert not table.complete
    run = run_of(data, [student], described, {"table": table})
    (batch,) = data.train.batches(run.stream.plan(0, 1), run.size)
    student.eval()
    with torch.no_grad():
        log_s = student(batch.images).log_softmax(dim=1)
        log_t = torch.from_numpy(logits)[batch.ids].log_softmax(dim=1)
        kl = (log_t.exp() * (log_t - log_s)).sum(dim=1).tolist()
        labels = nn.functional.nll_loss(log_s, batch.labels).item()
    counted = [loss for loss, i in zip(kl, batch.ids.tolist(), strict=True) if known[i]]
    assert 0 < len(counted) < 50
    worked = 0.5 * labels + sum(counted) / 50
    assert float(run.loss(batch).detach()) == pytest.approx(worked, rel=1e-4)
    train_until(run, 200)


def frozen(module: nn.Module, data: Dataset, folder: Path, input: Input = GREY) -> CachedTargets:
    teacher = teacher_of(module, input)
    return CachedTargets(teacher, LogitCache(teacher, data, folder))


def test_a_live_teacher_is_the_same_after_training(data: Dataset, tmp_path: Path) -> None:
    teacher = conv((6, 8, 10), seed=5, dropout=0.5)
    targets = frozen(teacher, data, tmp_path)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    described = objective(
        {"term": "labels"},
        {"term": "features"},
        {"term": "kl"},
        {"term": "similarity"},
        {"term": "adversarial"},
        {"term": "adversarial", "on": "features"},
    )
    run = train_until(
        run_of(data, [conv((4, 6, 8), dropout=0.2)], described, {"teacher": targets}), 400
    )
    assert run.step == 8
    assert not any(part.training for part in teacher.modules())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_logits_come_from_the_cache_and_layers_from_the_teacher(
    data: Dataset, tmp_path: Path
) -> None:
    targets = frozen(conv((6, 8), seed=5), data, tmp_path)
    targets.prepare([(torch.arange(40), 0)])
    (batch,) = data.train.batches([(torch.arange(40), 0)], (16, 16))
    remembered = targets(TargetRequest(batch, (), [], 0), None)
    live = targets(TargetRequest(batch, ("stages.0",), [], 0), None)
    assert remembered.module is None and remembered.logits.dtype == torch.float16
    assert live.features["stages.0"].shape == (40, 6, 8, 8) and not live.logits.requires_grad
    torch.testing.assert_close(remembered.logits.float(), live.logits, atol=1e-2, rtol=1e-2)


def test_a_teacher_of_another_size_sees_the_same_view_at_its_own(
    data: Dataset, tmp_path: Path
) -> None:
    """And with its own normalisation."""
    teacher = conv((6, 8), seed=5, mean=0.1)
    targets = frozen(teacher, data, tmp_path, Input(1, 32, 32))
    described = objective({"term": "labels"}, {"term": "features", "layers": {1: 1}})
    run = run_of(data, [conv((4, 6))], described, {"teacher": targets})
    assert run.sizes == ((32, 32),)
    plan = list(run.stream.plan(0, 1))
    (batch,) = data.train.batches(plan, run.size, run.sizes)
    (large,) = data.train.batches(plan, (32, 32))
    assert torch.equal(batch.images_at((32, 32)), large.images)
    shrunk = nn.functional.avg_pool2d(large.images.float(), 2)
    own, other = (
        float((shrunk - images.float()).abs().mean())
        for images in (batch.images, batch.images.roll(1, 0))
    )
    assert own < other / 2, "the same crop"
    features = targets(TargetRequest(batch, ("stages.1",), [], 0), None).features["stages.1"]
    with torch.no_grad():
        expected: Any = (large.images.float() / 255 - 0.1) / 0.25
        for stage in teacher.net.stages:  # type: ignore[union-attr]
            expected = stage(expected)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    assert features.shape == (50, 8, 8, 8)
    train_until(run, 200)


def everyone(data: Dataset, folder: Path) -> dict[str, TeacherTargets]:
    one = frozen(conv((6, 8), seed=5), data, folder)
    other = frozen(conv((4, 4), seed=6), data, folder)
    return {
        "teacher": one,
        "both": EnsembleTargets([one, other], [0.5, 0.5], "certainty"),
        "mean": EMATargets(0.9),
        "peers": PeerTargets(2),
        "past": SnapshotTargets(3),
    }


def with_everyone(data: Dataset, folder: Path) -> Run:
    described = objective(
        {"term": "labels"},
        {"term": "features", "layers": {0: 0}},
        {"term": "kl", "teacher": "both"},
        {"term": "kl", "teacher": "peers", "weight": 0.5},
        {"term": "mse_logits", "teacher": "mean"},
        {"term": "js", "teacher": "past"},
        balance="gradient",
    )
    students = [conv((4, 6), seed=i, dropout=0.2) for i in range(2)]
    return run_of(data, students, described, everyone(data, folder))


def test_a_run_with_all_that_learns_goes_on_bit_for_bit(data: Dataset, tmp_path: Path) -> None:
    whole = train_until(with_everyone(data, tmp_path), 700)
    first = train_until(with_everyone(data, tmp_path), 350)
    first.save(tmp_path / "run.pt")
    second = with_everyone(data, tmp_path)
    second.restore(tmp_path / "run.pt")
    branch = first.branch(first.lr_schedule)
    for run in (second, branch):
        train_until(run, 700)
        for name in ("students", "auxiliaries", "teacher_copies"):
            assert same(getattr(run, name), getattr(whole, name)), name
    restored = torch.load(tmp_path / "run.pt", weights_only=True)
    assert first.step == restored["step"] == 7
    for key, value in first.students.state_dict().items():
        assert torch.equal(value, restored["students"][key]), "a branch changed its trunk"
    train_until(first, 700)
    assert same(first.students, whole.students) and same(first.teacher_copies, whole.teacher_copies)
