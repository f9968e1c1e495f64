"""Search spaces: a tree of nodes read from YAML, and the points of it. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from nasdistill.errors import UserError
from nasdistill.options import nearest
from nasdistill.recipe import line_of, parse_yaml

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
class Architecture:
    """One point of a space.

    Attributes:
        family: Who builds it.
        values: Plain JSON values, nested as in the space; a choice between subtrees is an object
            with its label under `type`.
    """

    family: str
    values: Mapping[str, Any]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        content = {"family": self.family, "values": self.values}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Reads what `to_json` wrote.

        Raises:
            UserError: If the text is no architecture.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"architecture: not JSON ({error})") from None
        if not isinstance(content, dict) or set(content) != {"family", "values"}:
            raise UserError('architecture: expected an object with "family" and "values" alone')
        if not isinstance(content["family"], str) or not isinstance(content["values"], dict):
            raise UserError('architecture: "family" must be a text and "values" an object')
        return cls(content["family"], content["values"])

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


# -- nodes --------------------------------------------------------------------------------------


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


class _Random:
    """Draws uniformly."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:
            value = round(float(low * (high / low) ** self._rng.random()))
            return min(high, max(low, value))
        return low + step * self._rng.randrange((high - low) // step + 1)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        share = self._rng.random()
        return low * (high / low) ** share if log else low + (high - low) * share

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._rng.choice(list(choices))


# -- spaces -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchSpace:
    """A set of architectures of one family.

    Attributes:
        name: What users call it.
        family: Who builds its architectures.
        description: One sentence.
        root: The tree.
    """

    name: str
    family: str
    description: str
    root: Group

    @classmethod
    def load(cls, name_or_path: str) -> SearchSpace:
        """Reads a shipped space by name, or a YAML file by path.

        Raises:
            UserError: If there is no such space, or the file is wrong.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            if name_or_path not in cls.shipped():
                known = ", ".join(cls.shipped())
                raise UserError(
                    f"no space {name_or_path!r}{nearest(name_or_path, cls.shipped())} "
                    f"(shipped: {known}; or give the path of a .yaml file)"
                )
            path = _folder() / f"{name_or_path}.yaml"
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"space {name_or_path}: cannot read the file ({error})") from None
        return cls.from_yaml(text, str(path))

    @classmethod
    def from_yaml(cls, text: str, source: str) -> SearchSpace:
        """Reads a space from YAML.

        Args:
            text: The YAML.
            source: What errors call it.

        Raises:
            UserError: With every error at once.
        """
        tree = parse_yaml(text, source)
        reader = _Reader(tree, source)
        try:
            space = reader.space()
        except RecursionError:
            raise UserError(f"{source}: nested too deeply, or an alias holds itself") from None
        if reader.errors:
            raise UserError("\n".join(reader.errors))
        return space

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        """Names of the shipped spaces."""
        return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))

    def sample(self, suggest: Suggest) -> Architecture:
        """Draws an architecture, e.g. with an `optuna.Trial`."""
        return Architecture(self.family, draw(self.root, suggest, ""))

    def random(self, rng: random.Random) -> Architecture:
        """Draws an architecture uniformly, choice by choice."""
        return self.sample(_Random(rng))

    def count(self) -> int | None:
        """Number of architectures; None for infinitely many."""
        return count(self.root)

    def tree(self) -> list[str]:
        """The tree as indented lines."""
        lines = [f"{self.name} (family {self.family}): {self.description}"]
        for name, child in self.root.children.items():
            lines += _lines(name, child, 1)
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name, "family": self.family, "parameters": _plain(self.root),
        }  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """Hash of family and tree."""
        content = json.dumps([self.family, _plain(self.root)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _folder() -> Path:
    here = Path(__file__).parent
    inside = here / "search_spaces"
    return inside if inside.is_dir() else here.parent / "search_spaces"


def _plain(node: Node) -> Any:
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
            return {"choice": {k: _plain(v) for k, v in branches.items()}}
        case Group(children):
            return {k: _plain(v) for k, v in children.items()}
        case Row(items):
            return [_plain(item) for item in items]


def _lines(name: str, node: Node, depth: int) -> list[str]:
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
                lines += _lines(label, child, depth + 1)
            return lines
        case Group(children):
            lines = [pad]
            for key, child in children.items():
                lines += _lines(key, child, depth + 1)
            return lines
        case Row(items):
            lines = [f"{pad}:"]
            for index, child in enumerate(items):
                lines += _lines(str(index), child, depth + 1)
            return lines


# -- reading ------------------------------------------------------------------------------------

_TOP = ("name", "family", "description", "parameters")
_KINDS = ("int", "float", "choice")


class _Reader:
    """Turns parsed YAML into nodes, and collects every error on the way."""

    def __init__(self, tree: Any, source: str) -> None:
        self._tree = tree
        self._source = source
        self.errors: list[str] = []

    def space(self) -> SearchSpace:
        for key in self._tree:
            if key not in _TOP:
                self._wrong((key,), f"unknown key{nearest(str(key), _TOP)}", ", ".join(_TOP))
        for key in ("name", "family", "parameters"):
            if key not in self._tree:
                self._wrong((key,), "this key is missing", "a value")
        root = self._tree.get("parameters", {})
        if not isinstance(root, Mapping):
            self._wrong(("parameters",), f"found {root!r}", "names and nodes")
            root = {}
        elif not root and "parameters" in self._tree:
            self._wrong(("parameters",), "the space is empty", "at least one node")
        group = self._group(root, ("parameters",))
        text = {key: str(self._tree.get(key, "")) for key in _TOP}
        return SearchSpace(text["name"], text["family"], text["description"].strip(), group)

    def _wrong(self, path: tuple[Any, ...], found: str, allowed: str) -> None:
        where = ".".join(map(str, path))
        line = line_of(self._tree, path)
        self.errors.append(f"{self._source}:{line}: {where}: {found}; allowed: {allowed}")

    def _group(self, node: Mapping[Any, Any], path: tuple[Any, ...]) -> Group:
        children = {}
        for key, value in node.items():
            if not isinstance(key, str) or not key.replace("_", "").isalnum() or key == "type":
                self._wrong((*path, key), f"found the name {key!r}", "letters, digits, _; not type")
            children[str(key)] = self._node(value, (*path, key))
        return Group(children)

    def _node(self, node: Any, path: tuple[Any, ...]) -> Node:
        if isinstance(node, list):
            return Row(tuple(self._node(item, (*path, i)) for i, item in enumerate(node)))
        if not isinstance(node, Mapping):
            if isinstance(node, (str, int, float, bool)):
                return Constant(node)
            self._wrong(path, f"found {node!r}", "a value, a node, or names and nodes")
            return Constant(0)
        kinds = [kind for kind in _KINDS if kind in node]
        if not kinds:
            self._refuse_misspelt(node, path)
            return self._group(node, path)
        kind = kinds[0]
        options = {"int": ("int", "step", "log"), "float": ("float", "log"), "choice": ("choice",)}
        for key in node:
            if key not in options[kind]:
                known = ", ".join(options[kind])
                self._wrong((*path, key), f"unknown key{nearest(str(key), options[kind])}", known)
        if kind == "choice":
            return self._choice(node["choice"], (*path, "choice"))
        return self._range(kind, node, path)

    def _refuse_misspelt(self, node: Mapping[Any, Any], path: tuple[Any, ...]) -> None:
        """A range or choice with a slip in its key would read as a group of constants."""
        for key, value in node.items():
            alone = all(other in (key, "step", "log") for other in node)
            hint = nearest(str(key), _KINDS)
            if alone and hint and isinstance(value, (list, Mapping)):
                self._wrong((*path, key), f"unknown key{hint}", ", ".join(_KINDS))

    def _choice(self, options: Any, path: tuple[Any, ...]) -> Node:
        if isinstance(options, Mapping) and options:
            branches: dict[str, Node] = {}
            for label, below in options.items():
                if below is not None and not isinstance(below, Mapping):
                    self._wrong((*path, label), f"found {below!r}", "names and nodes, or nothing")
                    below = {}
                branches[str(label)] = self._group(below or {}, (*path, label))
            return Branch(branches)
        if not isinstance(options, list) or not options:
            self._wrong(path, f"found {options!r}", "a list of values, or labels with subtrees")
            return Constant(0)
        for index, option in enumerate(options):
            if not isinstance(option, (str, int, float, bool)):
                self._wrong((*path, index), f"found {option!r}", "texts and numbers")
        if len({repr(option) for option in options}) < len(options):
            self._wrong(path, f"found {list(options)!r} with a value twice", "different values")
        return Choice(tuple(options))

    def _range(self, kind: str, node: Mapping[str, Any], path: tuple[Any, ...]) -> Node:
        ends, log, step = node[kind], node.get("log", False), node.get("step", 1)
        number = int if kind == "int" else (int, float)
        good = isinstance(ends, list) and len(ends) == 2
        good = good and all(isinstance(e, number) and not isinstance(e, bool) for e in ends)
        if not good or not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
            what = "whole numbers" if kind == "int" else "numbers"
            self._wrong((*path, kind), f"found {ends!r}", f"[low, high], {what} with low <= high")
            return Constant(0)
        if not isinstance(log, bool) or (log and ends[0] <= 0):
            self._wrong((*path, "log"), f"found {log!r}", "true or false; true needs low > 0")
        if kind == "float":
            return Float(float(ends[0]), float(ends[1]), bool(log))
        if not isinstance(step, int) or step < 1 or (log and step != 1):
            self._wrong((*path, "step"), f"found {step!r}", "a whole number from 1; 1 with log")
            step = 1
        if (ends[1] - ends[0]) % step:
            self._wrong((*path, "step"), f"found {step}", f"a divisor of {ends[1] - ends[0]}")
        return Int(ends[0], ends[1], step, bool(log))
