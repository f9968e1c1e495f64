"""Which channels of a net's layers a part of it has kept, cut in one step or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.models.coupling import Side
from nasdistill.models.hooks import ModelSummary, summarise
from nasdistill.models.pruning import Structure
from nasdistill.models.slicing import part_of, size_of


def composed(first: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The units that stay after two cuts, the second of what the first has left.

    Args:
        first: By group, int64 `[kept]`, as `pruning.cut` gives it.
        then: The same of the net that the first cut gave.

    Returns:
        The same of the whole net.
    """
    return {**first, **{g: first[g][units] if g in first else units for g, units in then.items()}}


def kept_channels(
    net: nn.Module, structure: Structure, sides: Mapping[str, Side], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The channels that stay of the outputs of some layers.

    Args:
        net: The whole net.
        structure: Of that net.
        sides: By layer, the side whose channels its output has; see `giving_sides`.
        kept: By group that was cut, int64 `[kept]`: the units of the whole net that stay.

    Returns:
        By layer, int64 `[kept]`, rising.
    """
    gone: dict[Side, list[Any]] = {side: [] for side in sides.values()}
    for name, units in kept.items():
        for side, member in structure.groups[name].members.items():
            if side in gone:
                gone[side].append(member.channels[~np.isin(member.units, units.numpy())])
    channels = {}
    for layer, side in sides.items():
        every = np.arange(size_of(part_of(net, side.name), side.side))
        channels[layer] = torch.from_numpy(np.setdiff1d(every, np.concatenate([[], *gone[side]])))
    return channels


def kept_heads(structure: Structure, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads that stay, by the attention module; of those alone that lost some."""
    groups = ((structure.groups[name].attention, units) for name, units in kept.items())
    return {attention: units for attention, units in groups if attention}


def giving_sides(net: nn.Module, structure: Structure, input: Input) -> dict[str, Side]:
    """For each block of a net, the layer in it that gives the channels of its output, in order.

    That is the last layer with as many channels, if a change of some of its channels changes these
    of the block alone; so it is where a block ends in a norm, an activation, an addition.

    Args:
        net: The net, in eval mode; left as it was.
        structure: Of the net.
        input: Its image.

    Returns:
        By name among the `ModelSummary.blocks`; blocks of which this is not so are left out.
    """
    summary = summarise(net, "net", input)
    outputs = {s for group in structure.groups.values() for s in group.members if s.side == "out"}
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, input.channels, *input.size, generator=generator).to(device)
    sides = {}
    for block in summary.blocks:
        side = _last_layer(block, summary, outputs)
        if side and _goes_through(net, side.name, block, summary, images, generator):
            sides[block] = side
    return sides


def _last_layer(block: str, summary: ModelSummary, outputs: set[Side]) -> Side | None:
    """The last layer up to a block's end that has as many channels."""
    order = list(summary.shapes)
    channels = _channels(summary.shapes[block])
    for name in reversed(order[: order.index(block) + 1]):
        side = Side(name, "out")
        if side in outputs and size_of(part_of(summary.module, name), "out") == channels:
            return side
    return None


def _channels(shape: tuple[int, ...]) -> int:
    """Channels of an output `[C, H, W]`, `[N, D]` or `[D]`."""
    return shape[-1] if len(shape) == 2 else shape[0]


def _goes_through(
    net: nn.Module,
    layer: str,
    block: str,
    summary: ModelSummary,
    images: Tensor,
    generator: torch.Generator,
) -> bool:
    """Whether a change of some channels of a layer changes those of a block, and no others."""
    count = _channels(summary.shapes[block])
    channels = torch.randperm(count, generator=generator)[: (count + 1) // 2]
    layer_axis = _axis(summary.shapes[layer], count, part_of(net, layer))
    block_axis = _axis(summary.shapes[block], count, None)
    outputs: list[Tensor] = []

    def change(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        index = channels.to(output.device)
        return output.index_copy(layer_axis, index, output.index_select(layer_axis, index) + 1.0)

    handle = part_of(net, block).register_forward_hook(
        lambda *call: outputs.append(call[2].clone())
    )
    with torch.no_grad():
        net(images)
        # before the block's own hook, where both are one module
        changing = part_of(net, layer).register_forward_hook(change, prepend=True)
        try:
            net(images)
        finally:
            changing.remove()
            handle.remove()
    before, after = outputs
    differs = (before != after).movedim(block_axis, 0).reshape(count, -1).any(dim=1).cpu()
    places = differs.nonzero().flatten()
    return len(places) > 0 and bool(torch.isin(places, channels).all())


def _axis(shape: tuple[int, ...], count: int, part: Any) -> int:
    """The axis of the channels in an output with a batch."""
    last = isinstance(part, nn.Linear) or len(shape) == 2 or shape[0] != count
    return len(shape) if last else 1
