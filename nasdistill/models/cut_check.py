"""Whether cutting a net takes away what it says: checked with numbers, once for a space."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nasdistill.common.types import Input
from nasdistill.models.pruning import Structure, first_line, slice_groups, units_of
from nasdistill.models.slicing import part_of, put

_TOLERANCE = 1e-3


def wrong_groups(net: nn.Module, structure: Structure, input: Input) -> dict[str, str]:
    """Groups whose cut changes more than it should, such as those of channels that are shuffled.

    A net in which nothing reads some channels must give the same logits as one from which they were
    cut. Weights are drawn at random; norms over channels, whose figures a cut changes by its
    nature, are left out of both.

    Args:
        net: On the CPU; it is copied.
        structure: Of the net.
        input: The image.

    Returns:
        The reason by the group's name.
    """
    names = [name for name, group in structure.groups.items() if units_of(group, 1e-9) < group.size]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, input.channels, *input.size, generator=generator)
    drawn, images = _in_double(_with_random_weights(net), images)
    if not names or _difference(drawn, structure, names, images) is None:
        return {}
    reasons = {name: _difference(drawn, structure, [name], images) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _in_double(net: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """A net and its images in fp64, where it runs in that, else as they are.

    A dozen blocks of attention without their norms make more of what fp32 rounds than is tolerated.
    """
    double = copy.deepcopy(net).double()
    try:
        with torch.no_grad():
            double(images[:1].double())
    except Exception:  # it makes fp32 tensors of its own
        return net, images
    return double, images.double()


def _difference(
    net: nn.Module, structure: Structure, names: Sequence[str], images: Tensor
) -> str | None:
    generator = torch.Generator().manual_seed(1)
    kept: dict[str, Tensor] = {}
    for name in names:
        group = structure.groups[name]
        order = torch.randperm(group.size, generator=generator)
        kept[name] = order[: units_of(group, 0.5)].sort().values
    unread, smaller = copy.deepcopy(net), copy.deepcopy(net)
    _stop_reading(unread, structure, kept)
    try:
        slice_groups(smaller, structure, kept)
        with torch.no_grad():
            expected, logits = (_without_norms(part)(images) for part in (unread, smaller))
    except Exception as error:
        return f"once cut, it does not run ({first_line(error)})"
    largest = float(expected.abs().max())
    if not torch.allclose(logits, expected, rtol=0, atol=_TOLERANCE * max(largest, 1e-12)):
        return "which of its channels belong together was not found"
    return None


def _stop_reading(net: nn.Module, structure: Structure, kept: Mapping[str, Tensor]) -> None:
    """Sets the weights to zero with which layers read the channels that are to go."""
    for name, units in kept.items():
        for side, member in structure.groups[name].members.items():
            part = part_of(net, side.name)
            if side.side != "in" or getattr(part, "groups", 1) > 1:
                continue
            removed_mask = ~torch.isin(torch.from_numpy(member.units), units)
            channels = torch.from_numpy(member.channels)[removed_mask]
            transposed = isinstance(part, _ConvNd) and part.transposed
            with torch.no_grad():
                part.weight.index_fill_(0 if transposed else 1, channels, 0.0)


def _with_random_weights(net: nn.Module) -> nn.Module:
    drawn = copy.deepcopy(net).float().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in (*drawn.parameters(), *drawn.buffers()):
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1:
                spread = tensor[0].numel() ** -0.5
                tensor.normal_(0, spread, generator=generator)
            else:  # variances must be above 0, and factors not far from 1
                tensor.uniform_(0.5, 1.5, generator=generator)
    return drawn


def _without_norms(net: nn.Module) -> nn.Module:
    for name, module in list(net.named_modules()):
        if name and isinstance(module, nn.LayerNorm | nn.GroupNorm):
            put(net, name, nn.Identity())
    return net
