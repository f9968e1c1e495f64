"""From an architecture to a module."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from nasdistill.errors import UserError
from nasdistill.models import mlp, mobile, resnet, vit
from nasdistill.options import Input, nearest
from nasdistill.space import Architecture

Build: TypeAlias = Callable[[Architecture, Input, int], nn.Module]

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
    if architecture.family not in families():
        raise UserError(
            f"unknown family {architecture.family!r}{nearest(architecture.family, families())} "
            f"(known: {', '.join(families())}); a family of your own comes with --import FILE.py"
        )
    where = f"architecture {architecture.fingerprint}: the family {architecture.family!r}"
    if architecture.family in _USER_FAMILIES:
        try:
            return _USER_FAMILIES[architecture.family](architecture, input, classes)
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{where} of the --import file raised {type(error).__name__}: {error} "
                f"({line.filename}:{line.lineno})"
            ) from error
    try:
        return FAMILIES[architecture.family](architecture, input, classes)
    except KeyError as error:
        raise UserError(f"{where} needs the key {error}, which is not there") from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where} cannot be built from these values ({reason})") from None


def families() -> tuple[str, ...]:
    """Names of all families: ours, and those of the user's own file."""
    return (*FAMILIES, *_USER_FAMILIES)


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
