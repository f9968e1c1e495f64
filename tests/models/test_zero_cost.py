"""Figures of untrained students, on nets small enough to be worked by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from nasdistill.analysis.rank_correlation import vote
from nasdistill.common.types import Input
from nasdistill.models import Classifier, build, zero_cost
from nasdistill.space import Architecture, SearchSpace


def two_layers() -> nn.Module:
    """Flatten, 2 → 2 → 1, weights [[1, -2], [3, 0]] and [[-1, 4]]; no biases."""
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
        second.weight.copy_(torch.tensor([[-1.0, 4.0]]))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


def test_synflow_by_hand() -> None:
    # With |weights| and ones: hidden (3, 3), R = 1·3 + 4·3 = 15. Each layer conserves the flow:
    # Σ θ ∂R/∂θ is 15 for either of them.
    assert zero_cost.synflow(two_layers(), torch.Size((1, 1, 2))) == pytest.approx(math.log(30))


def test_synflow_leaves_the_net_alone_and_survives_depth() -> None:
    net = nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64) for _ in range(400)])
    before = copy.deepcopy(net.state_dict())
    assert math.isfinite(zero_cost.synflow(net, torch.Size((1, 8, 8))))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_snip_by_hand() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[2.0], [0.0]]))
    pixels, label = torch.ones(1, 1, 1, 1), torch.tensor([0])
    # Logits (2, 0): p = (e²/(e²+1), …); ∂L/∂w = (p₀ − 1, p₁); |2 · (p₀ − 1)| + 0.
    p = math.exp(2) / (math.exp(2) + 1)
    assert zero_cost.snip(net, pixels, label) == pytest.approx(2 * (1 - p))


def test_jacobians_that_are_all_alike_score_below_those_that_differ() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(16, 1, 6, 6)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    bent = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 4))
    # A linear net has one Jacobian: eigenvalues 16, 0, …, 0, each with ε.
    e = zero_cost.EPSILON
    alike = -(math.log(16 + e) + 1 / (16 + e)) - 15 * (math.log(e) + 1 / e)
    assert zero_cost.jacobian_covariance(linear, pixels) == pytest.approx(alike, rel=1e-3)
    assert zero_cost.jacobian_covariance(bent, pixels) > alike


@pytest.mark.parametrize("space", [s for s in SearchSpace.shipped() if s != "pruned"])
def test_every_shipped_family_can_be_measured_and_is_left_as_it_is(space: str) -> None:
    import random

    architecture = SearchSpace.load(space).random(random.Random(3))
    assert isinstance(architecture, Architecture)
    torch.manual_seed(1)
    student = Classifier(build(architecture, Input(3, 28, 28), 10), (0.5,) * 3, (0.2,) * 3)
    student.train()
    before = copy.deepcopy(student.state_dict())
    images = torch.randint(0, 256, (8, 3, 28, 28), dtype=torch.uint8)
    figures = zero_cost.measure(student, images, torch.arange(8))
    assert all(math.isfinite(value) for value in figures.values())
    assert figures == zero_cost.measure(student, images, torch.arange(8))
    assert student.training and all(p.grad is None for p in student.parameters())
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())


def test_a_vote_of_three() -> None:
    # a beats b by two figures of three, b beats c by all, a and c are split evenly by one tie.
    a, b, c = (3.0, 3.0, 0.0), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)
    assert vote([a, b, c]) == [1.0, 0.5, 0.0]
    assert vote([(1.0, 2.0), (2.0, 1.0)]) == [0.5, 0.5]
    assert vote([(1.0,)]) == [0.0]
