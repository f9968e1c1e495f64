"""From an architecture to a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nasdistill.errors import UserError
from nasdistill.models import mlp, mobile, resnet, vit
from nasdistill.options import Input, nearest
from nasdistill.space import Architecture

Build: TypeAlias = Callable[[Any, Input, int], nn.Module]

FAMILIES: dict[str, Build] = {
    "mobile": mobile.build,
    "resnet": resnet.build,
    "vit": vit.build,
    "mlp": mlp.build,
}
_USER_FAMILIES: dict[str, Build] = {}


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the module that an architecture describes.

    Args:
        architecture: Which one.
        input: The shape of an image.
        classes: Number of logits.

    Returns:
        A module from normalised float images `[B, C, H, W]` to logits `[B, classes]`.

    Raises:
        UserError: If the family is unknown, or its values are not what the family expects.
    """
    known = {**FAMILIES, **_USER_FAMILIES}
    if architecture.family not in known:
        raise UserError(
            f"unknown family {architecture.family!r}{nearest(architecture.family, known)} "
            f"(known: {', '.join(known)}); a family of your own comes with --import FILE.py"
        )
    try:
        if architecture.family in FAMILIES:
            return FAMILIES[architecture.family](architecture.values, input, classes)
        return _USER_FAMILIES[architecture.family](architecture, input, classes)
    except KeyError as error:
        raise UserError(
            f"architecture {architecture.fingerprint}: the family {architecture.family!r} needs "
            f"the key {error}, which is not there"
        ) from None
    except (TypeError, ValueError) as error:
        if architecture.family not in FAMILIES:
            raise
        raise UserError(
            f"architecture {architecture.fingerprint}: the family {architecture.family!r} cannot "
            f"be built from these values ({str(error).splitlines()[0]})"
        ) from None


def register_families(families: Mapping[str, Build]) -> None:
    """Adds a user's own families: `build(architecture, input, classes) -> nn.Module`."""
    _USER_FAMILIES.update(families)


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
