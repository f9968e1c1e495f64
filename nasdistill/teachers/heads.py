"""The classification head of any model: finding, replacing and reordering it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError

Head = nn.Linear | nn.Conv2d


def head_of(module: nn.Module) -> tuple[str, Head]:
    """Finds the layer that gives the logits.

    timm's models name it; elsewhere it is the linear or 1x1 convolution layer registered last,
    which holds for torchvision, transformers and the package's own families.

    Args:
        module: A classifier.

    Returns:
        The layer's dotted name within `module`, and the layer.

    Raises:
        UserError: If the model has no such layer.
    """
    return _heads(module)[-1]


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
    fresh: Head | None = None
    for name, old in _heads(module):
        fresh = _like(old, classes)
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, fresh)
    assert fresh is not None
    for part in module.modules():
        for attribute in ("num_classes", "num_labels"):
            if isinstance(vars(part).get(attribute), int):
                setattr(part, attribute, classes)
    return fresh


def reorder_head(module: nn.Module, order: Sequence[int]) -> None:
    """Puts a model's classes in another order, in place: new class i is old class `order[i]`."""
    index = torch.tensor(list(order))
    with torch.no_grad():
        for _, head in _heads(module):
            head.weight.copy_(head.weight[index])
            if head.bias is not None:
                head.bias.copy_(head.bias[index])


def _like(old: Head, classes: int) -> Head:
    bias, dtype = old.bias is not None, old.weight.dtype
    fresh: Head  # made on the meta device, where nothing random is drawn
    if isinstance(old, nn.Linear):
        fresh = nn.Linear(old.in_features, classes, bias=bias, device="meta", dtype=dtype)
    else:
        fresh = nn.Conv2d(old.in_channels, classes, 1, bias=bias, device="meta", dtype=dtype)
    fresh = fresh.to_empty(device=old.weight.device)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    return fresh


def _heads(module: nn.Module) -> list[tuple[str, Head]]:
    named = _named_by_timm(module)
    if named:
        return named
    layers = [(name, layer) for name, layer in module.named_modules() if _is_head(layer)]
    if not layers:
        raise UserError(
            f"{type(module).__name__} has no linear layer that could be its classification head"
        )
    name, layer = layers[-1]
    parent_name, _, leaf = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    if not ("head" in leaf or "classifier" in leaf):
        return [(name, _checked(layer))]
    twins = [
        (f"{parent_name}.{sibling}" if parent_name else sibling, _checked(child))
        for sibling, child in parent.named_children()
        if _is_head(child)
        and ("head" in sibling or "classifier" in sibling)
        and _shape(child) == _shape(layer)
    ]
    return twins


def _named_by_timm(module: nn.Module) -> list[tuple[str, Head]]:
    for prefix, part in module.named_modules():
        settings = getattr(part, "pretrained_cfg", None)
        names = settings.get("classifier") if isinstance(settings, dict) else None
        if names:
            names = (names,) if isinstance(names, str) else tuple(names)
            paths = [f"{prefix}.{name}" if prefix else name for name in names]
            layers = [(name, module.get_submodule(name)) for name in paths]
            if all(_is_head(layer) for _, layer in layers):
                return [(name, _checked(layer)) for name, layer in layers]
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
