"""The nodes of a search space: what they hold, draw, and look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Scalar: TypeAlias = str | int | float | bool


class Suggest(Protocol):
    """Who draws values: an `optuna.Trial` fits."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """An integer of [low, high]."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Constant:
    """Always the same value."""

    value: Scalar


@dataclass(frozen=True)
class Int:
    """An integer of [low, high], in steps or on a logarithmic scale."""

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True)
class Float:
    """A number of [low, high]."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Scalar, ...]


@dataclass(frozen=True)
class Branch:
    """One of several subtrees, by label; the others' parameters do not exist then."""

    options: Mapping[str, Node]


@dataclass(frozen=True)
class Group:
    """Named nodes."""

    children: Mapping[str, Node]


@dataclass(frozen=True)
class Row:
    """Numbered nodes."""

    children: tuple[Node, ...]


Node: TypeAlias = Constant | Int | Float | Choice | Branch | Group | Row


def draw(node: Node, suggest: Suggest, path: str) -> Any:
    """Draws one value of a node; parameters are named by their path, the branch included."""
    match node:
        case Constant(value):
            return value
        case Int(low, high, step, log):
            return suggest.suggest_int(path, low, high, step=step, log=log)
        case Float(low, high, log):
            return suggest.suggest_float(path, low, high, log=log)
        case Choice(options):
            return suggest.suggest_categorical(path, list(options))
        case Branch(branches):
            label = suggest.suggest_categorical(path, list(branches))
            below = draw(branches[label], suggest, f"{path}.{label}")
            return {"type": label, **below}
        case Group(children):
            return {k: draw(v, suggest, f"{path}.{k}" if path else k) for k, v in children.items()}
        case Row(items):
            return [draw(item, suggest, f"{path}.{i}") for i, item in enumerate(items)]


def count(node: Node) -> int | None:
    """How many different values a node has; None for infinitely many."""
    match node:
        case Constant():
            return 1
        case Int(low, high, step):
            return (high - low) // step + 1
        case Float():
            return None
        case Choice(options):
            return len(options)
    counts = [count(child) for child in _children(node)]
    if None in counts:
        return None
    total = 0 if isinstance(node, Branch) else 1
    for number in counts:
        assert number is not None
        total = total + number if isinstance(node, Branch) else total * number
    return total


def _children(node: Node) -> list[Node]:
    match node:
        case Branch(options):
            return list(options.values())
        case Group(children):
            return list(children.values())
        case Row(items):
            return list(items)
    return []


def plain(node: Node) -> Any:
    """A node as plain JSON values, as it is written in YAML."""
    match node:
        case Constant(value):
            return value
        case Int(low, high, step, log):
            return {"int": [low, high], "step": step, "log": log}
        case Float(low, high, log):
            return {"float": [low, high], "log": log}
        case Choice(options):
            return {"choice": list(options)}
        case Branch(branches):
            return {"choice": {k: plain(v) for k, v in branches.items()}}
        case Group(children):
            return {k: plain(v) for k, v in children.items()}
        case Row(items):
            return [plain(item) for item in items]


def lines_of(name: str, node: Node, depth: int) -> list[str]:
    """A node as indented lines for people."""
    pad = "  " * depth + name
    match node:
        case Constant(value):
            return [f"{pad} = {value}"]
        case Int(low, high, step, log):
            scale = ", logarithmic" if log else (f", step {step}" if step > 1 else "")
            return [f"{pad}: {low} to {high}{scale}"]
        case Float(low, high, log):
            return [f"{pad}: {low} to {high}{', logarithmic' if log else ''} (real)"]
        case Choice(options):
            return [f"{pad}: {' | '.join(map(str, options))}"]
        case Branch(branches):
            lines = [f"{pad}: one of"]
            for label, child in branches.items():
                lines += lines_of(label, child, depth + 1)
            return lines
        case Group(children):
            lines = [pad]
            for key, child in children.items():
                lines += lines_of(key, child, depth + 1)
            return lines
        case Row(items):
            lines = [f"{pad}:"]
            for index, child in enumerate(items):
                lines += lines_of(str(index), child, depth + 1)
            return lines
