"""Reading of a search space from YAML, with every error at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap

from nasdistill.common.types import nearest
from nasdistill.common.yaml import line_of, plain
from nasdistill.space import template
from nasdistill.space.nodes import (
    Branch,
    Choice,
    Constant,
    Float,
    Group,
    Int,
    Node,
    NotInSpaceError,
    Row,
    parameters_of,
)

_TOP = ("name", "family", "description", "parameters", "start", "large", "weights", "keep")
_LARGE = ("description", "parameters", "start")
_TEMPLATE_TOP = ("name", "family", "description", "base", "keep")
_TEXTS = ("name", "family", "description")
_KINDS = ("int", "float", "choice")
MOST_PLACES = 10_000
"""Steps that a stepped range of numbers may have."""
_DISTILLATION = {"temperature": (0.01, 1000.0), "alpha": (0.0, 1.0)}
"""Parameters of the objective that a space may search, with their bounds."""


class Content(NamedTuple):
    """The content of a search space's YAML.

    Attributes:
        name: Name of the space.
        family: Family that builds its architectures.
        description: One sentence.
        root: The tree below `parameters`.
        start: Parameters of the designs that are tried first.
        large: The same of its variant for large pictures, if it has one.
        weights: Files of weights, by the model that they are of.
        template: In the place of a tree, where a net is needed to make it.
    """

    name: str
    family: str
    description: str
    root: Group
    start: tuple[dict[str, Any], ...] = ()
    large: Content | None = None
    weights: Mapping[str, str] = MappingProxyType({})
    template: template.Template | None = None


class Reader:
    """Turns parsed YAML into nodes, and collects every error on the way."""

    def __init__(self, tree: Any, source: str, inside: str | None = None, line: int = 1) -> None:
        """A reader of one space.

        Args:
            tree: The parsed YAML.
            source: The file's name.
            inside: The key of that file that the space stands under, if it is not the file's whole
                content; it needs no name then.
            line: Where that key stands.
        """
        self._tree = tree
        self._source = source
        self._inside = inside
        self._line = line
        self.errors: list[str] = []

    def read(self) -> Content:
        """Reads the whole tree; of use only where there are no `errors` afterwards."""
        if self._tree.get("family") == template.FAMILY:
            return self._read_template()
        name, family, description = self._texts()
        self._check_keys(self._tree, (), _TOP, (*self._needed, "family", "parameters"))
        root, start = self._variant(self._tree, ())
        weights, made = self._weights(family, root), self._kept_of_models(family, root)
        small = Content(
            name, family, description.strip(), root, start, weights=weights, template=made
        )
        if "large" not in self._tree:
            return small
        tree = self._tree["large"]
        if not isinstance(tree, Mapping):
            self._wrong(("large",), f"found {tree!r}", ", ".join(_LARGE))
            return small
        self._check_keys(tree, ("large",), _LARGE, ("parameters",))
        root, start = self._variant(tree, ("large",))
        description = str(tree.get("description", description)).strip()
        return small._replace(large=Content(name, family, description, root, start))

    @property
    def _needed(self) -> tuple[str, ...]:
        return ("name",) if self._inside is None else ()

    def _texts(self) -> tuple[str, str, str]:
        """Name, family and description; a space within another file is named by its family."""
        name, family, description = (str(self._tree.get(key, "")) for key in _TEXTS)
        return name or family, family, description

    def _read_template(self) -> Content:
        """Reads a space whose tree is made from a net."""
        self._check_keys(self._tree, (), _TEMPLATE_TOP, self._needed)
        name, family, description = self._texts()
        base = self._tree.get("base")
        if base is not None and (not isinstance(base, str) or not base):
            self._wrong(("base",), f"found {base!r}", "a net as --teacher names one")
            base = None
        made = replace(self._kept(self._tree.get("keep", {}), ("keep",)), base=base)
        return Content(name, family, description.strip(), Group({}), template=made)

    def _kept(self, keep: Any, path: tuple[Any, ...]) -> template.Template:
        """What is kept of one net."""
        axes = self._axes(keep, path, (*template.DEFAULTS, "stages"))
        stages, numbered = keep.get("stages", {}) if isinstance(keep, Mapping) else {}, {}
        if not isinstance(stages, Mapping):
            self._wrong((*path, "stages"), f"found {stages!r}", "numbers of stages and ranges")
            stages = {}
        for key, ranges in stages.items():
            place, number = (*path, "stages", key), _stage_number(key)
            if number is None:
                self._wrong(place, f"found the key {key!r}", "a number of a stage, from 0")
            else:
                numbered[number] = self._axes(ranges, place, template.STAGE_KEYS)
        return template.Template(None, axes, numbered)

    def _kept_of_models(self, family: str, root: Group) -> template.Template | None:
        """What is kept of each model, of a space of named nets; None where all stay whole."""
        keep = self._tree.get("keep")
        if keep is None:
            return None
        if family != "pretrained":
            allowed = "none here; the families pruned and pretrained have it"
            self._wrong(("keep",), f"the family {family!r} is not cut", allowed)
            return None
        for key in ("start", "large"):
            if key in self._tree:
                self._wrong((key,), "beside keep: the tree is made from the nets", "one of the two")
        models = models_of(root)
        if not isinstance(keep, Mapping) or not any(":" in str(key) for key in keep):
            return template.Template(models=dict.fromkeys(models, self._kept(keep, ("keep",))))
        kept: dict[str, template.Template | None] = dict.fromkeys(models)
        for model, ranges in keep.items():
            if model in models:
                kept[model] = self._kept(ranges, ("keep", model))
            else:
                problem = f"unknown model{nearest(str(model), models)}"
                allowed = "models under parameters.model, or ranges for all of them"
                self._wrong(("keep", model), problem, allowed)
        return template.Template(models=kept)

    def _axes(self, ranges: Any, path: tuple[Any, ...], known: tuple[str, ...]) -> dict[str, Node]:
        """Ranges of what is kept, by axis."""
        if not isinstance(ranges, Mapping):
            self._wrong(path, f"found {ranges!r}", ", ".join(known))
            return {}
        axes: dict[str, Node] = {}
        for axis, value in ranges.items():
            if axis not in known:
                hint = nearest(str(axis), known)
                self._wrong((*path, axis), f"unknown key{hint}", ", ".join(known))
            elif axis != "stages":
                before = len(self.errors)
                axes[axis] = self._node(value, (*path, axis))
                problem = template.problem_of(axis, axes[axis])
                if problem is not None and len(self.errors) == before:
                    self._wrong((*path, axis), *problem)
        return axes

    def _weights(self, family: str, root: Group) -> dict[str, str]:
        """Files of weights by model, of a space whose students have some."""
        files = self._tree.get("weights", {})
        if "weights" in self._tree and family != "pretrained":
            self._wrong(("weights",), f"the family {family!r} has no weights", "none here")
            return {}
        if not isinstance(files, Mapping):
            self._wrong(("weights",), f"found {files!r}", "models and their files")
            return {}
        models = models_of(root)
        for model, file in files.items():
            if model not in models:
                problem = f"unknown model{nearest(str(model), models)}"
                self._wrong(("weights", model), problem, "the models under parameters.model")
            if not isinstance(file, str) or not file:
                self._wrong(("weights", model), f"found {file!r}", "the path of a file")
        return {str(model): str(file) for model, file in files.items()}

    def _check_keys(
        self,
        tree: Mapping[Any, Any],
        path: tuple[str, ...],
        allowed: tuple[str, ...],
        needed: tuple[str, ...],
    ) -> None:
        for key in tree:
            if key not in allowed:
                problem = f"unknown key{nearest(str(key), allowed)}"
                self._wrong((*path, key), problem, ", ".join(allowed))
        for key in needed:
            if key not in tree:
                self._wrong((*path, key), "this key is missing", "a value")

    def _variant(
        self, tree: Mapping[Any, Any], path: tuple[str, ...]
    ) -> tuple[Group, tuple[dict[str, Any], ...]]:
        """The tree below `parameters`, and the designs that are tried first."""
        root, place = tree.get("parameters", {}), (*path, "parameters")
        if not isinstance(root, Mapping):
            self._wrong(place, f"found {root!r}", "names and nodes")
            root = {}
        elif not root and "parameters" in tree:
            self._wrong(place, "the space is empty", "at least one node")
        group = self._group(root, place)
        self._check_distillation(group, place)
        return group, self._start(group, tree.get("start", []), (*path, "start"))

    def _start(
        self, root: Group, designs: Any, path: tuple[str, ...]
    ) -> tuple[dict[str, Any], ...]:
        """Parameters of the designs that are tried first."""
        if not isinstance(designs, list):
            self._wrong(path, f"found {designs!r}", "a list of architectures' values")
            return ()
        parameters = []
        for index, design in enumerate(designs if not self.errors else ()):
            try:
                parameters.append(parameters_of(root, plain(design)))
            except NotInSpaceError as error:
                self._wrong((*path, index, *error.path), error.problem, error.allowed)
        return tuple(parameters)

    def _check_distillation(self, root: Group, place: tuple[str, ...]) -> None:
        """Checks `distillation`, which is no part of the module but parameters of its objective."""
        part = root.children.get("distillation")
        if part is None:
            return
        path = (*place, "distillation")
        if not isinstance(part, Group):
            self._wrong(path, "found no names", ", ".join(_DISTILLATION))
            return
        for name, node in part.children.items():
            if name not in _DISTILLATION:
                problem = f"unknown name{nearest(name, _DISTILLATION)}"
                self._wrong((*path, name), problem, ", ".join(_DISTILLATION))
                continue
            low, high = _DISTILLATION[name]
            values = _ends(node)
            if not values or min(values) < low or max(values) > high:
                self._wrong((*path, name), "found values outside", f"numbers in [{low}, {high}]")

    def _wrong(self, path: tuple[Any, ...], problem: str, allowed: str) -> None:
        inside = () if self._inside is None else (self._inside,)
        where = ".".join(map(str, (*inside, *path)))
        positions = isinstance(self._tree, CommentedMap)  # of a stored space there are none
        line = f":{max(self._line, line_of(self._tree, path))}" if positions else ""
        self.errors.append(f"{self._source}{line}: {where}: {problem}; allowed: {allowed}")

    def _group(self, node: Mapping[Any, Any], path: tuple[Any, ...]) -> Group:
        children = {}
        for key, value in node.items():
            if not _is_name(key) or key == "type":
                self._wrong((*path, key), f"found the name {key!r}", "letters, digits, _; not type")
            children[str(key)] = self._node(value, (*path, key))
        return Group(children)

    def _node(self, node: Any, path: tuple[Any, ...]) -> Node:
        if isinstance(node, (list, Mapping)) and not node:
            self._wrong(path, f"found {node!r}", "at least one node")
        if isinstance(node, list):
            return Row(tuple(self._node(item, (*path, i)) for i, item in enumerate(node)))
        if not isinstance(node, Mapping):
            if _is_scalar(node):
                return Constant(plain(node))  # the parser's own floats know how they were written
            self._wrong(path, f"found {node!r}", "a value, a node, or names and nodes")
            return Constant(0)
        kinds = [kind for kind in _KINDS if kind in node]
        if not kinds:
            self._refuse_misspelt(node, path)
            return self._group(node, path)
        kind = kinds[0]
        options = {
            "int": ("int", "step", "log"),
            "float": ("float", "step", "log"),
            "choice": ("choice",),
        }
        for key in node:
            if key not in options[kind]:
                known = ", ".join(options[kind])
                self._wrong((*path, key), f"unknown key{nearest(str(key), options[kind])}", known)
        if kind == "choice":
            return self._choice(node["choice"], (*path, "choice"))
        return self._range(kind, node, path)

    def _refuse_misspelt(self, node: Mapping[Any, Any], path: tuple[Any, ...]) -> None:
        """Refuses a misspelt range or choice, which would read as a group of constants."""
        for key, value in node.items():
            alone = all(other in (key, "step", "log") for other in node)
            hint = nearest(str(key), _KINDS)
            if alone and hint and isinstance(value, (list, Mapping)):
                self._wrong((*path, key), f"unknown key{hint}", ", ".join(_KINDS))

    def _choice(self, options: Any, path: tuple[Any, ...]) -> Node:
        if isinstance(options, Mapping) and options:
            branches: dict[str, Node] = {}
            for label, subtree in options.items():
                if not _is_name(label):
                    self._wrong((*path, label), f"found the label {label!r}", "letters, digits, _")
                if subtree is not None and not isinstance(subtree, Mapping):
                    self._wrong((*path, label), f"found {subtree!r}", "names and nodes, or nothing")
                    subtree = {}
                branches[str(label)] = self._group(subtree or {}, (*path, label))
            return Branch(branches)
        if not isinstance(options, list) or not options:
            self._wrong(path, f"found {options!r}", "a list of values, or labels with subtrees")
            return Constant(0)
        for index, option in enumerate(options):
            if not _is_scalar(option):
                self._wrong((*path, index), f"found {option!r}", "texts and finite numbers")
        if any(option in options[:index] for index, option in enumerate(options)):
            self._wrong(path, f"found {list(options)!r} with a value twice", "different values")
        return Choice(tuple(map(plain, options)))

    def _range(self, kind: str, node: Mapping[str, Any], path: tuple[Any, ...]) -> Node:
        ends, log, step = node[kind], node.get("log", False), node.get("step", 1)
        number = int if kind == "int" else (int, float)
        pair = isinstance(ends, list) and len(ends) == 2
        pair = pair and all(isinstance(e, number) and not isinstance(e, bool) for e in ends)
        if not pair or not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
            numbers = "whole numbers" if kind == "int" else "numbers"
            allowed = f"[low, high], {numbers} with low <= high"
            self._wrong((*path, kind), f"found {ends!r}", allowed)
            return Constant(0)
        if not isinstance(log, bool) or (log and ends[0] <= 0):
            self._wrong((*path, "log"), f"found {log!r}", "true or false; true needs low > 0")
        if kind == "float":
            return self._float(float(ends[0]), float(ends[1]), bool(log), node.get("step"), path)
        if not isinstance(step, int) or step < 1 or (log and step != 1):
            self._wrong((*path, "step"), f"found {step!r}", "a whole number from 1; 1 with log")
            step = 1
        if (ends[1] - ends[0]) % step:
            self._wrong((*path, "step"), f"found {step}", f"a divisor of {ends[1] - ends[0]}")
        return Int(int(ends[0]), int(ends[1]), int(step), bool(log))

    def _float(self, low: float, high: float, log: bool, step: Any, path: tuple[Any, ...]) -> Float:
        if step is None:
            return Float(low, high, log)
        number = isinstance(step, (int, float)) and not isinstance(step, bool)
        if not number or log or not math.isfinite(step) or not step > 0:
            self._wrong((*path, "step"), f"found {step!r}", "a number above 0; none with log")
            return Float(low, high)
        places = (high - low) / step
        if places > MOST_PLACES or abs(places - round(places)) > 1e-6:
            allowed = f"a whole number of steps from {low:g} to {high:g}"
            self._wrong((*path, "step"), f"found {step:g}", f"{allowed}, at most {MOST_PLACES:,}")
            return Float(low, high)
        return Float(low, high, log, float(step))


def _stage_number(key: Any) -> int | None:
    """The stage that a key names; None if it names none. Keys of stored recipes are texts."""
    if type(key) is str and key.isdecimal():
        return int(key)
    return key if type(key) is int and key >= 0 else None


def models_of(root: Group) -> tuple[str, ...]:
    """The models that a space of the family `pretrained` names, in its order."""
    node = root.children.get("model")
    if isinstance(node, Branch):
        return tuple(node.options)
    if isinstance(node, Constant):
        return (str(node.value),)
    return tuple(map(str, node.options)) if isinstance(node, Choice) else ()


def _ends(node: Node) -> list[float]:
    """Numbers whose extremes bound a node's values; none if it has values that are no numbers."""
    if isinstance(node, (Int, Float)):
        return [float(node.low), float(node.high)]
    options = node.options if isinstance(node, Choice) else ()
    options = (node.value,) if isinstance(node, Constant) else options
    numbers = [float(o) for o in options if isinstance(o, (int, float)) and not isinstance(o, bool)]
    return numbers if len(numbers) == len(options) else []


def _is_name(key: Any) -> bool:
    """Whether a key can be part of a parameter's name, whose parts are separated by dots."""
    return isinstance(key, str) and key.replace("_", "").isalnum()


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
