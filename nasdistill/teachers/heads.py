"""The classification head of any model: finding, replacing and reordering it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError

Head = nn.Linear | nn.Conv2d


class NamedHead(NamedTuple):
    """A classification head.

    Attributes:
        name: Its dotted name within the model.
        layer: The layer.
    """

    name: str
    layer: Head


def head_of(module: nn.Module) -> NamedHead:
    """Finds the layer that gives the logits.

    timm's models name it; elsewhere it is the linear or 1x1 convolution layer registered last,
    which holds for torchvision, transformers and the package's own families.

    Args:
        module: A classifier.

    Raises:
        UserError: If the model has no such layer.
    """
    return all_heads(module)[-1]


def replace_head(module: nn.Module, classes: int) -> nn.Module:
    """Gives a model an untrained head for another number of classes, in place.

    A model with two heads (such as distilled transformers have) gets both replaced. The new
    weights are zero, so that every class is equally likely at first and no random number is drawn.

    Args:
        module: A classifier.
        classes: Logits of the new head.

    Returns:
        The new head (the last, where there are two).

    Raises:
        UserError: If the model has no head.
    """
    new: Head | None = None
    for name, old in all_heads(module):
        new = _new_head(old, classes)
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, new)
    assert new is not None
    for part in module.modules():
        for attribute in ("num_classes", "num_labels"):
            if isinstance(vars(part).get(attribute), int):
                setattr(part, attribute, classes)
    return new


def reorder_head(module: nn.Module, order: Sequence[int]) -> None:
    """Puts a model's classes in another order, in place: new class i is old class `order[i]`."""
    index = torch.tensor(list(order))
    with torch.no_grad():
        for _, head in all_heads(module):
            head.weight.copy_(head.weight[index])
            if head.bias is not None:
                head.bias.copy_(head.bias[index])


def _new_head(old: Head, classes: int) -> Head:
    bias, dtype = old.bias is not None, old.weight.dtype
    new: Head  # made on the meta device, where nothing random is drawn
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=bias, device="meta", dtype=dtype)
    else:
        new = nn.Conv2d(old.in_channels, classes, 1, bias=bias, device="meta", dtype=dtype)
    new = new.to_empty(device=old.weight.device)
    for parameter in new.parameters():
        nn.init.zeros_(parameter)
    return new


def all_heads(module: nn.Module) -> list[NamedHead]:
    """All layers that give a model's logits, in order; most models have one.

    Raises:
        UserError: If the model has none.
    """
    heads = _heads_of_timm(module)
    if heads:
        return heads
    layers = [(name, layer) for name, layer in module.named_modules() if _is_head(layer)]
    if not layers:
        raise UserError(
            f"{type(module).__name__} has no linear layer that could be its classification head"
        )
    name, layer = layers[-1]
    parent_name, _, leaf = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    if not ("head" in leaf or "classifier" in leaf):
        return [NamedHead(name, _checked(layer))]
    return [
        NamedHead(f"{parent_name}.{sibling}" if parent_name else sibling, _checked(child))
        for sibling, child in parent.named_children()
        if _is_head(child)
        and ("head" in sibling or "classifier" in sibling)
        and _shape(child) == _shape(layer)
    ]


def _heads_of_timm(module: nn.Module) -> list[NamedHead]:
    """The heads that timm's configuration of a model names; empty for other models."""
    for prefix, part in module.named_modules():
        settings = getattr(part, "pretrained_cfg", None)
        names = settings.get("classifier") if isinstance(settings, dict) else None
        if names:
            names = (names,) if isinstance(names, str) else tuple(names)
            paths = [f"{prefix}.{name}" if prefix else name for name in names]
            layers = [(path, module.get_submodule(path)) for path in paths]
            if all(_is_head(layer) for _, layer in layers):
                return [NamedHead(path, _checked(layer)) for path, layer in layers]
    return []


def _is_head(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def _checked(layer: nn.Module) -> Head:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer


def _shape(layer: nn.Module) -> tuple[int, ...]:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape)
