"""The tree of a space whose students are cut from a net, or from several, made from these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.cut_check import wrong_groups
from nasdistill.models.pruned import PRETRAINED, build_base, structure_for
from nasdistill.models.pruning import Structure, units_of, without
from nasdistill.space import Architecture, SearchSpace
from nasdistill.space.nodes import (
    Branch,
    Choice,
    Constant,
    Float,
    Group,
    Int,
    Node,
    Row,
    constants,
    parameters_of,
)
from nasdistill.space.template import Template

_UNIFORM = (0.75, 0.5, 0.375, 0.25, 0.125)
"""Shares of channels that the first designs keep everywhere: those of the steps in
`trials/cutting.py`, which have been distilled already."""
_MOST_FIRST = 6
"""First designs of a space of several nets."""


class Axis(NamedTuple):
    """Something that a space cuts.

    Attributes:
        name: Its place in the tree.
        layers: Names of groups, or of blocks.
        least: Channels of all these groups, or blocks, of which the fewest remain.
        most: The same where the most remain.
        whole: The same of the net as it is.
    """

    name: str
    layers: tuple[str, ...]
    least: int
    most: int
    whole: int


class MadeSpace(NamedTuple):
    """A space with its tree.

    Attributes:
        space: The space.
        axes: What it cuts.
        left_whole: Why groups are left whole, by name.
    """

    space: SearchSpace
    axes: tuple[Axis, ...]
    left_whole: dict[str, str]


def pruned_space(space: SearchSpace, base: Architecture, input: Input, classes: int) -> MadeSpace:
    """Makes the tree of a space from a net.

    Args:
        space: With a template.
        base: The net's architecture.
        input: The students' image.
        classes: Number of their logits.

    Raises:
        UserError: If the net cannot be built, traced or cut at all, or the template names a stage
            that it has not.
    """
    assert space.template is not None
    net = build_base(base, input, classes)
    cuts = _cuts_of(space.template, base, net, input, classes, f"space {space.name}")
    values = {"family": base.family, "values": base.values}
    root = Group({"base": constants(values), "keep": cuts.keep})
    made = replace(space, root=root, start=_start(root, values))
    return MadeSpace(made, cuts.axes, cuts.left_whole)


def pretrained_space(
    space: SearchSpace, input: Input, classes: int, tell: Callable[[str], None]
) -> MadeSpace:
    """Makes the tree of a space of named nets that says how much of them is kept.

    Args:
        space: With a template by model.
        input: The students' image.
        classes: Number of their logits.
        tell: Told of each net that is looked at.

    Raises:
        UserError: If one of those that are to be cut cannot be built, traced or cut at all.
    """
    assert space.template is not None
    branches: dict[str, Node] = {}
    axes: list[Axis] = []
    left_whole: dict[str, str] = {}
    for model, template in space.template.models.items():
        branches[model] = Group({})
        if template is None:
            continue
        tell(model)
        base, where = Architecture(PRETRAINED, {"model": model}), f"space {space.name}: {model}"
        net = build_base(base, input, classes)
        try:
            structure_for(base, input, classes, net)
        except UserError as error:
            raise UserError(
                f"{where}: {error}. To keep it whole beside others that are cut, name those under "
                "keep:, such as keep: {MODEL: {width: …}}"
            ) from None
        cuts = _cuts_of(template, base, net, input, classes, where)
        branches[model] = Group({"keep": cuts.keep})
        axes += [axis._replace(name=f"{model} {axis.name}") for axis in cuts.axes]
        left_whole |= {f"{model} {name}": reason for name, reason in cuts.left_whole.items()}
    root = Group({**space.root.children, "model": Branch(branches)})
    start = _first_of_models(branches) if len(root.children) == 1 else ()
    return MadeSpace(replace(space, root=root, start=start), tuple(axes), left_whole)


class _Cuts(NamedTuple):
    """What can be kept of one net; see `MadeSpace`."""

    keep: Group
    axes: tuple[Axis, ...]
    left_whole: dict[str, str]


def _cuts_of(
    template: Template,
    base: Architecture,
    net: nn.Module,
    input: Input,
    classes: int,
    where: str,
) -> _Cuts:
    """Makes the part of a tree that says what is kept of a net."""
    try:
        structure = structure_for(base, input, classes, net)
    except UserError:
        _check_channels(net, input, where)
        raise
    wrong = wrong_groups(net.cpu(), structure, input)
    structure = without(structure, set(wrong))
    _check_stages(template, structure, where)
    axes: list[Axis] = []
    stages = Row(tuple(_stage(i, structure, template, axes) for i in range(len(structure.stages))))
    layers = {
        axis: _ratio_axis(f"layers.{axis}", (name,), structure, template, "layers", axes)
        for axis, name in structure.layers.items()
    }
    width = template.node("width")
    keep: dict[str, Node] = {"width": width, "stages": stages, "layers": Group(layers)}
    if wrong:
        keep["whole"] = Row(tuple(Constant(name) for name in wrong))
    left_whole = {k: v for k, v in {**structure.whole, **wrong}.items() if "logits" not in v}
    if not axes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_whole.items())[:3])
        raise UserError(
            f"{where}: nothing can be cut from the {base.family} net"
            + (
                f" ({reasons})"
                if reasons
                else ": it has neither more than 8 channels that belong "
                "together nor blocks that can be left out"
            )
        )
    return _Cuts(Group(keep), tuple(axes), left_whole)


def smallest(space: SearchSpace) -> list[Architecture]:
    """The architectures of a made space that keep the least: one, or one of each model."""
    model = space.root.children.get("model")
    if not isinstance(model, Branch):
        return [Architecture(space.family, _value(space.root, 0.0, least=True))]
    return [
        Architecture(space.family, {"model": {"type": name, **_value(node, 0.0, least=True)}})
        for name, node in model.options.items()
    ]


def _check_channels(net: nn.Module, input: Input, where: str) -> None:
    """Refuses images of other channels than a net's first convolution takes.

    Raises:
        UserError: If they are others.
    """
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != input.channels:
        raise UserError(
            f"{where}: the net that students are cut from takes images of "
            f"{first.in_channels} channels, the data have {input.channels}; --channels "
            f"{first.in_channels} shows them so, to the training of a teacher of your own as well"
        ) from None


def _check_stages(template: Template, structure: Structure, where: str) -> None:
    count = len(structure.stages)
    for number in template.stages:
        if number >= count:
            raise UserError(
                f"{where}: keep.stages.{number}: the net has {count} stages"
                + (f", 0 to {count - 1}" if count else "")
            )


def _stage(index: int, structure: Structure, template: Template, axes: list[Axis]) -> Group:
    stage, children = structure.stages[index], {}
    for axis, names in stage.axes.items():
        place = f"stages.{index}.{axis}"
        if names:
            children[axis] = _ratio_axis(place, names, structure, template, axis, axes, index)
    least, most = stage.least_depth, len(stage.blocks)
    depth = template.node("depth", index)
    ends = (depth.low, depth.high) if isinstance(depth, Int) else (depth.value,) * 2  # type: ignore[union-attr]
    low, high = (min(most, max(least, int(end))) for end in ends)
    if least < most:
        children["depth"] = Int(low, high) if low < high else Constant(low)
        names = tuple(block.name for block in stage.blocks)
        axes.append(Axis(f"stages.{index}.depth", names, low, high, most))
    return Group(children)


def _ratio_axis(
    place: str,
    names: Sequence[str],
    structure: Structure,
    template: Template,
    axis: str,
    axes: list[Axis],
    stage: int | None = None,
) -> Node:
    """The node of an axis; its largest value alone where all come to the same."""
    groups = [structure.groups[name] for name in names]
    node = template.node(axis, stage)
    widths, ratios = ratios_of(template.node("width")), ratios_of(node)

    def channels(ratio: float) -> tuple[int, ...]:
        return tuple(group.width * units_of(group, ratio) for group in groups)

    sums = [sum(channels(width * ratio)) for width in widths for ratio in ratios]
    axes.append(Axis(place, tuple(names), min(sums), max(sums), sum(channels(1.0))))
    matters = any(len({channels(width * ratio) for ratio in ratios}) > 1 for width in widths)
    return node if matters else Constant(max(ratios))


def ratios_of(node: Node) -> list[float]:
    """The values of a node of ratios."""
    if isinstance(node, Constant):
        return [float(node.value)]
    if isinstance(node, Choice):
        return [float(option) for option in node.options]
    assert isinstance(node, Float) and node.step is not None and node.places is not None
    return [round(node.low + index * node.step, 10) for index in range(node.places)]


def _start(root: Group, base: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Parameters of uniform cuts."""
    designs: list[dict[str, Any]] = []
    for ratio in _UNIFORM:
        value = _value(root, 1.0) | {"base": base}
        keep = root.children["keep"]
        assert isinstance(keep, Group)
        value["keep"]["width"] = _value(keep.children["width"], ratio)
        parameters = parameters_of(root, value)
        if parameters not in designs:
            designs.append(parameters)
    return tuple(designs)


def _first_of_models(branches: Mapping[str, Node]) -> tuple[dict[str, Any], ...]:
    """Parameters of uniform cuts of named nets: the mildest of each, then the next."""
    designs: list[dict[str, Any]] = []
    for ratio in _UNIFORM:
        for model, node in branches.items():
            value = {"type": model, **_value(node, 1.0)}
            if "keep" in value:
                assert isinstance(node, Group) and isinstance(node.children["keep"], Group)
                value["keep"]["width"] = _value(node.children["keep"].children["width"], ratio)
            parameters = parameters_of(Branch(branches), value, "model")
            if parameters not in designs:
                designs.append(parameters)
    return tuple(designs[:_MOST_FIRST])


def _value(node: Node, ratio: float, least: bool = False) -> Any:
    """A node's value with the ratios that are nearest to one, and all blocks or the fewest."""
    match node:
        case Constant(value):
            return value
        case Int(low, high):
            return low if least else high
        case Float() | Choice():
            return min(ratios_of(node), key=lambda each: (abs(each - ratio), each))
        case Group(children):
            return {key: _value(child, ratio, least) for key, child in children.items()}
        case Row(items):
            return [_value(item, ratio, least) for item in items]
    raise AssertionError(node)
