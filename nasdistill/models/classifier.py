"""A network with its normalisation inside, and what it has kept of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kept:
    """What a student has kept of the net that it was cut from.

    Attributes:
        of: Hash of that net's weights.
        channels: int64 `[kept]` on the CPU, rising: which channels of that net's layer those of
            the layer of the same name are; of layers where that is known.
        heads: The same of attention heads, by the attention module; of those that lost some.
    """

    of: str
    channels: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, Tensor] = field(default_factory=dict)


class Classifier(nn.Module):
    """A network with its normalisation inside.

    Args:
        net: From normalised float `[B, C, H, W]` to logits.
        mean: By channel, in [0, 1] units.
        std: By channel, in [0, 1] units.

    Attributes:
        kept: What it has kept of another net; None where it is no part of one, or nothing asks.
    """

    mean: Tensor
    std: Tensor
    kept: Kept | None = None

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of images, uint8 or float in [0, 1], `[B, C, H, W]`."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits
