"""Small nets of timm and torchvision by name, as students; their weights come from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from nasdistill.common.types import Input, nearest
from nasdistill.models.libraries import build_timm, build_torchvision
from nasdistill.space import Architecture

LIBRARIES = {"timm": build_timm, "torchvision": build_torchvision}


class ModelName(NamedTuple):
    """A model as a space names it, `timm:lcnet_050`.

    Attributes:
        library: `timm` or `torchvision`.
        name: The library's name of it.
    """

    library: str
    name: str


class RepeatedGrey(nn.Module):
    """A network of colour that takes grey images, too: they are repeated.

    Args:
        net: From normalised float `[B, 3, H, W]` to logits.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of images of one channel, or of three (which a normalisation by colour gives)."""
        if images_BCHW.shape[1] == 1:
            images_BCHW = images_BCHW.expand(-1, 3, -1, -1)
        logits: Tensor = self.net(images_BCHW)
        return logits


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the net that `model` names, its weights drawn at random.

    Args:
        architecture: `model` is a name, or an object with the name under `type` and, under `keep`,
            what is kept of the net, see `pruning.counts_of`.
        input: The image.
        classes: Number of logits.
    """
    if input.channels not in (1, 3):
        raise ValueError(f"images of {input.channels} channels; allowed: 1 or 3")
    model = architecture.values["model"]
    if isinstance(model, Mapping):
        from nasdistill.models.pruned import build_cut  # which builds its base by this function

        return build_cut(architecture, input, classes)
    library, name = model_name(str(model))
    net = LIBRARIES[library](Architecture(library, {"name": name}), input, classes)
    return RepeatedGrey(net) if input.channels == 1 else net


def inner_net(net: nn.Module) -> nn.Module:
    """The library's own module within one that `build` gave."""
    return net.net if isinstance(net, RepeatedGrey) else net


def model_name(model: str) -> ModelName:
    """Takes a model's name apart.

    Raises:
        ValueError: If it is not of the form `timm:NAME` or `torchvision:NAME`.
    """
    library, colon, name = model.partition(":")
    if library not in LIBRARIES or not colon or not name:
        known = ", ".join(f"{each}:NAME" for each in LIBRARIES)
        raise ValueError(f"model {model!r}{nearest(library, LIBRARIES)}; allowed: {known}")
    return ModelName(library, name)
