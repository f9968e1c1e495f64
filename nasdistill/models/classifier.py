"""A network with its normalisation inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network with its normalisation inside.

    Args:
        net: From normalised float `[B, C, H, W]` to logits.
        mean: By channel, in [0, 1] units.
        std: By channel, in [0, 1] units.
    """

    mean: Tensor
    std: Tensor

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
