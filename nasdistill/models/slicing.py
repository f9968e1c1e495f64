"""Cutting of one layer to some of its channels, with its attributes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


class Passes(nn.Module):
    """What stands in the place of a block that was left out: gives what it is given first."""

    def forward(self, first: Tensor, *others: Any, **options: Any) -> Tensor:
        """The first argument."""
        return first


def part_of(net: nn.Module, name: str) -> Any:
    """The module or parameter of a dotted name."""
    part: Any = net
    for step in name.split("."):
        part = getattr(part, step)
    return part


def put(net: nn.Module, name: str, part: nn.Module | nn.Parameter) -> None:
    """Puts a module or parameter in the place of a dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, part)


def size_of(part: Any, side: str) -> int:
    """The number of channels at one side (`in`, `out`) of a layer, or of a parameter."""
    if isinstance(part, nn.Parameter):
        return part.shape[_channel_dimension(part)]
    if isinstance(part, _ConvNd):
        return int(part.in_channels if side == "in" else part.out_channels)
    if isinstance(part, nn.Linear):
        return int(part.in_features if side == "in" else part.out_features)
    if isinstance(part, nn.LayerNorm):
        return int(part.normalized_shape[-1])
    if isinstance(part, nn.GroupNorm):
        return int(part.num_channels)
    return int(part.num_parameters if isinstance(part, nn.PReLU) else part.num_features)


def slice_part(net: nn.Module, name: str, outs: Tensor | None, ins: Tensor | None) -> None:
    """Cuts a layer, or a parameter that belongs to none, in place.

    Args:
        net: The net.
        name: Dotted name of the module or parameter.
        outs: Output channels that stay, rising; None for all. Of layers with one side, such as
            norms and depthwise convolutions, its channels.
        ins: Input channels that stay; None for all.
    """
    part = part_of(net, name)
    if isinstance(part, nn.Parameter):
        assert outs is not None
        put(net, name, _sliced(part, _channel_dimension(part), outs))
    elif isinstance(part, _ConvNd):
        _slice_convolution(part, outs, ins)
    elif isinstance(part, nn.Linear):
        _slice_tensors(part, {"weight": (outs, ins), "bias": (outs,)})
        part.out_features, part.in_features = part.weight.shape
    else:
        assert outs is not None
        _slice_norm(part, outs)


def _channel_dimension(parameter: nn.Parameter) -> int:
    """The last dimension that is not 1, which Torch-Pruning takes for the channels."""
    return max(d for d, size in enumerate(parameter.shape) if size > 1)


def _slice_convolution(part: _ConvNd, outs: Tensor | None, ins: Tensor | None) -> None:
    if part.groups > 1:
        # Whole groups stay, so that inputs follow outputs and each filter stays whole.
        each = part.out_channels // part.groups
        per_group = part.in_channels // part.groups
        _slice_tensors(part, {"weight": (outs,), "bias": (outs,)})
        if outs is not None:
            part.groups = len(outs) // each
            part.out_channels, part.in_channels = len(outs), part.groups * per_group
        return
    transposed = isinstance(part, _ConvTransposeNd)
    _slice_tensors(part, {"weight": (ins, outs) if transposed else (outs, ins), "bias": (outs,)})
    first, second = part.weight.shape[:2]
    part.out_channels, part.in_channels = (second, first) if transposed else (first, second)


def _slice_norm(part: nn.Module, outs: Tensor) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    one = isinstance(part, nn.PReLU) and part.num_parameters == 1
    if not one:
        _slice_tensors(part, {name: (outs,) for name in names if hasattr(part, name)})
    if isinstance(part, _NormBase):
        part.num_features = len(outs)
    elif isinstance(part, nn.LayerNorm):
        part.normalized_shape = (len(outs),)
    elif isinstance(part, nn.GroupNorm):
        part.num_channels = len(outs)
    elif isinstance(part, nn.PReLU) and not one:
        part.num_parameters = len(outs)


def _slice_tensors(part: nn.Module, cuts: dict[str, tuple[Tensor | None, ...]]) -> None:
    """Cuts parameters and buffers of a module along their first dimensions."""
    for name, kept in cuts.items():
        tensor = getattr(part, name)
        for dimension, indices in enumerate(kept):
            if tensor is not None and indices is not None:
                tensor = _sliced(tensor, dimension, indices)
        setattr(part, name, tensor)


def _sliced(tensor: Tensor, dimension: int, indices: Tensor) -> Any:
    # No trip of the indices to the meta device: they say the shape, which is all that it has.
    with torch.no_grad():
        if tensor.is_meta:
            shape = list(tensor.shape)
            shape[dimension] = len(indices)
            new = tensor.new_empty(shape)
        else:
            new = tensor.index_select(dimension, indices.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new
