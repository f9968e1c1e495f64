"""Which channels of a net matter, held against nets whose channels' worth is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.models.importance import importance
from nasdistill.models.pruning import cut, structure_of

INPUT = Input(1, 4, 4)


def net_of(reading: list[float], writing: list[float]) -> nn.Sequential:
    """Sixteen channels: weights that make them, and weights with which two logits read them."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(writing).view(16, 1, 1, 1))
        net[3].weight.copy_(torch.tensor([reading, [0.0] * 16]))
        net[3].bias.zero_()
    return net.eval()


BATCHES = [
    (torch.ones(2, 1, 4, 4), torch.tensor([0, 0])),
    (torch.ones(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)),
]
RISING = [float(i) for i in range(1, 17)]
FALLING = RISING[::-1]


def scores_of(kind: str, net: nn.Module) -> Tensor:
    scores = importance(kind, net, structure_of(net, INPUT), BATCHES, net)  # type: ignore[arg-type]
    return scores["0"]


def test_a_unit_that_nothing_reads_is_worth_nothing() -> None:
    reading = [0.0, 2.0] * 8
    for kind in ("taylor", "activation"):
        scores = scores_of(kind, net_of(reading, [1.0] * 16))
        assert (scores[::2] == 0).all() and (scores[1::2] > 0).all()


def test_the_contribution_is_the_mean_square_times_the_weights_that_meet_it() -> None:
    scores = scores_of("activation", net_of(FALLING, RISING))
    assert scores.tolist() == pytest.approx(
        [(r * w) ** 2 for r, w in zip(FALLING, RISING, strict=True)]
    )


def test_taylor_is_the_square_of_the_first_order_change() -> None:
    """The gradient of the cross-entropy by logit 0 is p - 1, and a channel adds w·r to it."""
    reading, writing = [0.01 * r for r in FALLING], RISING
    net = net_of(reading, writing)
    logit = sum(r * w for r, w in zip(reading, writing, strict=True))
    slope = torch.sigmoid(torch.tensor(logit)).item() - 1
    expected = [(slope * r * w) ** 2 for r, w in zip(reading, writing, strict=True)]
    assert scores_of("taylor", net).tolist() == pytest.approx(expected, rel=1e-4)
    assert all(p.grad is None for p in net.parameters())


def test_the_norm_counts_each_layer_alike() -> None:
    """A layer's squares are divided by their mean, so that large weights elsewhere don't decide."""
    small, large = net_of(RISING, [1.0] * 16), net_of([100 * r for r in RISING], [1.0] * 16)
    assert scores_of("magnitude", small).tolist() == pytest.approx(
        scores_of("magnitude", large).tolist()
    )


def test_what_matters_most_stays() -> None:
    net = net_of([0.0, 2.0] * 8, [1.0] * 16)
    structure = structure_of(net, INPUT)
    logits = net(BATCHES[0][0])
    cut(net, structure, {"width": 0.5}, importance("taylor", net, structure, BATCHES, net))
    assert net[0].out_channels == 8
    assert torch.allclose(net(BATCHES[0][0]), logits)
