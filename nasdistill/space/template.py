"""A search space whose tree is made from a net: what its YAML says before that net is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nasdistill.space.nodes import Choice, Constant, Float, Int, Node, plain

FAMILY = "pruned"
WIDTH = Float(0.125, 1.0, step=0.125)
"""Share of all channels that stays, where the YAML says nothing."""
RATIO = Float(0.5, 1.0, step=0.125)
"""Share of those that stays in one place, where the YAML says nothing."""
DEPTH = Int(1, 500)
"""Blocks of a stage that stay, where the YAML says nothing; bounded by what the stage has."""
DEFAULTS: dict[str, Node] = {
    "width": WIDTH,
    "outer": RATIO,
    "inner": RATIO,
    "heads": RATIO,
    "layers": RATIO,
    "depth": DEPTH,
}
STAGE_KEYS = ("outer", "inner", "heads", "depth")


@dataclass(frozen=True)
class Template:
    """Ranges of what is kept of a net, or of several.

    Attributes:
        base: The net, as `--teacher` names one; None for the study's teacher.
        keep: Nodes by axis, of those in `DEFAULTS` that the YAML narrows.
        stages: The same for single stages, by number from 0.
        models: Of a space of named nets, what is kept of each; None where it stays whole.
    """

    base: str | None = None
    keep: Mapping[str, Node] = field(default_factory=dict)
    stages: Mapping[int, Mapping[str, Node]] = field(default_factory=dict)
    models: Mapping[str, Template | None] = field(default_factory=dict)

    def node(self, axis: str, stage: int | None = None) -> Node:
        """The range of an axis, in a stage if one is named."""
        own = self.stages.get(stage, {}) if stage is not None else {}
        return own.get(axis, self.keep.get(axis, DEFAULTS[axis]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        if self.models:
            nets = self.models.items()
            return {"models": {name: each and each.to_dict() for name, each in nets}}
        return {
            "base": self.base,
            "keep": {axis: plain(node) for axis, node in self.keep.items()},
            "stages": {
                str(number): {axis: plain(node) for axis, node in nodes.items()}
                for number, nodes in self.stages.items()
            },
        }


def problem_of(axis: str, node: Node) -> tuple[str, str] | None:
    """What is wrong with an axis's range, and what is allowed; None if nothing is."""
    allowed = "numbers above 0, at most 1: a value, {float: [low, high], step: …}, or a choice"
    match node:
        case Constant(value):
            values: list[Any] = [value]
        case Choice(options):
            values = list(options)
        case Float(low, high, _, step) if axis != "depth":
            if step is None:
                return "found no step", "a step, such as {float: [0.25, 1.0], step: 0.125}"
            values = [low, high]
        case Int(low, high) if axis == "depth":
            values = [low, high]
        case _:
            values = []
    if axis == "depth":
        allowed = "numbers of blocks from 1: a value, or {int: [low, high]}"
        fits = values and all(type(v) is int and v >= 1 for v in values)
        return None if fits and not isinstance(node, Choice) else (f"found {plain(node)}", allowed)
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    fits = values and len(numbers) == len(values) and all(0 < v <= 1 for v in numbers)
    return None if fits else (f"found {plain(node)}", allowed)
