"""Well-known nets are points of the spaces for large pictures, and our modules are those nets."""

from __future__ import annotations

import timm
import torch
import torchvision
from optuna.trial import FixedTrial
from torch import nn

from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.models.counts import Counts, count_architecture, count_module
from nasdistill.space import Architecture, SearchSpace

LARGE = Input(3, 224, 224)
CLASSES = 1000


def start(space: str, place: int) -> Architecture:
    """A design that a search of large pictures tries first; it was read as a point of the space."""
    large = SearchSpace.load(space).for_pictures(224)
    return large.sample(FixedTrial(dict(large.start[place])))


def both(architecture: Architecture, original: nn.Module) -> tuple[Counts, Counts]:
    return count_architecture(architecture, LARGE, CLASSES), count_module(original, LARGE)


def give_weights(original: nn.Module, own: nn.Module) -> None:
    """Copies a net's weights, tensor by tensor in order, into one of the same make."""
    theirs, ours = list(original.state_dict().values()), own.state_dict()
    assert [t.shape for t in theirs] == [t.shape for t in ours.values()]
    own.load_state_dict(dict(zip(ours, theirs, strict=True)))


def vary_statistics(net: nn.Module) -> None:
    """Gives every batch norm statistics that an error would show behind."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)


def answers_alike(architecture: Architecture, original: nn.Module) -> bool:
    torch.manual_seed(0)
    own = build(architecture, LARGE, CLASSES).eval()
    vary_statistics(original)
    give_weights(original, own)
    pictures = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        expected, given = original.eval()(pictures), own(pictures)
    assert expected.std() > 1e-3
    return torch.allclose(given, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_resnet_18() -> None:
    original = torchvision.models.resnet18(weights=None)
    own, theirs = both(start("resnet", 4), original)
    assert own == theirs and own.params == 11_689_512  # as torchvision says
    assert answers_alike(start("resnet", 4), original)


def test_efficientnet_lite0() -> None:
    original = timm.create_model("efficientnet_lite0")
    own, theirs = both(start("mobile", 3), original)
    assert own == theirs and own.params == 4_652_008  # as timm says
    assert answers_alike(start("mobile", 3), original)


def test_vit_tiny() -> None:
    own, theirs = both(start("vit", 3), timm.create_model("deit_tiny_patch16_224"))
    assert own.params == theirs.params == 5_717_416  # as timm says
    assert own.macs == theirs.macs


def test_mobilenet_v3_small() -> None:
    """Its second stage expands 4.5 and 3.7 times, here both 4; its third 4 and 6, here both 6."""
    own, theirs = both(start("mobile", 2), torchvision.models.mobilenet_v3_small())
    assert theirs.params == 2_542_856  # as torchvision says
    assert abs(own.params / theirs.params - 1) < 0.005
    assert abs(own.macs / theirs.macs - 1) < 0.025


def test_mobilenet_v3_large() -> None:
    """Its second stage expands 4 and 3 times, here both 4; its fourth 6, 2.5 and 2.3, here 3."""
    own, theirs = both(start("mobile", 4), torchvision.models.mobilenet_v3_large())
    assert theirs.params == 5_483_032  # as torchvision says
    assert abs(own.params / theirs.params - 1) < 0.005
    assert abs(own.macs / theirs.macs - 1) < 0.02


def test_mobilenet_v3_has_its_activations() -> None:
    net = build(start("mobile", 2), LARGE, CLASSES)
    kinds = [
        {type(m).__name__ for m in part.modules()} & {"ReLU", "Hardswish", "Hardsigmoid"}
        for part in (net.stem, net.stage1, net.stage2, net.stage4, net.mix, net.hidden)
    ]
    late = {"Hardswish"}
    excited = {"Hardswish", "Hardsigmoid", "ReLU"}  # ReLU within squeeze-excite alone
    assert kinds == [late, {"ReLU"}, excited, excited, late, late]
    assert sum(isinstance(m, nn.Hardswish) for m in net.modules()) == 1 + 2 * 8 + 1 + 1
