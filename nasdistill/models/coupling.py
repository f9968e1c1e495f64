"""Channels of a net that must go together, found by tracing it with Torch-Pruning.

Torch-Pruning's graph says for each layer which channels of its neighbours depend on its own. Every
channel at an input or output of a layer is a point here, every dependency joins two of them, and
what hangs together is one unit: it is kept or cut as a whole.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from nasdistill.common.errors import UserError
from nasdistill.models.slicing import part_of

Numbers = NDArray[np.int64]

CUT_LAYERS = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
"""Layers whose channels can be cut, beside parameters that belong to no such layer."""
_SPAN = 1 << 32


class Side(NamedTuple):
    """One side of a layer.

    Attributes:
        name: Dotted name of the module, or of a parameter that belongs to no layer.
        side: `in` or `out`; `out` for what has but one.
    """

    name: str
    side: str


class Member(NamedTuple):
    """Channels of one side of a layer.

    Attributes:
        channels: Their indices, rising.
        units: The unit that each belongs to.
    """

    channels: Numbers
    units: Numbers


@dataclass(frozen=True)
class Group:
    """Units of channels that pass through the same sides of the same layers.

    Attributes:
        name: The first layer that gives its channels.
        size: Number of units.
        width: Channels that a unit has at that layer.
        members: By side of a layer.
        givers: Layers that make its channels.
        fixed: Why it may not be cut; empty if it may.
        attention: Where its units are heads, the module that they are of.
    """

    name: str
    size: int
    width: int
    members: dict[Side, Member]
    givers: tuple[str, ...] = ()
    fixed: str = ""
    attention: str = ""

    @property
    def channels(self) -> int:
        """Channels at the layer that it is named by."""
        return self.size * self.width


def torch_pruning() -> Any:
    """The package Torch-Pruning.

    Raises:
        UserError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("torch_pruning")
    except ImportError as error:
        raise UserError(
            "torch-pruning is not installed, and nets of the family 'pruned' are cut with it; run "
            "`pip install 'nasdistill[pruning]'`"
        ) from error


def groups_of(
    net: nn.Module,
    images: torch.Tensor,
    order: dict[str, int],
    apart: Collection[Side] = (),
    tied: Collection[str] = (),
) -> list[Group]:
    """The groups of channels of a net that go together.

    Args:
        net: On the meta device, in eval mode.
        images: An example of its input there.
        order: The place of each module in the forward pass, by name.
        apart: Sides of layers that are left out, and across which nothing depends.
        tied: Names of parameters that several layers share, which are left whole.

    Returns:
        Groups in the order of the layers that name them.

    Raises:
        Exception: Of any kind, if the net cannot be traced.
    """
    try:
        graph = _graph_of(net, images)
    except Exception as error:
        name = _module_that_fails(net, images, error)
        if name:
            error.add_note(f"in module {name}, whose channels Torch-Pruning cannot follow")
        raise
    names = _names(graph, net)
    kinds, points, units = _components(graph, names, frozenset(apart))
    made = (
        _group(size, by_kind, kinds, names, net, order, tied)
        for size, by_kind in _by_kinds(points, units)
    )
    groups = [group for group in made if group is not None]
    return sorted(groups, key=lambda g: (order.get(g.name, len(order)), g.name, -g.size))


def _graph_of(net: nn.Module, *inputs: torch.Tensor) -> Any:
    """Torch-Pruning's graph of a net."""
    graph = torch_pruning().DependencyGraph()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph.build_dependency(net, inputs if len(inputs) > 1 else inputs[0], verbose=False)
    return graph


def _module_that_fails(net: nn.Module, images: torch.Tensor, error: Exception) -> str:
    """The first module, of those within each other the innermost, with which tracing fails alike.

    Empty if that is none by itself.
    """
    seen: list[tuple[str, nn.Module, Any]] = []

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen.append((name, module, inputs))

    parts = [(name, part) for name, part in net.named_modules() if name and any(part.children())]
    handles = [part.register_forward_hook(note(name)) for name, part in parts]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, module, inputs in seen:
        if not all(isinstance(each, torch.Tensor) for each in inputs):
            continue
        try:
            _graph_of(module, *inputs)
        except Exception as its_error:
            if (type(its_error), str(its_error)) == (type(error), str(error)):
                return name
    return ""


