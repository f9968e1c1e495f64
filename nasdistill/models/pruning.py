"""What can be cut from a net, and the cutting: channels that go together, blocks that add.

`structure_of` traces a net once and gives plain data by names; `cut` applies a choice to any net of
that shape in milliseconds, on the meta device as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.blocks import Block, layout_of
from nasdistill.models.coupling import (
    Group,
    Member,
    Numbers,
    Side,
    groups_of,
    tied_parameters,
    torch_pruning,
)
from nasdistill.models.heads import attentions_of, heads_group, set_heads
from nasdistill.models.slicing import Passes, part_of, put, size_of, slice_part

STEP = 8
"""Channels are kept in multiples of this, which suits vectors and tensor cores."""


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks with outputs of one shape.

    Attributes:
        blocks: In their order.
        outer: Names of the groups that its blocks give.
        inner: Names of the groups within its blocks.
        heads: Names of the groups of attention heads.
    """

    blocks: tuple[Block, ...]
    outer: tuple[str, ...]
    inner: tuple[str, ...]
    heads: tuple[str, ...] = ()

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Names of groups by the axis that says how much of them is kept."""
        return {"outer": self.outer, "inner": self.inner, "heads": self.heads}

    @property
    def least_depth(self) -> int:
        """Blocks that must stay: those that change a shape, and one at least."""
        return max(1, sum(not block.residual for block in self.blocks))

    def left_out(self, depth: int) -> list[str]:
        """Names of the blocks that go where `depth` remain: the last that add to their input."""
        residual = [block.name for block in self.blocks if block.residual]
        return residual[len(residual) - (len(self.blocks) - depth) :]


@dataclass(frozen=True)
class Structure:
    """What can be cut from a net; plain data.

    Attributes:
        groups: By name.
        stages: In their order.
        layers: Names of the groups that are in no stage, by axis: the layer that names them.
    """

    groups: Mapping[str, Group]
    stages: tuple[Stage, ...]
    layers: Mapping[str, str]

    @property
    def whole(self) -> dict[str, str]:
        """Why groups are left whole, by name."""
        return {name: group.fixed for name, group in self.groups.items() if group.fixed}


def structure_of(net: nn.Module, input: Input) -> Structure:
    """Traces what can be cut from a net.

    Args:
        net: From normalised float `[B, C, H, W]` to logits, on any device; it is copied to the meta
            device, where nothing is computed.
        input: The image.

    Raises:
        UserError: If Torch-Pruning is missing, or the net cannot be traced.
    """
    torch_pruning()
    traced = copy.deepcopy(net).to("meta").eval().requires_grad_(True)
    images = torch.empty(1, input.channels, *input.size, device="meta")
    try:
        layout = layout_of(traced, images)
        attentions = attentions_of(traced)
        apart = [side for attention in attentions for side in attention.sides]
        groups = _named(
            [
                *groups_of(traced, images, layout.order, apart, tied_parameters(net)),
                *map(heads_group, attentions),
            ]
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{type(net).__name__} cannot be traced, so that nothing can be cut from it"
            f"{in_module(error)}: {first_line(error)}"
        ) from error
    structure = _with_axes(groups, layout.stages)
    return _without_failing(structure, traced, images)


def _named(groups: Sequence[Group]) -> dict[str, Group]:
    """Groups by name; further ones of a layer are numbered."""
    named: dict[str, Group] = {}
    for group in groups:
        name, number = group.name, 2
        while name in named:
            name, number = f"{group.name}/{number}", number + 1
        named[name] = replace(group, name=name)
    return named


def _with_axes(groups: Mapping[str, Group], stages: Sequence[tuple[Block, ...]]) -> Structure:
    """Gives each group to a stage, or to an axis of its own."""
    stage_of = {block.name: index for index, stage in enumerate(stages) for block in stage}
    outer: list[list[str]] = [[] for _ in stages]
    inner: list[list[str]] = [[] for _ in stages]
    heads: list[list[str]] = [[] for _ in stages]
    layers: dict[str, str] = {}
    for name, group in groups.items():
        if group.fixed or (group.channels <= STEP and not group.attention):
            continue
        touched = {_block_of(side.name, stage_of) for side in group.members}
        blocks = [_block_of(giver, stage_of) for giver in group.givers]
        giving = [stage_of[block] for block in blocks if block is not None]
        if group.attention and giving and group.size > 1:
            heads[giving[0]].append(name)
        elif group.attention:
            continue  # in no block
        elif len(touched) == 1 and giving:
            inner[giving[0]].append(name)
        elif giving:
            outer[min(giving)].append(name)
        else:
            layers[name] = name
    made = zip(stages, outer, inner, heads, strict=True)
    return Structure(groups, tuple(Stage(b, *map(tuple, names)) for b, *names in made), layers)


def _block_of(name: str, blocks: Mapping[str, int]) -> str | None:
    """The block that a layer lies in."""
    parts = name.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in blocks), None)


def _without_failing(structure: Structure, net: nn.Module, images: Tensor) -> Structure:
    """Leaves those groups whole with which the net does not run once they are cut."""
    if _failure(structure, list(structure.groups), net, images) is None:
        return structure
    groups = dict(structure.groups)
    for name in groups:
        problem = _failure(structure, [name], net, images)
        if problem is not None:
            groups[name] = replace(groups[name], fixed=problem)
    left = {name for name, group in groups.items() if group.fixed}
    return without(replace(structure, groups=groups), left)


def _failure(
    structure: Structure, names: Sequence[str], net: nn.Module, images: Tensor
) -> str | None:
    """What goes wrong on the meta device with some groups cut as far as possible."""
    cut_net = copy.deepcopy(net)
    groups = (structure.groups[name] for name in names)
    kept = {g.name: torch.arange(units_of(g, 1e-9), device="cpu") for g in groups if not g.fixed}
    try:
        slice_groups(cut_net, structure, kept)
        with torch.no_grad():
            cut_net(images)
    except Exception as error:
        return f"once cut, it does not run ({first_line(error)})"
    return None


def without(structure: Structure, names: set[str]) -> Structure:
    """A structure in which some groups are on no axis."""

    def rest(groups: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in groups if name not in names)

    stages = tuple(
        replace(s, outer=rest(s.outer), inner=rest(s.inner), heads=rest(s.heads))
        for s in structure.stages
    )
    layers = {axis: name for axis, name in structure.layers.items() if name not in names}
    return replace(structure, stages=stages, layers=layers)


def units_of(group: Group, ratio: float) -> int:
    """The number of units of a group that a keep ratio leaves.

    Channels come in multiples of `STEP` and are never fewer, except where there are fewer already.

    Args:
        group: The group.
        ratio: In (0, 1].
    """
    if ratio >= 1 or group.fixed:
        return group.size
    step = 1 if group.attention else STEP // math.gcd(STEP, group.width)
    steps = max(1, math.floor(ratio * group.size / step + 0.5))
    return min(group.size, steps * step)


def counts_of(structure: Structure, keep: Mapping[str, Any]) -> dict[str, int]:
    """The number of units that a choice leaves of each group, by the group's name.

    Args:
        structure: Of the net.
        keep: `width`, a ratio of all channels; `stages` (a list, each with some of `outer`,
            `inner`, `heads`, `depth`) and `layers`, ratios of that by axis; what is not named is 1,
            and no block goes; `whole`, names of groups that stay as they are.

    Raises:
        ValueError: Naming what is wrong.
    """
    ratios: dict[str, Any] = {}
    _check_keys(keep, ("width", "stages", "layers", "whole"), "keep")
    width = _ratio(keep.get("width", 1.0), "keep.width")
    stages, layers = keep.get("stages", []), keep.get("layers", {})
    if not isinstance(stages, list) or len(stages) > len(structure.stages):
        raise ValueError(f"keep.stages: a list of at most {len(structure.stages)} is expected")
    if not isinstance(layers, Mapping):
        raise ValueError("keep.layers: an object is expected")
    ratios |= dict.fromkeys(structure.layers.values(), width)
    rest: list[Any] = [{}] * (len(structure.stages) - len(stages))
    for index, (stage, values) in enumerate(zip(structure.stages, [*stages, *rest], strict=True)):
        place = f"keep.stages.{index}"
        _check_keys(values, ("outer", "inner", "heads", "depth"), place)
        for axis, names in stage.axes.items():
            ratio = width * _ratio(values.get(axis, 1.0), f"{place}.{axis}")
            ratios |= dict.fromkeys(names, ratio)
        depth, most = values.get("depth", len(stage.blocks)), len(stage.blocks)
        if type(depth) is not int or not stage.least_depth <= depth <= most:
            problem = f"{place}.depth: found {str(depth)[:40]}"
            raise ValueError(f"{problem}, allowed: {stage.least_depth} to {most}")
    for axis, value in layers.items():
        if axis not in structure.layers:
            raise ValueError(f"keep.layers: there is no layer {str(axis)[:80]!r} that can be cut")
        ratios[structure.layers[axis]] = width * _ratio(value, f"keep.layers.{axis}")
    whole = keep.get("whole", [])
    if not isinstance(whole, list) or not all(isinstance(name, str) for name in whole):
        raise ValueError("keep.whole: a list of names is expected")
    return {
        name: units_of(structure.groups[name], ratio)
        for name, ratio in ratios.items()
        if name not in whole
    }


def _check_keys(values: Any, known: Sequence[str], place: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{place}: an object is expected")
    for key in values:
        if key not in known:
            raise ValueError(f"{place}: unknown key {str(key)[:40]!r} (known: {', '.join(known)})")


def _ratio(value: Any, place: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1:
        raise ValueError(f"{place}: found {str(value)[:40]}, allowed: above 0, at most 1")
    return float(value)


def chosen_units(
    structure: Structure,
    keep: Mapping[str, Any],
    scores: Mapping[str, Tensor] | None = None,
    whole: Structure | None = None,
) -> dict[str, Tensor]:
    """The units that a choice leaves; see `cut`."""
    kept: dict[str, Tensor] = {}
    for name, count in counts_of(whole or structure, keep).items():
        score = (scores or {}).get(name)
        if count < structure.groups[name].size:
            kept[name] = (
                torch.arange(count, device="cpu")
                if score is None
                else score.detach().cpu().topk(count).indices.sort().values
            )
    return kept


def cut(
    net: nn.Module,
    structure: Structure,
    keep: Mapping[str, Any],
    scores: Mapping[str, Tensor] | None = None,
    whole: Structure | None = None,
) -> dict[str, Tensor]:
    """Cuts a net in place.

    Names of modules stay; what is left out passes its input on.

    Args:
        net: Of the shape that `structure` was made from, on any device.
        structure: Of the net.
        keep: As of `counts_of`.
        scores: By group, float `[units]`: the highest are kept; without them, the first ones.
        whole: Of the net before it was cut to what it is now, if it was: `keep` is a share of that.

    Returns:
        By group that was cut, int64 `[kept]`: the units that stay, rising.

    Raises:
        ValueError: If `keep` does not fit the net.
    """
    kept = chosen_units(structure, keep, scores, whole)
    stages = zip(structure.stages, keep.get("stages", []), strict=False)
    gone = [
        name
        for stage, values in stages
        for name in stage.left_out(values.get("depth", len(stage.blocks)))
    ]
    slice_groups(net, structure, kept, gone)
    return kept


def narrowed(structure: Structure, kept: Mapping[str, Tensor]) -> Structure:
    """The structure of a net that was cut, without tracing it: the same names, fewer units.

    Args:
        structure: Of the net before.
        kept: As `cut` gives it.
    """
    gone: dict[Side, list[Numbers]] = {}
    of_unit: dict[str, Any] = {}
    for name, units in kept.items():
        group = structure.groups[name]
        of_unit[name] = np.zeros(group.size, dtype=bool)
        of_unit[name][units.numpy()] = True
        for side, member in group.members.items():
            gone.setdefault(side, []).append(member.channels[~of_unit[name][member.units]])
    groups = {}
    for name, group in structure.groups.items():
        stays = of_unit.get(name, np.ones(group.size, dtype=bool))
        unit_now = np.cumsum(stays) - 1
        members = {}
        for side, member in group.members.items():
            rest = stays[member.units]
            channels, units = member.channels[rest], unit_now[member.units[rest]]
            cut_off = np.sort(np.concatenate(gone.get(side, [channels[:0]])))
            members[side] = Member(channels - np.searchsorted(cut_off, channels), units)
        groups[name] = replace(group, size=int(stays.sum()), members=members)
    return replace(structure, groups=groups)


def slice_groups(
    net: nn.Module, structure: Structure, kept: Mapping[str, Tensor], gone: Sequence[str] = ()
) -> None:
    """Cuts groups to some of their units, and leaves blocks out, in place.

    Args:
        net: The net.
        structure: Of the net.
        kept: By group, int64 `[kept]`: the units that stay.
        gone: Names of the blocks that go.
    """
    for name in gone:
        put(net, name, Passes())
    left_out = tuple(f"{name}." for name in gone)
    stays: dict[Side, Any] = {}
    for name, units in kept.items():
        group = structure.groups[name]
        of_unit = np.zeros(group.size, dtype=bool)
        of_unit[units.numpy()] = True
        for side, member in group.members.items():
            if not side.name.startswith(left_out):
                cut_off = member.channels[~of_unit[member.units]]
                stays.setdefault(side, []).append(cut_off)
    cuts: dict[str, dict[str, Tensor]] = {}
    for side, cut_off in stays.items():
        size = size_of(part_of(net, side.name), side.side)
        rest = np.setdiff1d(np.arange(size), np.concatenate(cut_off))
        cuts.setdefault(side.name, {})[side.side] = torch.from_numpy(rest)
    for name, units in kept.items():
        attention = structure.groups[name].attention
        if attention and not attention.startswith(left_out):
            set_heads(net, attention, len(units))
    for name, sides in cuts.items():
        slice_part(net, name, sides.get("out"), sides.get("in"))


def in_module(error: Exception) -> str:
    """The module whose forward pass raised an error, in brackets; empty if none did."""
    notes = [n for n in getattr(error, "__notes__", ()) if n.startswith("in module ")]
    return f" ({notes[0]})" if notes else ""


def first_line(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
