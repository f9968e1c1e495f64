from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.models.initialised import initialise
from nasdistill.models.pruned import build_base
from nasdistill.space import Architecture

INPUT = Input(3, 32, 32)
KEEP = {"width": 0.25}


def begun(family: str, values: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """A cut net as it is, and with weights drawn in its shape."""
    base = Architecture(family, values)
    pruned = {"base": {"family": family, "values": values}, "keep": KEEP}
    torch.manual_seed(0)
    cut, drawn = (build(Architecture("pruned", pruned), INPUT, 4) for _ in range(2))
    initialise(drawn, lambda: build_base(base, INPUT, 4))
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (cut, drawn)]
    assert shapes[0] == shapes[1]
    assert drawn.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 4)
    return cut, drawn


@pytest.mark.parametrize(
    ("name", "law"),
    [
        # torchvision: kaiming_normal_(mode="fan_out"), whose fan counts the filters' channels
        ("resnet18", lambda conv: math.sqrt(2 / (conv.weight[0, 0].numel() * len(conv.weight)))),
        # the same law, with depthwise convolutions: a fan of its own kernel alone
        (
            "mobilenet_v2",
            lambda conv: math.sqrt(2 / (conv.weight[0, 0].numel() * len(conv.weight))),
        ),
    ],
)
def test_convolutions_spread_as_in_a_net_of_that_width(name: str, law: Any) -> None:
    cut, drawn = begun("torchvision", {"name": name})
    checked = 0
    for (path, conv), before in zip(drawn.named_modules(), cut.modules(), strict=True):
        if not isinstance(conv, nn.Conv2d) or conv.weight.numel() < 2_000 or conv.groups > 1:
            continue
        assert float(conv.weight.detach().std()) == pytest.approx(law(conv), rel=0.1), path
        assert float(before.weight.detach().std()) < 0.6 * law(conv), path  # type: ignore[operator, union-attr]
        checked += 1
    assert checked > 10


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("timm", {"name": "vit_tiny_patch16_224"}),
        (
            "vit",
            {
                "tokens": 4,
                "stem": {"type": "patch"},
                "heads": 4,
                "head_width": 32,
                "depth": 2,
                "mlp_ratio": 4,
            },
        ),
    ],
)
def test_transformers_spread_alike_at_any_width(family: str, values: dict[str, Any]) -> None:
    for net in begun(family, values):
        spreads = [
            float(part.weight.detach().std())
            for path, part in net.named_modules()
            if isinstance(part, nn.Linear) and "blocks" in path
        ]
        assert len(spreads) > 6 and spreads == pytest.approx([0.02] * len(spreads), rel=0.1)


def test_a_net_that_cannot_do_with_other_shapes_is_left_as_it_was() -> None:
    class Strict(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1))
            assert self[0].weight.shape == (16, 3, 1, 1)

    net = Strict()
    net[0] = nn.Conv2d(3, 8, 1)
    before = net[0].weight.clone()  # type: ignore[operator]
    initialise(net, Strict)
    assert torch.equal(net[0].weight, before)  # type: ignore[arg-type]
