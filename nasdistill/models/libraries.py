"""Image classifiers of torchvision, timm and transformers as families, with random weights.

Their values name a model that the library itself holds, or describe one of its configurations; they
never bring code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input, nearest
from nasdistill.models.layers import LARGEST, MOST_BLOCKS, in_bounds
from nasdistill.space import Architecture

_BLOCKS = re.compile(r"(layers?|depths?|repeats|blocks|stages)$")
"""Keys of a configuration of transformers that count what is built in a loop; where they are
`depths` or `repeats`, stage by stage."""


class LogitsOnly(nn.Module):
    """A transformers model that returns the logits alone.

    Args:
        model: An image classifier whose output has an attribute `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalised images."""
        logits: Tensor = self.model(pixel_values=images_BCHW).logits
        return logits


def build_torchvision(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the classifier of torchvision that `name` names."""
    return torchvision_net(_name_in(architecture), classes, input.height)


def build_timm(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the classifier of timm that `name` names."""
    name, timm = _name_in(architecture), library("timm")
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    return timm_net(name, input.height, num_classes=classes)


def build_transformers(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the image classifier of transformers that `config` describes."""
    config = architecture.values["config"]
    if not isinstance(config, Mapping):
        raise TypeError(f"config: an object is expected, found {str(config)[:40]}")
    transformers = library("transformers")
    check_config(config)
    options = {key: value for key, value in config.items() if key != "auto_map"}
    values = {**options, "num_labels": classes}
    made = read_config(lambda: transformers.AutoConfig.for_model(**values))
    auto = transformers.AutoModelForImageClassification
    # Of kinds with several classifiers, such as DeiT, the library looks through this list.
    made.architectures = made.architectures or []
    return LogitsOnly(auto.from_config(made, trust_remote_code=False))


def read_config(read: Callable[[], Any]) -> Any:
    """Has transformers read a configuration.

    Args:
        read: Calls the library.

    Raises:
        ValueError: With the library's reason: it checks values with errors of its own.
        OSError: If a file cannot be had.
    """
    try:
        return read()
    except OSError:
        raise
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def check_config(config: Mapping[str, Any]) -> None:
    """Checks the numbers of a configuration of transformers before the library reads it.

    It makes a list of as many names as there are labels, and modules layer by layer: both take
    memory before a weight does.

    Args:
        config: Its values, from a file that anybody may have written.

    Raises:
        ValueError: If a whole number is larger than `LARGEST`, or one of layers larger than
            `MOST_BLOCKS`.
    """
    for place, values in _whole_numbers(config):
        for value in values:
            in_bounds(place, value, -LARGEST, LARGEST)
        if _BLOCKS.search(place):
            by_stage = place.endswith(("depths", "repeats"))
            in_bounds(place, sum(values) if by_stage else max(values), 0, MOST_BLOCKS)


def _whole_numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """The whole numbers of nested values by their place, those of a list together."""
    for key, value in config.items():
        if key in ("id2label", "label2id"):
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}.{place}", values) for place, values in _whole_numbers(value))
            continue
        numbers = [each for each in _flat(value) if type(each) is int]
        if numbers:
            yield str(key), numbers


def _flat(value: Any) -> Iterator[Any]:
    """The values within nested lists."""
    if not isinstance(value, list | tuple):
        yield value
        return
    for each in value:
        yield from _flat(each)


def torchvision_net(name: str, classes: int, pixels: int) -> nn.Module:
    """A classifier of torchvision with random weights.

    Args:
        name: As `torchvision.models.list_models` gives it.
        classes: Number of logits.
        pixels: Side of the images.

    Raises:
        UserError: If the name is unknown.
    """
    models: Any = library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no image classifier {name!r}{nearest(name, known)}")
    options: dict[str, Any] = {"image_size": pixels} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        # Their weights expect the normalisation of old; the auxiliary heads serve training alone.
        options = {"transform_input": True, "aux_logits": False, "init_weights": False}
    net: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return net


def timm_net(name: str, size: int | None, **options: Any) -> nn.Module:
    """A classifier of timm.

    Args:
        name: As `timm.create_model` takes it.
        size: Side of the images in pixels; None for the model's own.
        **options: Further ones of `timm.create_model`.
    """
    create = library("timm").create_model
    if size is not None:
        # A convolutional network takes any size and has no such argument.
        with suppress(TypeError):
            sized: nn.Module = create(name, img_size=size, **options)
            return sized
    net: nn.Module = create(name, **options)
    return net


def library(name: str) -> Any:
    """Imports an optional package.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed, and this model is one of its own; run "
            f"`pip install 'nasdistill[{name}]'`"
        ) from error


def _name_in(architecture: Architecture) -> str:
    name = architecture.values["name"]
    if not isinstance(name, str):
        raise TypeError(f"name: a text is expected, found {str(name)[:40]}")
    return name
