"""Search spaces, and their points: architectures."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.json_files import parse_json, read_text
from nasdistill.common.types import Begin, nearest
from nasdistill.common.yaml import parse_yaml
from nasdistill.space.nodes import (
    Branch,
    Group,
    Suggest,
    constants,
    count,
    draw,
    from_plain,
    lines_of,
    plain,
)
from nasdistill.space.reader import Content, Reader, models_of
from nasdistill.space.template import Template

MOST_BYTES = 1 << 20
"""Largest architecture.json that is read."""
LARGE_PIXELS = 96
"""Shorter side of the pictures from which on a space's `large` variant is searched."""


@dataclass(frozen=True)
class Architecture:
    """One point of a space.

    Attributes:
        family: The family that builds it.
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
    def from_json(
        cls, text: str, source: str = "architecture", *, finite: bool = False
    ) -> Architecture:
        """Reads an architecture from the text that `to_json` gives.

        Args:
            text: The text.
            source: What messages call it.
            finite: Whether numbers that are not finite are refused.

        Raises:
            UserError: If the text is no architecture.
        """
        content = parse_json(text, source, finite=finite)
        if not isinstance(content, dict) or set(content) != {"family", "values"}:
            raise DamagedFileError(
                source, 'expected an object with "family" and "values" alone, as an architecture is'
            )
        if not isinstance(content["family"], str) or not isinstance(content["values"], dict):
            raise DamagedFileError(source, '"family" must be a text and "values" an object')
        return cls(content["family"], content["values"])

    @classmethod
    def read(cls, path: Path) -> Architecture:
        """Reads an architecture.json, which anybody may have written.

        Raises:
            UserError: Naming the file, if it is no architecture or larger than `MOST_BYTES`.
        """
        return cls.from_json(read_text(path, MOST_BYTES), str(path), finite=True)

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SearchSpace:
    """A set of architectures of one family.

    Attributes:
        name: The users' name of it.
        family: The family that builds its architectures.
        description: One sentence.
        root: The tree.
        start: Parameters of well-known designs, each a value by dotted name: a search tries them
            first.
        large: The variant for pictures from `LARGE_PIXELS` on; None where one tree is for all.
        weights: Files of weights, by the model that they are of; its other models have their
            library's.
        template: What a tree that is made from a net is made by; the root is empty until then.
    """

    name: str
    family: str
    description: str
    root: Group
    start: tuple[Mapping[str, Any], ...] = ()
    large: SearchSpace | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    template: Template | None = None

    @classmethod
    def load(cls, name_or_path: str | Mapping[str, Any]) -> SearchSpace:
        """Reads a shipped space by name, a YAML file by path, or a recipe's own space.

        Raises:
            UserError: If there is no such space, or the file is wrong.
        """
        if not isinstance(name_or_path, str):
            return cls.from_tree(name_or_path, "the recipe", inside="space")
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
            source: Its name in errors.

        Raises:
            UserError: With every error at once.
        """
        return cls.from_tree(parse_yaml(text, source), source)

    @classmethod
    def from_tree(
        cls, tree: Mapping[str, Any], source: str, inside: str | None = None, line: int = 1
    ) -> SearchSpace:
        """Reads a space from parsed YAML.

        Args:
            tree: The YAML.
            source: Its name in errors.
            inside: The key that it stands under, where the file holds more; its own files lie by
                their path from the current folder then, as a recipe's do.
            line: Where that key stands.

        Raises:
            UserError: With every error at once.
        """
        reader = Reader(tree, source, inside, line)
        try:
            content = reader.read()
        except RecursionError:
            raise UserError(f"{source}: nested too deeply, or an alias holds itself") from None
        if reader.errors:
            raise UserError("\n".join(reader.errors))
        return cls._of(content, Path(source).parent if inside is None else Path())

    @classmethod
    def _of(cls, content: Content, folder: Path) -> SearchSpace:
        """The space that a content describes; files lie by their path from its folder."""
        large = None if content.large is None else cls._of(content.large, folder)
        # A space that is moved takes the files that lie beside it along.
        weights = {m: folder / Path(file).expanduser() for m, file in content.weights.items()}
        return cls(**{**content._asdict(), "large": large, "weights": weights})

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        """Names of the shipped spaces."""
        return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it names, if its family is `pretrained`."""
        return models_of(self.root) if self.family == "pretrained" else ()

    @property
    def begins(self) -> tuple[Begin, ...]:
        """Where its students can begin, the default first."""
        if self.template is not None and not self.template.models:
            return ("teacher" if self.template.base is None else "pretrained", "fresh")
        return ("pretrained", "fresh") if self.family == "pretrained" else ("fresh",)

    @property
    def needs_base(self) -> bool:
        """Whether its tree is still to be made from a net, or from several."""
        if self.template is not None and self.template.models:
            return not isinstance(self.root.children["model"], Branch)
        return self.template is not None and not self.root.children

    def with_tree_of(self, stored: Mapping[str, Any]) -> SearchSpace:
        """This space with the tree that was made before.

        Args:
            stored: Of `to_dict`.
        """
        parts = stored["parameters"]
        if "base" in parts:
            root = Group({"base": constants(parts["base"]), "keep": from_plain(parts["keep"])})
        else:
            root = Group({name: from_plain(part) for name, part in parts.items()})
        return replace(self, root=root, start=tuple(stored["start"]))

    def sample(self, suggest: Suggest) -> Architecture:
        """Draws an architecture, e.g. with an `optuna.Trial`."""
        return Architecture(self.family, draw(self.root, suggest, ""))

    def draw(self, rng: random.Random) -> tuple[Architecture, dict[str, Any]]:
        """Draws an architecture uniformly, choice by choice, and its values by dotted name."""
        source = _Random(rng)
        return self.sample(source), source.drawn

    def random(self, rng: random.Random) -> Architecture:
        """Draws an architecture as `draw` does."""
        return self.draw(rng)[0]

    def count(self) -> int | None:
        """Number of architectures; None for infinitely many."""
        return count(self.root)

    def tree(self) -> list[str]:
        """The tree as indented lines."""
        lines = [f"{self.name} (family {self.family}): {self.description}"]
        for name, child in self.root.children.items():
            lines += lines_of(name, child, 1)
        if self.start:
            lines.append(f"  tried first: {len(self.start)} plain designs")
        if self.large is not None:
            lines.append(f"  pictures from {LARGE_PIXELS} pixels on: another tree")
        return lines

    def variants(self) -> tuple[SearchSpace, ...]:
        """The spaces that this name stands for: itself, and what is searched for large pictures."""
        return (self,) if self.large is None else (self, self.large)

    def for_pictures(self, pixels: int) -> SearchSpace:
        """The variant that is searched.

        Args:
            pixels: Shorter side of the pictures as students see them.
        """
        return self.large if self.large is not None and pixels >= LARGE_PIXELS else self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = {"name": self.name, "family": self.family, "parameters": plain(self.root)}
        if self.template is None:
            return content
        start = [dict(parameters) for parameters in self.start]
        return {**content, "start": start, "template": self.template.to_dict()}

    @property
    def fingerprint(self) -> str:
        """Hash of family and tree."""
        content = json.dumps([self.family, plain(self.root)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _folder() -> Path:
    """The shipped spaces: in the package where it is installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


class _Random:
    """Draws uniformly, and keeps what it drew."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.drawn: dict[str, Any] = {}

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:
            value = round(float(low * (high / low) ** self._rng.random()))
            drawn = min(high, max(low, value))
        else:
            drawn = low + step * self._rng.randrange((high - low) // step + 1)
        self.drawn[name] = drawn
        return drawn

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            drawn = low + step * self._rng.randrange(round((high - low) / step) + 1)
        else:
            share = self._rng.random()
            drawn = low * (high / low) ** share if log else low + (high - low) * share
        self.drawn[name] = drawn
        return drawn

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.drawn[name] = self._rng.choice(list(choices))
        return self.drawn[name]
