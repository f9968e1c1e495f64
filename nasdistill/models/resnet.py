"""Residual networks (He et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nasdistill.common.types import Input
from nasdistill.models.layers import (
    conv_bn,
    depths,
    down_sampling_plan,
    in_bounds,
    named_strides,
    whole,
)
from nasdistill.space import Architecture


class Residual(nn.Module):
    """A body beside a shortcut, which is projected where shapes differ."""

    def __init__(
        self, body: nn.Sequential, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.body = body
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """One block."""
        return F.relu(self.body(x_BCHW) + self.shortcut(x_BCHW))


def basic(in_channels: int, out_channels: int, stride: int, options: Mapping[str, Any]) -> Residual:
    """Two 3x3 convolutions."""
    body = nn.Sequential(
        *conv_bn(in_channels, out_channels, 3, stride, "relu"),
        *conv_bn(out_channels, out_channels, 3),
    )
    return Residual(body, in_channels, out_channels, stride)


def bottleneck(
    in_channels: int, out_channels: int, stride: int, options: Mapping[str, Any]
) -> Residual:
    """1x1 down, 3x3, 1x1 up."""
    hidden = max(4, out_channels // whole(options, "reduction"))
    body = nn.Sequential(
        *conv_bn(in_channels, hidden, 1, 1, "relu"),
        *conv_bn(hidden, hidden, 3, stride, "relu"),
        *conv_bn(hidden, out_channels, 1),
    )
    return Residual(body, in_channels, out_channels, stride)


BLOCKS = {"basic": basic, "bottleneck": bottleneck}


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds a network of the family.

    Args:
        architecture: Its values are `stem` (`type` of `conv3`, `conv5` or `conv7`, `width`) and
            `stages` (each `block`, `width`, `depth`). Nets for large images name each stage's
            `stride`; the stem's convolution halves the image then, and so does its max pooling,
            `pool` pixels wide, where there is any.
        input: The image.
        classes: Number of logits.
    """
    values = architecture.values
    stem, stages = values["stem"], values["stages"]
    channels = whole(stem, "width")
    named = named_strides(stages)
    stem_stride, strides = (2, named) if named else down_sampling_plan(input, len(stages))
    net = nn.Sequential()
    net.add_module("stem", _stem(stem, input.channels, stem_stride))
    parts = zip(stages, depths(stages), strides, strict=True)
    for index, (stage, depth, stride) in enumerate(parts):
        make, width = BLOCKS[stage["block"]["type"]], whole(stage, "width")
        blocks = []
        for place in range(depth):
            blocks.append(make(channels, width, stride if place == 0 else 1, stage["block"]))
            channels = width
        net.add_module(f"stage{index}", nn.Sequential(*blocks))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(channels, classes))
    return net


def _stem(options: Mapping[str, Any], in_channels: int, stride: int) -> nn.Sequential:
    """The first convolution; of a stride above 2, pooling takes the rest."""
    kernel = {"conv3": 3, "conv5": 5, "conv7": 7}[options["type"]]
    first = [conv_bn(in_channels, whole(options, "width"), kernel, min(2, stride), "relu")]
    if stride > 2:
        first.append(nn.Sequential(nn.MaxPool2d(stride // 2)))
    if "pool" in options:
        pool = in_bounds("pool", options["pool"], 2, 7)
        first.append(nn.Sequential(nn.MaxPool2d(pool, 2, pool // 2)))
    return nn.Sequential(*first)
