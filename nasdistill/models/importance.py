"""How much each channel of a net matters: a score for every unit of its groups.

The scores of one group are compared with each other alone: how many of its channels stay is the
search's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.common.types import Importance
from nasdistill.models.coupling import Group, Side
from nasdistill.models.pruning import Structure
from nasdistill.models.slicing import part_of

Scores: TypeAlias = dict[str, Tensor]
"""By group, float64 `[units]`."""
Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]
"""Images `[B, C, H, W]`, and labels int64 `[B]`."""
Forward: TypeAlias = Callable[[Tensor], Tensor]
"""From images to logits."""


def importance(
    kind: Importance, net: nn.Module, structure: Structure, batches: Batches, forward: Forward
) -> Scores:
    """How much each unit of each group of a net matters.

    Args:
        kind: The measure.
        net: In eval mode, of the shape that `structure` was made from.
        structure: What can be cut from it.
        batches: Some training images; `magnitude` looks at none.
        forward: Through the net.
    """
    if kind == "magnitude":
        return magnitude(net, structure)
    measure = taylor if kind == "taylor" else activation
    return measure(net, structure, batches, forward)


def magnitude(net: nn.Module, structure: Structure) -> Scores:
    """The norm of all weights that belong to a unit (Li et al., "Pruning Filters", 2017).

    Those of a layer are divided by their mean, so that each layer of a group counts alike.

    Args:
        net: Of the shape that `structure` was made from.
        structure: Of the net.
    """

    def of_side(side: Side) -> Tensor | None:
        squares = _by_channel(part_of(net, side.name), side.side, torch.square)
        return None if squares is None else squares / squares.mean().clamp_min(1e-12)

    return {group.name: _by_unit(group, of_side, group.members) for group in _cut_in(structure)}


def taylor(
    net: nn.Module,
    structure: Structure,
    batches: Batches,
    forward: Forward,
) -> Scores:
    """The change of the loss that the loss's gradient foretells where a unit gives nothing.

    The square of the sum of weight times gradient over the weights that take the unit's channels
    in, on average over batches (Molchanov et al., "Importance Estimation for Neural Network
    Pruning", 2019, there at the gates behind a layer). The loss is the cross-entropy.

    Args:
        net: In eval mode; its gradients are changed.
        structure: Of the net.
        batches: Images `[B, C, H, W]` and labels int64 `[B]`.
        forward: From images to logits, through the net.
    """
    groups = list(_cut_in(structure))
    totals = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    learn = [parameter.requires_grad for parameter in net.parameters()]
    net.requires_grad_(True)
    seen = 0
    for images, labels in batches:
        seen += 1
        net.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = F.cross_entropy(forward(images).float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]

        def of_side(side: Side) -> Tensor | None:
            part = part_of(net, side.name)
            return _by_channel(part, side.side, _first_order)

        for group in groups:
            totals[group.name] += _by_unit(group, of_side, _readers(group)).square()
    net.zero_grad(set_to_none=True)
    for parameter, flag in zip(net.parameters(), learn, strict=True):
        parameter.requires_grad_(flag)
    return {name: total / max(seen, 1) for name, total in totals.items()}


def activation(
    net: nn.Module,
    structure: Structure,
    batches: Batches,
    forward: Forward,
) -> Scores:
    """What a unit's channels contribute to the layers that take them in.

    Mean square of the channel, times the squared norm of the weights that it meets (after Sun et
    al., "A Simple and Effective Pruning Approach for Large Language Models", 2024, who multiply
    norms by single weights).

    Args:
        net: In eval mode.
        structure: Of the net.
        batches: Images and labels; the labels are not looked at.
        forward: From images to logits, through the net.
    """
    groups = list(_cut_in(structure))
    readers = {side for group in groups for side in _readers(group)}
    squares: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double()
            dimension = 1 if isinstance(module, nn.Conv2d) else x.ndim - 1
            others = [d for d in range(x.ndim) if d != dimension]
            squares[name] = squares.get(name, 0) + x.square().mean(dim=others)

        return hook

    hooks = [
        part_of(net, side.name).register_forward_pre_hook(note(side.name))
        for side in readers
        if isinstance(part_of(net, side.name), (nn.Conv2d, nn.Linear))
    ]
    seen = 0
    try:
        with torch.no_grad():
            for images, _ in batches:
                forward(images)
                seen += 1
    finally:
        for handle in hooks:
            handle.remove()

    def of_side(side: Side) -> Tensor | None:
        met = _by_channel(part_of(net, side.name), side.side, torch.square)
        return None if met is None or side.name not in squares else met * squares[side.name] / seen

    return {group.name: _by_unit(group, of_side, _readers(group)) for group in groups}


def _first_order(weight: Tensor) -> Tensor:
    """Weight times gradient; 0 where the loss does not depend on it."""
    return torch.zeros_like(weight) if weight.grad is None else weight * weight.grad


def _cut_in(structure: Structure) -> Iterator[Group]:
    return (group for group in structure.groups.values() if not group.fixed)


def _readers(group: Group) -> list[Side]:
    """The sides at which layers take the group's channels in; all of them where none is known."""
    return [side for side in group.members if side.side == "in"] or list(group.members)


def _by_unit(
    group: Group, of_side: Callable[[Side], Tensor | None], sides: Iterable[Side]
) -> Tensor:
    """Sums by unit of what sides have by channel."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for side in sides:
        values = of_side(side)
        if values is not None:
            member = group.members[side]
            channels, units = (torch.from_numpy(x) for x in (member.channels, member.units))
            total.index_add_(0, units, values.cpu()[channels])
    return total


def _by_channel(part: object, side: str, value: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Sums of a value of the weights by channel of a layer's side, float64.

    Returns:
        None for what has no weights of that kind.
    """
    weight = part if isinstance(part, nn.Parameter) else getattr(part, "weight", None)
    if not isinstance(weight, nn.Parameter) or (isinstance(part, nn.Parameter)):
        return None
    values = value(weight).detach().double()
    if values.ndim == 1 or side == "out":
        return values.flatten(1).sum(dim=1) if values.ndim > 1 else values
    groups = getattr(part, "groups", 1)
    split = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    return split.sum(dim=(1, 3)).flatten()