def _components(
    graph: Any, names: dict[Any, str], apart: frozenset[Side]
) -> tuple[list[Any], Numbers, Numbers]:
    """What hangs together: kinds of points, all points, and the component of each.

    A point is `_SPAN` · (index of its kind) + channel; a kind is a node and a pruning function.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kinds: dict[tuple[Any, Any], int] = {}
    seen: dict[int, set[int]] = {}
    edges: list[tuple[Numbers, Numbers]] = []

    def index_of(node: Any, function: Any) -> int:
        return kinds.setdefault((node, function), len(kinds))

    def unseen(kind: int, channels: Numbers) -> Numbers:
        known = seen.setdefault(kind, set())
        new = [c for c in channels.tolist() if c not in known]
        known.update(new)
        return np.array(new, dtype=np.int64)

    def is_apart(node: Any, function: Any) -> bool:
        side = Side(names.get(node.module, ""), _side_of(node.module, function))
        return side in apart

    for node, function, channels in _roots(graph):
        if is_apart(node, function):
            continue
        stack = [(node, function, unseen(index_of(node, function), channels))]
        edges += _within(node, graph, index_of)
        while stack:
            node, function, channels = stack.pop()
            if not len(channels):
                continue
            source = index_of(node, function)
            for dependency in node.dependencies:
                if not dependency.is_triggered_by(function):
                    continue
                if is_apart(dependency.target, dependency.handler):
                    continue
                before, after = _mapped(dependency.index_mapping, channels)
                target = index_of(dependency.target, dependency.handler)
                edges.append((source * _SPAN + before, target * _SPAN + after))
                stack.append((dependency.target, dependency.handler, unseen(target, after)))
    pairs = [np.concatenate(ends) for ends in zip(*edges, strict=True)]
    points, numbered = np.unique(np.concatenate(pairs), return_inverse=True)
    ones, half = np.ones(len(pairs[0])), len(pairs[0])
    matrix = coo_array((ones, (numbered[:half], numbered[half:])), shape=(len(points),) * 2)
    _, units = connected_components(matrix, directed=False)
    return list(kinds), points, units.astype(np.int64)


def _roots(graph: Any) -> Iterator[tuple[Any, Any, Numbers]]:
    """Layers with weights, their output channels to begin with."""
    for module, node in graph.module2node.items():
        if isinstance(module, _ConvNd | nn.Linear):
            pruner = graph.get_pruner_of_module(module)
            channels = pruner.get_out_channels(module)
            yield node, pruner.prune_out_channels, np.arange(channels)


def _mapped(mappings: Any, channels: Numbers) -> tuple[Numbers, Numbers]:
    """Channels that have a counterpart across a dependency, and those counterparts."""
    present = [mapping for mapping in mappings if mapping is not None]
    if not present:
        return channels, channels
    hybrid = import_module("torch_pruning._helpers")._HybridIndex
    pairs = [hybrid(idx=int(c), root_idx=int(c)) for c in channels]
    for mapping in present:
        pairs = mapping(pairs)
    before = np.array([pair.root_idx for pair in pairs], dtype=np.int64)
    return before, np.array([pair.idx for pair in pairs], dtype=np.int64)


def _within(node: Any, graph: Any, index_of: Any) -> list[tuple[Numbers, Numbers]]:
    """What a layer joins in itself: in a convolution in groups the channels of each group."""
    layer, pruner = node.module, graph.get_pruner_of_module(node.module)
    outputs = index_of(node, pruner.prune_out_channels) * _SPAN
    count = pruner.get_out_channels(layer)
    channels = outputs + np.arange(count)
    edges = [(channels, channels)]  # points even where nothing reads them
    groups = getattr(layer, "groups", 1)
    if groups > 1 and layer.in_channels % groups == 0 and not _is_depthwise(layer):
        inputs = index_of(node, pruner.prune_in_channels) * _SPAN
        share = count // groups
        firsts = outputs + share * np.arange(groups)
        edges.append((channels, firsts.repeat(share)))
        ins = inputs + np.arange(layer.in_channels)
        edges.append((ins, firsts.repeat(layer.in_channels // groups)))
    return edges


def _is_depthwise(layer: nn.Module) -> bool:
    """Whether Torch-Pruning takes the inputs of a convolution for its outputs."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


def _names(graph: Any, net: nn.Module) -> dict[Any, str]:
    """Dotted names of modules and parameters."""
    names: dict[Any, str] = {module: name for name, module in net.named_modules()}
    return names | dict(graph._param_to_name)


