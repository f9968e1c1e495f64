"""Parameters, multiply-adds and bytes, counted by hand."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.models.counts import Counts, count_architecture, count_module, count_params
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.vit import Attention
from nasdistill.space import Architecture, SearchSpace

COLOUR = Input(3, 16, 16)


class Tokens(nn.Module):
    """Attends over the pixels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.attention(x_BCHW.flatten(2).transpose(1, 2))
        return mixed


@pytest.mark.parametrize(
    ("module", "params", "macs"),
    [
        (nn.Conv2d(3, 8, 3, 2, 1), 8 * 3 * 9 + 8, 8 * 8 * 8 * 3 * 9),
        (DepthwiseConv2d(3, 5, 1), 3 * 25, 3 * 16 * 16 * 25),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), 7690, 7680),
        (nn.BatchNorm2d(3), 6, 0),
        (nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), 0, 0),
    ],
)
def test_counts_by_hand(module: nn.Module, params: int, macs: int) -> None:
    counts = count_module(module, COLOUR)
    assert (counts.params, counts.macs) == (params, macs)
    stored = sum(t.numel() for t in module.state_dict().values())
    assert counts.bytes == 4 * stored
    assert all(not p.is_meta for p in module.parameters()) and module.training


def test_attention_by_hand() -> None:
    tokens, width = 16 * 16, 12
    counts = count_module(Tokens(width, 3), Input(width, 16, 16))
    assert counts.params == 4 * (width * width + width)
    assert counts.macs == 4 * tokens * width * width + 2 * tokens * tokens * width


def test_architecture_by_hand() -> None:
    layers = {"type": "two", "widths": [128, 64]}
    values = {"activation": "relu", "dropout": 0.1, "layers": layers}
    counts = count_architecture(Architecture("mlp", values), Input(1, 28, 28), 10)
    macs = 784 * 128 + 128 * 64 + 64 * 10
    params = macs + 128 + 64 + 10
    written = 2 * (128 + 64) + 10  # each hidden layer's sums and what the activation makes of them
    assert counts == Counts(params, macs, 4 * params, 3, written)


@pytest.mark.parametrize("name", ["mlp", "mobile", "resnet", "vit"])
def test_counts_agree_with_the_built_module(name: str) -> None:
    architecture = SearchSpace.load(name).random(random.Random(0))
    module = build(architecture, COLOUR, 5)
    assert count_architecture(architecture, COLOUR, 5) == count_module(module, COLOUR)
    assert count_params(architecture, COLOUR, 5) == count_module(module, COLOUR).params
