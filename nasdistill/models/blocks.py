"""Blocks and stages of a net, found by what they do in one forward pass, not by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_ADDED = ("AddBackward0", "CopySlices")  # the second where it is added to a part in place
_PASSING = frozenset(
    [
        "ReluBackward0", "HardtanhBackward0", "ViewBackward0", "UnsafeViewBackward0",
        "ReshapeAliasBackward0", "PermuteBackward0", "TransposeBackward0", "CloneBackward0",
        "SliceBackward0", "AsStridedBackward0",
    ]
)  # fmt: skip
"""What may happen to a block's input on its way through, beside additions: what leaves it alone, or
cuts it off as the block before it did already."""
_ACTIVATIONS = frozenset(["SiluBackward0", "HardswishBackward0", "GeluBackward0"])
"""With one of these after the addition, too, it is a block, but it cannot be left out."""


@dataclass(frozen=True)
class Block:
    """A block of a net.

    Attributes:
        name: Dotted name of its module.
        shape: Of its output for one image.
        residual: Whether it adds to its input and keeps its shape, so that it can be left out.
    """

    name: str
    shape: tuple[int, ...]
    residual: bool


class Call(NamedTuple):
    """The call of a module in a forward pass."""

    name: str
    shape: tuple[int, ...]
    adds: bool
    residual: bool


class Layout(NamedTuple):
    """What a forward pass shows of a net.

    Attributes:
        stages: Blocks by stage: consecutive ones with outputs of one shape.
        order: The place of each module in the pass, by name.
    """

    stages: tuple[tuple[Block, ...], ...]
    order: dict[str, int]


def layout_of(net: nn.Module, images: Tensor) -> Layout:
    """Blocks and stages of a net.

    Blocks are the instances of module classes of which one at least adds to its input and keeps its
    shape; where such modules hold others, the innermost.

    Args:
        net: In eval mode, its parameters requiring gradients.
        images: What it is run on.

    Raises:
        Exception: Of any kind, if it cannot be run.
    """
    calls = _calls(net, images)
    order: dict[str, int] = {}
    for place, call in enumerate(calls):
        order.setdefault(call.name, place)
    modules = dict(net.named_modules())
    once = {call.name for call in calls if sum(c.name == call.name for c in calls) == 1}
    adding = {call.name for call in calls if call.adds and call.name in once}
    classes = {type(modules[name]) for name in adding if not _holds(name, adding)}
    classes -= {nn.Sequential}
    named = {call.name for call in calls if type(modules[call.name]) in classes} & once
    blocks = [
        Block(call.name, call.shape, call.residual)
        for call in calls
        if call.name in named and not _holds(call.name, named)
    ]
    return Layout(tuple(_stages(blocks)), order)


def _stages(blocks: list[Block]) -> Iterator[tuple[Block, ...]]:
    stage: list[Block] = []
    for block in blocks:
        if stage and block.shape != stage[-1].shape:
            yield tuple(stage)
            stage = []
        stage.append(block)
    if stage:
        yield tuple(stage)


def _holds(name: str, others: set[str]) -> bool:
    return any(other.startswith(f"{name}.") or (not name and other) for other in others)


def _calls(net: nn.Module, images: Tensor) -> list[Call]:
    """All calls of modules that give a tensor, in the order in which they end."""
    calls: list[Call] = []
    begun: list[tuple[str, Any, Any]] = []

    def before(name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            begun.append((name, getattr(first, "grad_fn", None), getattr(first, "shape", None)))

        return note

    def after(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            _, source, shape = begun.pop()
            if not isinstance(output, Tensor):
                return
            same = source is not None and output.shape == shape
            adds = same and _adds_to(output.grad_fn, source, _PASSING | _ACTIVATIONS)
            residual = adds and _adds_to(output.grad_fn, source, _PASSING)
            calls.append(Call(name, tuple(output.shape[1:]), adds, residual))

        return note

    handles = [
        handle
        for name, module in net.named_modules()
        if name
        for handle in (
            module.register_forward_pre_hook(before(name)),
            module.register_forward_hook(after(name)),
        )
    ]
    try:
        with torch.enable_grad():
            net(images)
    except Exception as error:
        if begun:
            error.add_note(f"in module {begun[-1][0]}")
        raise
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _adds_to(output: Any, source: Any, passing: frozenset[str]) -> bool:
    """Whether a way leads from an output back to an input through additions, one at least."""
    stack, seen = [(output, False)], set()
    while stack:
        node, added = stack.pop()
        if node is source:
            if added:
                return True
            continue
        if node is None or (node, added) in seen:
            continue
        seen.add((node, added))
        name = node.name().rpartition("::")[2]
        if name in _ADDED or name in passing:
            stack += [(previous, added or name in _ADDED) for previous, _ in node.next_functions]
    return False
