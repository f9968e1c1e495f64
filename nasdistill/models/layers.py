"""Layers that several families share."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.models.depthwise import DepthwiseConv2d

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, activation: str | None = None
) -> nn.Sequential:
    """Convolution, batch norm, and an activation if one is named."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if activation is not None:
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def depthwise_bn(channels: int, kernel: int, stride: int, activation: str | None) -> nn.Sequential:
    """Depthwise convolution, batch norm, and an activation if one is named."""
    layers: list[nn.Module] = [DepthwiseConv2d(channels, kernel, stride), nn.BatchNorm2d(channels)]
    if activation is not None:
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channel attention from the spatial mean (Hu et al., 2018)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = max(4, channels // ratio)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scales each channel."""
        scaled: Tensor = x_BCHW * self.gate(x_BCHW)
        return scaled


class Strides(NamedTuple):
    """Strides of a network's stem and of its stages.

    Attributes:
        stem: The stem's, 1 to 8.
        stages: That of each stage, 1 or 2.
    """

    stem: int
    stages: list[int]


def down_sampling_plan(input: Input, stages: int) -> Strides:
    """The strides that bring an image down to a last feature map of about 4 to 8 pixels.

    Args:
        input: The image.
        stages: Number of stages after the stem.

    Returns:
        Strides by which later stages shrink before earlier ones, so that small images are not
        squeezed at once; what stages cannot do the stem does, up to 8.
    """
    halvings = 0
    while min(input.size) >> halvings > 8:
        halvings += 1
    stem = min(1, halvings) if min(input.size) >= 24 else 0
    in_stages = min(stages, halvings - stem)
    stem += max(0, halvings - stem - in_stages)
    strides = [1] * (stages - in_stages) + [2] * in_stages
    return Strides(2 ** min(stem, 3), strides)
