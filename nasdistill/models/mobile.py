"""Small convolutional networks for phones: MobileNet's blocks and their relatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.models.layers import (
    ACTIVATIONS,
    SqueezeExcite,
    conv_bn,
    depths,
    depthwise_bn,
    down_sampling_plan,
    named_strides,
    whole,
)
from nasdistill.space import Architecture


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al., MobileNetV2, 2018)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, act: str, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        hidden = in_channels * whole(options, "expansion")
        layers = [
            conv_bn(in_channels, hidden, 1, 1, act),
            depthwise_bn(hidden, whole(options, "kernel"), stride, act),
        ]
        if options["squeeze_excite"]:
            layers.append(nn.Sequential(SqueezeExcite(hidden)))
        self.body = nn.Sequential(*layers, conv_bn(hidden, out_channels, 1))
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One block."""
        out: Tensor = self.body(x_BCHW)
        return x_BCHW + out if self.skip else out


class FusedInvertedResidual(nn.Module):
    """Expansion and filter in one dense convolution (Tan and Le, EfficientNetV2, 2021)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, act: str, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        hidden = in_channels * whole(options, "expansion")
        self.body = nn.Sequential(
            conv_bn(in_channels, hidden, 3, stride, act), conv_bn(hidden, out_channels, 1)
        )
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One block."""
        out: Tensor = self.body(x_BCHW)
        return x_BCHW + out if self.skip else out


class DepthwiseSeparable(nn.Module):
    """Filter each channel, then mix them (Howard et al., MobileNet, 2017).

    Where it is `linear`, no activation follows the mixing, as in later nets.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, act: str, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        layers = [depthwise_bn(in_channels, whole(options, "kernel"), stride, act)]
        if options["squeeze_excite"]:
            layers.append(nn.Sequential(SqueezeExcite(in_channels)))
        last = None if options.get("linear", False) else act
        self.body = nn.Sequential(*layers, conv_bn(in_channels, out_channels, 1, 1, last))
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One block."""
        out: Tensor = self.body(x_BCHW)
        return x_BCHW + out if self.skip else out


class GhostModule(nn.Module):
    """Half the channels by convolution, the rest by cheap filters of those (GhostNet, 2020)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, act: str | None) -> None:
        super().__init__()
        half = -(-out_channels // 2)
        self.primary = conv_bn(in_channels, half, 1, 1, act)
        self.cheap = depthwise_bn(half, kernel, 1, act)
        self.out_channels = out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Own channels first, then their ghosts."""
        own = self.primary(x_BCHW)
        return torch.cat([own, self.cheap(own)], dim=1)[:, : self.out_channels]


class Ghost(nn.Module):
    """Two ghost modules around an optional stride (Han et al., GhostNet, 2020)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, act: str, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        hidden, kernel = in_channels * whole(options, "expansion"), whole(options, "kernel")
        layers: list[nn.Module] = [GhostModule(in_channels, hidden, kernel, act)]
        if stride > 1:
            layers.append(depthwise_bn(hidden, kernel, stride, None))
        self.body = nn.Sequential(*layers, GhostModule(hidden, out_channels, kernel, None))
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One block."""
        out: Tensor = self.body(x_BCHW)
        return x_BCHW + out if self.skip else out


BLOCKS: dict[str, type[nn.Module]] = {
    "mbconv": InvertedResidual,
    "fused": FusedInvertedResidual,
    "separable": DepthwiseSeparable,
    "ghost": Ghost,
}


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds a network of the family.

    Args:
        architecture: Its values are `activation`, `stem` (channels), `stages` (each `block`,
            `width`, `depth`) and `head` (channels before the classifier). Nets for large images
            may say more: `activation` a `type` and another one for `early` stages, whose maps are
            larger than a sixteenth of the image; each stage its `stride` (the stem's is 2 then),
            or `type: absent`; `head` its `width` and, of `type: hidden`, the `features` of a layer
            after pooling.
        input: The image.
        classes: Number of logits.
    """
    values = architecture.values
    early, act = _activations(values["activation"])
    stages = [stage for stage in values["stages"] if stage.get("type") != "absent"]
    stem_stride, strides = _strides(input, stages)
    channels, reduction = whole(values, "stem"), stem_stride
    layers: list[tuple[str, nn.Module]] = [
        ("stem", _stem(input.channels, channels, stem_stride, act))
    ]
    parts = zip(stages, depths(stages), strides, strict=True)
    for index, (stage, depth, stride) in enumerate(parts):
        block, width = stage["block"], whole(stage, "width")
        reduction *= stride
        own_act = early if reduction < 16 else act
        blocks: list[nn.Module] = []
        for place in range(depth):
            kind = BLOCKS[block["type"]]
            blocks.append(kind(channels, width, stride if place == 0 else 1, own_act, block))
            channels = width
        layers.append((f"stage{index}", nn.Sequential(*blocks)))
    net = nn.Sequential()
    for name, layer in [*layers, *_head(values["head"], channels, classes, act)]:
        net.add_module(name, layer)
    return net


def _activations(value: Any) -> tuple[str, str]:
    """Names of the activations of early stages and of all else."""
    if not isinstance(value, Mapping):
        return str(value), str(value)
    return str(value.get("early", value["type"])), str(value["type"])


def _strides(input: Input, stages: Sequence[Mapping[str, Any]]) -> tuple[int, list[int]]:
    """Strides of the stem and of the stages: those they name, else by the image."""
    named = named_strides(stages)
    if named is not None:
        return 2, named
    stem_stride, strides = down_sampling_plan(input, len(stages))
    return stem_stride, _early(strides)


def _head(value: Any, channels: int, classes: int, act: str) -> list[tuple[str, nn.Module]]:
    """All that follows the stages, by name."""
    plain = not isinstance(value, Mapping)
    options = {"type": "plain", "head": value} if plain else value
    features = whole(options, "head" if plain else "width")
    layers: list[tuple[str, nn.Module]] = [
        ("mix", conv_bn(channels, features, 1, 1, act)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
    ]
    if {"plain": False, "hidden": True}[options["type"]]:
        hidden = whole(options, "features")
        layers.append(("hidden", nn.Sequential(nn.Linear(features, hidden), ACTIVATIONS[act]())))
        features = hidden
    return [*layers, ("head", nn.Linear(features, classes))]


def _early(strides: list[int]) -> list[int]:
    """The same strides right after the first stage: on a phone early shrinking saves the most."""
    halvings, stages = strides.count(2), len(strides)
    before = min(1, stages - halvings)
    return [1] * before + [2] * halvings + [1] * (stages - halvings - before)


def _stem(in_channels: int, out_channels: int, stride: int, act: str) -> nn.Sequential:
    """The first convolution; a stride above 2 is divided over several."""
    layers = [conv_bn(in_channels, out_channels, 3, min(2, stride), act)]
    while stride > 2:
        layers.append(conv_bn(out_channels, out_channels, 3, 2, act))
        stride //= 2
    return nn.Sequential(*layers)
