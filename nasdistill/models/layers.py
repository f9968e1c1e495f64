"""Layers that several families share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.models.depthwise import DepthwiseConv2d

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}

MOST_BLOCKS = 500
"""Blocks, or layers of a perceptron, that a network may have: each is a loop's turn to build."""
LARGEST = 1_000_000
"""Largest width, kernel or other whole number of an architecture."""


def whole(values: Mapping[str, Any], key: str, least: int = 1) -> int:
    """A whole number of an architecture: a width, a kernel, a number of heads.

    Args:
        values: The architecture's, or a part of them.
        key: Its name.
        least: The smallest that is allowed.

    Raises:
        ValueError: If it is smaller, or larger than `LARGEST`.
    """
    return in_bounds(key, values[key], least, LARGEST)


def in_bounds(name: str, value: Any, least: int, most: int) -> int:
    """A value as a whole number.

    Raises:
        ValueError: If it is none, or not within the bounds.
    """
    if isinstance(value, (dict, list)) or not least <= int(value) <= most:
        raise ValueError(f"{name}: found {str(value)[:40]}, allowed: {least:,} to {most:,}")
    return int(value)


def depths(stages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of blocks of each stage.

    Raises:
        ValueError: If one is negative, or there are more than `MOST_BLOCKS` in all.
    """
    in_bounds("number of stages", len(stages), 0, MOST_BLOCKS)
    numbers = [whole(stage, "depth", least=0) for stage in stages]
    in_bounds("depth of all stages", sum(numbers), 0, MOST_BLOCKS)
    return numbers


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


def named_strides(stages: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """The strides that an architecture names itself; None where they follow from the image.

    Args:
        stages: The architecture's; each names its `stride`, or none does.

    Raises:
        KeyError: If only some do.
        ValueError: If one is neither 1 nor 2.
    """
    if not any("stride" in stage for stage in stages):
        return None
    return [in_bounds("stride", stage["stride"], 1, 2) for stage in stages]


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
