"""Terms between examples: by loops over plain numbers, and against torchdistill's losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_helpers import compared
from numpy.typing import NDArray
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import Pair
from nasdistill.losses.relational import (
    CRD,
    RKD,
    Similarity,
    angles,
    distances,
    shares_class,
)
from nasdistill.losses.schedules import constant, linear

Array = NDArray[np.float64]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = drawn(5, 3, 4, 4), drawn(5, 6, 2, 2, seed=1)


def test_similarity_against_loops() -> None:
    matrices = []
    for maps in (STUDENT, TEACHER):
        rows = [maps[i].flatten().double().numpy() for i in range(5)]
        matrix = np.array([[float(a @ b) for b in rows] for a in rows])
        matrices.append(np.array([row / math.sqrt(float(row @ row)) for row in matrix]))
    worked = float(((matrices[0] - matrices[1]) ** 2).sum()) / 25
    value = compared(Similarity(), STUDENT, TEACHER)
    assert float(value) == pytest.approx(worked, rel=1e-4)


def test_similarity_is_torchdistills_with_rows_of_length_one() -> None:
    """torchdistill 1.1.5 calls `normalize(x, 1)`, which makes 1 the norm's p instead of its axis;
    the paper, like us, divides each row by its Euclidean length.
    """
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    outputs = {"it": {"output": STUDENT}}, {"it": {"output": TEACHER}}
    theirs = losses.SPKDLoss("it", "it", reduction="batchmean")
    by_sum = [F.normalize(x.flatten(1) @ x.flatten(1).T, p=1.0) for x in (STUDENT, TEACHER)]
    worked = (by_sum[0] - by_sum[1]).square().sum() / 25
    assert float(theirs(*outputs)) == pytest.approx(float(worked), rel=1e-5)
    theirs.matmul_and_normalize = lambda z: F.normalize(z.flatten(1) @ z.flatten(1).T, dim=1)
    value = compared(Similarity(), STUDENT, TEACHER)
    assert float(value) == pytest.approx(float(theirs(*outputs)), rel=1e-5)


def huber(a: float, b: float) -> float:
    apart = abs(a - b)
    return 0.5 * apart**2 if apart < 1 else apart - 0.5


def plain_distances(points: Array) -> Array:
    apart = np.array([[math.dist(a, b) for b in points] for a in points])
    return apart / apart[apart > 0].mean()


def plain_angles(points: Array) -> Array:
    count = len(points)
    cosines = np.zeros((count, count, count))
    for i in range(count):
        for j in range(count):
            for k in range(count):
                a, b = points[j] - points[i], points[k] - points[i]
                size = math.hypot(*a) * math.hypot(*b)
                cosines[i, j, k] = float(a @ b) / size if size else 0.0
    return cosines


def test_distances_and_angles_against_loops() -> None:
    mine, theirs = (x.double().mean(dim=(2, 3)).numpy() for x in (STUDENT, TEACHER))
    worked = {}
    for name, of in (("distance", plain_distances), ("angle", plain_angles)):
        pairs = zip(of(mine).flatten(), of(theirs).flatten(), strict=True)
        worked[name] = float(np.mean([huber(a, b) for a, b in pairs]))
    value = compared(RKD(distance=1.0, angle=0.0), STUDENT, TEACHER)
    assert float(value) == pytest.approx(worked["distance"], rel=1e-4)
    value = compared(RKD(distance=0.0, angle=1.0), STUDENT, TEACHER)
    assert float(value) == pytest.approx(worked["angle"], rel=1e-4)
    value = compared(RKD(), STUDENT, TEACHER)
    assert float(value) == pytest.approx(worked["distance"] + 2 * worked["angle"], rel=1e-4)


def test_a_right_triangle_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    mean = (3 + 4 + 5) / 3
    expected = [[0, 3 / mean, 4 / mean], [3 / mean, 0, 5 / mean], [4 / mean, 5 / mean, 0]]
    torch.testing.assert_close(distances(points), torch.tensor(expected))
    cosines = angles(points)
    assert cosines[0, 1, 2].item() == pytest.approx(0.0, abs=1e-6)
    assert cosines[1, 0, 2].item() == pytest.approx(3 / 5)
    assert cosines[2, 0, 1].item() == pytest.approx(4 / 5)


def test_relations_are_torchdistills() -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    mine, theirs = drawn(6, 5, seed=2), drawn(6, 7, seed=3)
    outputs = {"it": {"output": mine}}, {"it": {"output": theirs}}
    loss = losses.RKDLoss("it", "it", dist_factor=1.5, angle_factor=0.5, reduction="mean")
    value = compared(RKD(distance=1.5, angle=0.5), *(x[:, :, None, None] for x in (mine, theirs)))
    assert float(value) == pytest.approx(float(loss(*outputs)), rel=1e-4)


def test_twins_and_equal_examples_give_finite_gradients() -> None:
    for points in (torch.zeros(4, 3, 1, 1), drawn(2, 3, 1, 1).repeat(2, 1, 1, 1)):
        student = points.clone().requires_grad_()
        loss = compared(RKD(), student, drawn(4, 5, 1, 1))
        loss.backward()
        assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_contrast_against_plain_sums() -> None:
    made = CRD(temperature=linear(0.5, 0.1), width=4)
    torch.manual_seed(0)
    helper = made.helper(Pair("a", ("b",), (3, 4, 4), ((6, 2, 2),)))
    assert isinstance(helper, nn.ModuleDict)
    value = compared(made, STUDENT, TEACHER, helper, progress=0.5).detach()
    sides = []
    for name, maps in (("student", STUDENT), ("teacher", TEACHER)):
        layer = helper[name]
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        rows = [weight @ x + bias for x in maps.double().mean(dim=(2, 3)).numpy()]
        sides.append([row / math.sqrt(float(row @ row)) for row in rows])
    mine, theirs = sides
    powers = np.exp(np.array([[float(a @ b) / 0.3 for b in theirs] for a in mine]))
    worked = 0.0
    for i in range(5):
        for row in (powers[i], powers[:, i]):  # told apart by the student, and by the teacher
            worked -= math.log(row[i] / sum(row)) / 10
    assert float(value) == pytest.approx(worked, rel=1e-4)
    labels = torch.tensor([0, 1, 0, 2, 0])
    alike = compared(made, STUDENT, TEACHER, helper, 0.5, labels).detach()
    worked = 0.0
    for i in range(5):
        others = (1, 3) if i in (0, 2, 4) else tuple(k for k in range(5) if k != i)
        for row in (powers[i], powers[:, i]):
            worked -= math.log(row[i] / (row[i] + sum(row[k] for k in others))) / 10
    assert float(alike) == pytest.approx(worked, rel=1e-4)


def test_examples_of_one_class_are_no_negatives() -> None:
    made = CRD(temperature=constant(0.1), width=4)
    torch.manual_seed(0)
    helper = made.helper(Pair("a", ("b",), (3, 4, 4), ((6, 2, 2),)))
    student = STUDENT.clone().requires_grad_()
    loss = compared(made, student, TEACHER, helper, labels=torch.zeros(5).long())
    loss.backward()
    assert loss.item() == 0.0 and student.grad is not None and not student.grad.any()
    ids = torch.arange(4)
    labels, partners = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 3, 0])
    mixed = Batch(STUDENT[:4], labels, ids, ids, 0, partners=partners, share=torch.ones(4))
    both = [{a, b} for a, b in zip(labels.tolist(), partners.tolist(), strict=True)]
    common = [[bool(one & other) for other in both] for one in both]
    assert shares_class(mixed).tolist() == common


def test_contrast_learns_to_tell_examples_apart() -> None:
    made = CRD(temperature=constant(0.1), width=8)
    torch.manual_seed(0)
    helper = made.helper(Pair("a", ("b",), (3, 4, 4), ((6, 2, 2),)))
    assert helper is not None
    optimizer = torch.optim.Adam(helper.parameters(), 0.05)
    losses = []
    for _ in range(60):
        loss = compared(made, STUDENT, TEACHER, helper)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0 and losses[-1] < 0.05
