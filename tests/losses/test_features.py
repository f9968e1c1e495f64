"""Features, Gram matrices and selectivity: by hand, and by loops over plain numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from model_helpers import compared
from torch import Tensor, nn

from nasdistill.losses.features import NST, Features, Gram
from nasdistill.losses.schedules import constant


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_features_by_hand() -> None:
    student = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [3.0, 2.0]]], [[[1.0, 1.0], [1.0, 3.0]]]])
    assert compared(Features(), student, teacher).tolist() == [2.0, 3.0]


def test_features_through_a_projector_by_hand() -> None:
    helper = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        helper.weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
    student, teacher = torch.tensor([[[[3.0]]]]), torch.tensor([[[[4.0]], [[1.0]]]])
    # (6 - 4)² and (-3 - 1)², averaged.
    assert compared(Features(), student, teacher, helper).tolist() == [10.0]


def test_features_pool_and_interpolate() -> None:
    student = torch.tensor([[[[0.0, 4.0]]]])
    teacher = torch.tensor([[[[1.0, 1.0, 3.0, 3.0]]]])
    assert compared(Features(), student, teacher).tolist() == [1.0]
    assert compared(Features(), teacher, student).tolist() == [1.0]
    # The teacher's 0, 4 become 0, 1, 3, 4.
    loss_B = compared(Features(resize="bilinear"), teacher, student)
    assert loss_B.tolist() == [(1 + 0 + 0 + 1) / 4]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_gram_against_loops() -> None:
    student, teacher = drawn(2, 3, 2, 2), drawn(2, 3, 4, 4, seed=1)
    loss_B = compared(Gram(temperature=constant(0.5)), student, teacher)
    small = teacher.reshape(2, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    for example in range(2):
        rows = []
        for model in (student, small):
            channels = model[example].flatten(1).tolist()
            powers = [[math.exp(cosine(a, b) / 0.5) for b in channels] for a in channels]
            rows.append([[p / sum(row) for p in row] for row in powers])
        mine, theirs = rows
        worked = sum(
            t * math.log(t / s)
            for row_s, row_t in zip(mine, theirs, strict=True)
            for s, t in zip(row_s, row_t, strict=True)
        )
        assert float(loss_B[example]) == pytest.approx(worked / 3, rel=1e-4)


def test_gram_forgives_the_size_of_channels() -> None:
    teacher = drawn(2, 3, 4, 4)
    scaled = teacher * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1)
    assert float(compared(Gram(), scaled, teacher).abs().max()) < 1e-5
    assert float(compared(Gram(), drawn(2, 3, 4, 4, seed=3), teacher).min()) > 1e-3


def test_selectivity_against_loops() -> None:
    student, teacher = drawn(2, 3, 3, 3), drawn(2, 5, 3, 3, seed=1)
    loss_B = compared(NST(), student, teacher)
    for example in range(2):
        mine, theirs = (
            [row / np.linalg.norm(row) for row in x[example].flatten(1).double().numpy()]
            for x in (student, teacher)
        )

        def mean_kernel(a: list[np.ndarray], b: list[np.ndarray]) -> float:
            return float(np.mean([[float(x @ y) ** 2 for y in b] for x in a]))

        worked = (
            mean_kernel(theirs, theirs) + mean_kernel(mine, mine) - 2 * mean_kernel(mine, theirs)
        )
        assert float(loss_B[example]) == pytest.approx(worked, rel=1e-4)


def test_selectivity_forgives_the_order_and_sign_of_channels() -> None:
    teacher = drawn(2, 4, 3, 3)
    turned = -teacher[:, [2, 0, 3, 1]]
    assert float(compared(NST(), turned, teacher).abs().max()) < 1e-5


@pytest.mark.parametrize("made", [Features(), Gram(), NST()])
def test_dead_channels_give_finite_gradients(made: Features | Gram | NST) -> None:
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = compared(made, student, drawn(2, 3, 2, 2))
    loss.mean().backward()
    assert loss.isfinite().all() and student.grad is not None and student.grad.isfinite().all()
