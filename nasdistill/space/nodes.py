"""The nodes of a search space: their values, draws, parameters and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Scalar: TypeAlias = str | int | float | bool


class Suggest(Protocol):
    """Source of values: an `optuna.Trial` fits."""

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
    """A number of [low, high], in steps or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def places(self) -> int | None:
        """How many values there are; None for infinitely many."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1


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
        case Float(low, high, log, step):
            if step is None:
                return suggest.suggest_float(path, low, high, log=log)
            return _on_grid(node, suggest.suggest_float(path, low, high, step=step))
        case Choice(options):
            return suggest.suggest_categorical(path, list(options))
        case Branch(branches):
            label = suggest.suggest_categorical(path, list(branches))
            subtree = draw(branches[label], suggest, f"{path}.{label}")
            return {"type": label, **subtree}
        case Group(children):
            return {k: draw(v, suggest, f"{path}.{k}" if path else k) for k, v in children.items()}
        case Row(items):
            return [draw(item, suggest, f"{path}.{i}") for i, item in enumerate(items)]


def _on_grid(node: Float, value: float) -> float:
    """The value of a stepped node that lies next to a number: free of what additions leave."""
    assert node.step is not None
    return round(node.low + node.step * round((value - node.low) / node.step), 10)


class NotInSpaceError(Exception):
    """A value is none that a node can have.

    Args:
        path: Its keys and indices.
        problem: The value that is there, in words.
        allowed: The values that are allowed, in words.
    """

    def __init__(self, path: tuple[str | int, ...], problem: str, allowed: str) -> None:
        super().__init__(path, problem, allowed)
        self.path, self.problem, self.allowed = path, problem, allowed


def parameters_of(
    node: Node, value: Any, name: str = "", path: tuple[str | int, ...] = ()
) -> dict[str, Any]:
    """The parameters from which `draw` makes a value; the inverse of `draw`.

    Args:
        node: The node.
        value: Plain JSON values, as `draw` gives them.
        name: Of the node's parameter.
        path: Keys and indices of the value in the whole, for errors.

    Raises:
        NotInSpaceError: If the node cannot have this value.
    """
    if isinstance(node, (Constant, Int, Float, Choice)):
        leaf = _checked(node, value, path)
        return {} if isinstance(node, Constant) else {name: leaf}

    def wrong(allowed: str) -> NotInSpaceError:
        return NotInSpaceError(path, f"found {value!r}", allowed)

    match node:
        case Row(items):
            if not isinstance(value, list) or len(value) != len(items):
                raise wrong(f"a list of {len(items)}")
            parts: list[tuple[str | int, Node, Any]]
            parts = [(i, item, value[i]) for i, item in enumerate(items)]
        case Branch(branches):
            label = value.get("type") if isinstance(value, Mapping) else None
            if not isinstance(label, str) or label not in branches:
                raise wrong(f"type: {', '.join(branches)}; and what belongs to it")
            subtree = {key: item for key, item in value.items() if key != "type"}
            below = parameters_of(branches[label], subtree, f"{name}.{label}", path)
            return {name: label, **below}
        case Group(children):
            if not isinstance(value, Mapping) or set(value) != set(children):
                raise wrong(f"these keys: {', '.join(children)}")
            parts = [(key, child, value[key]) for key, child in children.items()]
    parameters: dict[str, Any] = {}
    for key, child, part in parts:
        child_name = f"{name}.{key}" if name else str(key)
        parameters |= parameters_of(child, part, child_name, (*path, key))
    return parameters


def _checked(
    node: Constant | Int | Float | Choice, value: Any, path: tuple[str | int, ...]
) -> Scalar:
    """A value of a leaf, as `draw` gives it.

    Raises:
        NotInSpaceError: If the leaf cannot have this value.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    match node:
        case Constant(fixed):
            if value == fixed:
                return fixed
            allowed = str(fixed)
        case Int(low, high, step):
            if whole and low <= value <= high and (value - low) % step == 0:
                return int(value)
            allowed = f"{low} to {high}" + (f" in steps of {step}" if step > 1 else "")
        case Float(low, high, _, step):
            if (whole or isinstance(value, float)) and low <= value <= high:
                if step is None:
                    return float(value)
                if abs(_on_grid(node, value) - value) <= 1e-6 * step:
                    return _on_grid(node, value)
            allowed = f"a number from {low:g} to {high:g}"
            allowed += "" if step is None else f" in steps of {step:g}"
        case Choice(options):
            boolean = isinstance(value, bool)  # 1 == True
            same = [o for o in options if o == value and isinstance(o, bool) == boolean]
            if same:
                return same[0]
            allowed = ", ".join(map(str, options))
    raise NotInSpaceError(path, f"found {value!r}", allowed)


def count(node: Node) -> int | None:
    """Number of different values of a node; None for infinitely many."""
    match node:
        case Constant():
            return 1
        case Int(low, high, step):
            return (high - low) // step + 1
        case Float():
            return node.places
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
        case Float(low, high, log, step):
            # No key without a step: fingerprints of earlier releases' spaces hold.
            more = {} if step is None else {"step": step}
            return {"float": [low, high], "log": log, **more}
        case Choice(options):
            return {"choice": list(options)}
        case Branch(branches):
            return {"choice": {k: plain(v) for k, v in branches.items()}}
        case Group(children):
            return {k: plain(v) for k, v in children.items()}
        case Row(items):
            return [plain(item) for item in items]


def from_plain(value: Any) -> Node:
    """The node that `plain` gave the values of; the inverse of `plain`."""
    match value:
        case {"int": [low, high]}:
            return Int(low, high, value["step"], value["log"])
        case {"float": [low, high]}:
            return Float(low, high, value["log"], value.get("step"))
        case {"choice": list(options)}:
            return Choice(tuple(options))
        case {"choice": {**branches}}:
            return Branch({str(key): from_plain(child) for key, child in branches.items()})
        case {**children}:
            return Group({str(key): from_plain(child) for key, child in children.items()})
        case list(items):
            return Row(tuple(map(from_plain, items)))
    return Constant(value)


def constants(value: Any) -> Node:
    """The node that always gives the same plain JSON values."""
    if isinstance(value, Mapping):
        return Group({str(key): constants(child) for key, child in value.items()})
    if isinstance(value, list | tuple):
        return Row(tuple(map(constants, value)))
    return Constant(value)


def lines_of(name: str, node: Node, depth: int) -> list[str]:
    """A node as indented lines for people."""
    pad = "  " * depth + name
    match node:
        case Constant(value):
            return [f"{pad} = {value}"]
        case Int(low, high, step, log):
            scale = ", logarithmic" if log else (f", step {step}" if step > 1 else "")
            return [f"{pad}: {low} to {high}{scale}"]
        case Float(low, high, log, step):
            scale = " (real)" if step is None else f", step {step:g}"
            return [f"{pad}: {low} to {high}{', logarithmic' if log else ''}{scale}"]
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