def _by_kinds(points: Numbers, units: Numbers) -> Iterator[tuple[int, dict[int, list[Any]]]]:
    """Components that touch the same kinds of points: their number, and (channel, unit) by kind."""
    components: dict[int, list[tuple[int, int]]] = {}
    for point, unit in zip(points.tolist(), units.tolist(), strict=True):
        components.setdefault(unit, []).append((point // _SPAN, point % _SPAN))
    alike: dict[frozenset[int], list[list[tuple[int, int]]]] = {}
    for component in components.values():
        alike.setdefault(frozenset(kind for kind, _ in component), []).append(component)
    for together in alike.values():
        by_kind: dict[int, list[Any]] = {}
        for unit, component in enumerate(together):
            for kind, channel in component:
                by_kind.setdefault(kind, []).append((channel, unit))
        yield len(together), by_kind


def _group(
    size: int,
    by_kind: dict[int, list[Any]],
    kinds: list[Any],
    names: dict[Any, str],
    net: nn.Module,
    order: dict[str, int],
    tied: Collection[str],
) -> Group | None:
    """One group; None for channels that no layer gives, such as a position's alone."""
    members: dict[Side, Member] = {}
    for index in sorted(by_kind):
        node, function = kinds[index]
        name = names.get(node.module)
        if name is not None:
            channels, units = np.array(sorted(by_kind[index]), dtype=np.int64).T
            members[Side(name, _side_of(node.module, function))] = Member(channels, units)
    givers = [side for side in members if _gives(part_of(net, side.name), side)]
    if not givers:
        return None
    first = min(givers, key=lambda side: order.get(side.name, len(order)))
    widths = set(Counter(members[first].units.tolist()).values())
    fixed = _why_fixed([kinds[index] for index in by_kind], members, net, tied)
    width = widths.pop() if len(widths) == 1 else 1
    return Group(first.name, size, width, members, tuple(s.name for s in givers), fixed)


def _gives(part: Any, side: Side) -> bool:
    """Whether a side's channels are made there, not passed on one by one."""
    if side.side == "in" or not isinstance(part, _ConvNd | nn.Linear):
        return False
    return isinstance(part, nn.Linear) or part.groups == 1 or part.groups < part.in_channels


def _side_of(part: Any, function: Any) -> str:
    """Whether a pruning function is about a layer's inputs or its outputs."""
    dense = isinstance(part, _ConvNd | nn.Linear)
    return "in" if dense and function.__name__ == "prune_in_channels" else "out"


def _why_fixed(
    kinds: list[Any], members: dict[Side, Member], net: nn.Module, tied: Collection[str]
) -> str:
    """Why a group may not be cut; empty if it may."""
    if any(not node.outputs and _is_end(node.module, function) for node, function in kinds):
        return "these are the logits"
    for side in members:
        part = part_of(net, side.name)
        if isinstance(part, nn.Parameter):
            continue
        if isinstance(part, nn.MultiheadAttention):
            return f"{side.name} is a MultiheadAttention, whose heads share the width that it gets"
        if not isinstance(part, CUT_LAYERS):
            return f"{side.name} is a {type(part).__name__}, which is not cut"
        if is_parametrized(part):
            return f"the weights of {side.name} are computed from others"
        if any(f"{side.name}.{name}" in tied for name, _ in part.named_parameters(recurse=False)):
            return f"{side.name} shares its weights with another layer"
        if _is_depthwise(part) and part.in_channels != part.out_channels:
            return f"{side.name} sums several channels in each of its groups"
        if isinstance(part, _ConvTransposeNd) and part.groups > 1:
            return f"{side.name} is a transposed convolution in groups"
        if isinstance(part, nn.GroupNorm) and part.num_groups > 1:
            return f"{side.name} normalises in groups"
        if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) != 1:
            return f"{side.name} normalises over more than channels"
    return ""


def _is_end(part: Any, function: Any) -> bool:
    """Whether the last node's points of a kind are its outputs."""
    dense = isinstance(part, _ConvNd | nn.Linear)
    return not dense or function.__name__ == "prune_out_channels"


def tied_parameters(net: nn.Module) -> set[str]:
    """Names of the parameters that several layers share; on the meta device none does any more."""
    named = list(net.named_parameters(remove_duplicate=False))
    counts = Counter(id(p) for _, p in named)
    return {name for name, p in named if counts[id(p)] > 1}
