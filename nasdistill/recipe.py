"""One study's whole configuration: YAML and flags in, a validated object out. No torch."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from nasdistill.errors import UserError
from nasdistill.options import Closed, Cost, nearest, parse_count, parse_duration

FREE = ("trials", "time_limit", "top_k", "workers")
"""Keys that may change when a study goes on."""

UNNAMED = (*FREE, "study", "storage")
"""Keys that a study's default name does not follow."""


def _fraction(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


def _seconds(value: Any) -> Any:
    return None if value is None else parse_duration(value, "s")


def _milliseconds(value: Any) -> Any:
    return None if value is None else parse_duration(value, "ms")


def _count(value: Any) -> Any:
    return None if value is None else parse_count(value)


Count = Annotated[int, BeforeValidator(_count)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Milliseconds = Annotated[float, BeforeValidator(_milliseconds)]
Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)]


class Budget(Closed):
    """How much a run sees: epochs or images, one of them."""

    epochs: float | None = Field(None, gt=0)
    images: int | None = Field(None, gt=0)

    def examples(self, train_size: int) -> int:
        """The budget in training examples."""
        if self.images is not None:
            return self.images
        assert self.epochs is not None
        return round(self.epochs * train_size)


def _budget(value: Any) -> Any:
    """Reads `15 epochs`, `60k images`; a bare count is images."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*epochs?\s*", value)
        if match:
            return {"epochs": float(match.group(1))}
        return {"images": parse_count(re.sub(r"\s*images?\s*$", "", value))}
    if isinstance(value, int):
        return {"images": value}
    return value


BudgetText = Annotated[Budget, BeforeValidator(_budget)]
Pair = tuple[float, float]


class Linear(Closed):
    """A straight line over the run."""

    linear: Pair


class Cosine(Closed):
    """Half a cosine wave over the run."""

    cosine: Pair


class Steps(Closed):
    """Constant pieces: each value holds from its share of the run on."""

    steps: dict[float, float]

    @model_validator(mode="after")
    def _begins_at_zero(self) -> Steps:
        if not self.steps or min(self.steps) != 0 or max(self.steps) > 1:
            raise ValueError("steps must begin at 0 and lie within [0, 1]")
        return self


ScheduleOptions = float | Linear | Cosine | Steps


def values_of(schedule: ScheduleOptions) -> list[float]:
    """Every value that a schedule names."""
    if isinstance(schedule, Linear):
        return list(schedule.linear)
    if isinstance(schedule, Cosine):
        return list(schedule.cosine)
    if isinstance(schedule, Steps):
        return list(schedule.steps.values())
    return [float(schedule)]


class ObjectiveOptions(Closed):
    """The classic objective: α·labels + (1 − α)·T²·KL."""

    alpha: ScheduleOptions = 0.1
    temperature: ScheduleOptions = 4.0
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _in_range(self) -> ObjectiveOptions:
        if not all(0 <= value <= 1 for value in values_of(self.alpha)):
            raise ValueError("alpha must lie within [0, 1]")
        if not all(value > 0 for value in values_of(self.temperature)):
            raise ValueError("temperature must be above 0")
        return self


class Rungs(Closed):
    """The ladder: budgets `first`, `first · eta`, …; 1/eta of the trials goes on at each."""

    first: BudgetText = Budget(images=6000)
    eta: int = Field(3, ge=2, le=10)
    count: int = Field(3, ge=1, le=8)


class Recipe(Closed):
    """Everything that makes a study. Each key is a flag of `nasdistill search` as well."""

    space: str = "mobile"
    data: str = "fashion-mnist-mini"
    data_root: str | None = None
    image_size: int | None = Field(None, ge=16, le=256)
    skip_unreadable: bool = False
    teacher: str = "auto"
    weights: str | None = None
    study: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    trials: int = Field(24, ge=1)
    time_limit: Seconds | None = None
    top_k: int = Field(2, ge=1)
    minimize: tuple[Cost, ...] = Field(("latency", "params"), min_length=1)
    max_params: Count | None = None
    max_macs: Count | None = None
    max_bytes: Count | None = None
    max_latency: Milliseconds | None = None
    min_accuracy: Fraction | None = None
    latency_engine: str = Field("onnxruntime", pattern=r"^(onnxruntime|torch|cuda|command:.+)$")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "fp32", "bf16", "bf16-mixed"] = "auto"
    deterministic: bool = False
    workers: int = Field(1, ge=1, le=64)
    seed: int = Field(0, ge=0)
    storage: str | None = None
    import_file: str | None = Field(None, alias="import")
    baseline: bool = False
    sampler: Literal["random", "tpe", "nsga2", "qmc"] = "tpe"
    stopping: bool = True
    rungs: Rungs = Rungs()
    final_budget: BudgetText = Budget(epochs=15)
    batch_size: int = Field(128, ge=2)
    views: int = Field(8, ge=1, le=1000)
    learning_rate: float = Field(0.004, gt=0)
    scoring: ObjectiveOptions = ObjectiveOptions()
    final: ObjectiveOptions = ObjectiveOptions()

    @model_validator(mode="after")
    def _no_twins(self) -> Recipe:
        if len(set(self.minimize)) != len(self.minimize):
            raise ValueError("minimize names a cost twice")
        return self

    def study_name(self) -> str:
        """The study's name: as given, or made from what differs from the defaults."""
        if self.study is not None:
            return self.study
        data = self.data.split(":")[-1].rstrip("/").rsplit("/", 1)[-1]
        base = Path(self.space).stem
        if self.data != Recipe().data:
            base += "-" + (Path(data).stem or "data")
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.") or "study"
        ours, default = self.stored(), Recipe().stored()
        differs = {k: v for k, v in ours.items() if v != default[k] and k not in (*UNNAMED, "space")}
        if differs or Path(self.space).suffix:
            text = json.dumps([self.space, differs], sort_keys=True)
            base += "-" + hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
        return base

    def stored(self) -> dict[str, Any]:
        """Plain JSON values, by YAML key."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """The recipe as YAML that `load_recipe` reads."""
        buffer = io.StringIO()
        writer = YAML(typ="safe", pure=True)
        writer.default_flow_style = False
        writer.dump({k: v for k, v in self.stored().items() if v is not None}, buffer)
        return buffer.getvalue()


def changed_keys(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys, with both values, that differ although they may not when a study goes on."""
    before, after = old.stored(), new.stored()
    keys = [k for k in before if k not in (*FREE, "study")]
    return [(k, before[k], after[k]) for k in keys if before[k] != after[k]]


def load_recipe(path: str | Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """Reads a recipe; a flag beats the file.

    Args:
        path: A YAML file, or None for the defaults.
        overrides: Values by YAML key, from flags or from Python.

    Raises:
        UserError: With every error at once, each with its place, what was found and what is
            allowed.
    """
    tree = CommentedMap() if path is None else read_yaml(Path(path))
    data = {**_plain(tree), **{_key(k): v for k, v in overrides.items()}}
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        flags = {_key(k) for k in overrides}
        lines = [_explain(item, tree, path, flags) for item in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def read_yaml(path: Path) -> CommentedMap:
    """Reads a YAML 1.2 mapping with positions; duplicate keys and tags are refused."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> CommentedMap:
    """Parses a YAML 1.2 mapping with positions; duplicate keys and tags are refused.

    Raises:
        UserError: Naming `source` and the line.
    """
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = (error.problem or "not YAML").splitlines()[0]
        raise UserError(f"{source}{line}: {problem}") from None
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise UserError(f"{source}:1: expected keys and values, found {type(tree).__name__}")
    _refuse_tags(tree, source)
    return tree


def _refuse_tags(node: Any, source: str) -> None:
    tag = getattr(node, "tag", None)
    value = getattr(tag, "value", None)
    if value is not None and not str(value).startswith("tag:yaml.org"):
        line = getattr(getattr(node, "lc", None), "line", 0) + 1
        raise UserError(f"{source}:{line}: the tag {value} is not allowed")
    if isinstance(node, CommentedMap):
        for child in node.values():
            _refuse_tags(child, source)
    elif isinstance(node, CommentedSeq):
        for child in node:
            _refuse_tags(child, source)


def _key(name: str) -> str:
    return "import" if name == "import_file" else name


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def line_of(tree: Any, path: tuple[Any, ...]) -> int:
    """The line, from 1, on which the value at a path stands; of its nearest parent if it is new."""
    line = 0
    for key in path:
        if not isinstance(tree, (CommentedMap, CommentedSeq)):
            break
        try:
            line = tree.lc.key(key)[0] if isinstance(tree, CommentedMap) else tree.lc.item(key)[0]
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            break
    return line + 1


def _explain(item: Any, tree: CommentedMap, path: Any, flags: set[str]) -> str:
    """One error in one line: place, what was found, what is allowed."""
    where = tuple(item["loc"])
    top = str(where[0]) if where else ""
    names = [part for part in where if part not in _BRANCHES]
    dotted = ".".join(map(str, names))
    if top in flags or path is None:
        place = f"--{top.replace('_', '-')}" if top in flags else dotted
    else:
        place = f"{path}:{line_of(tree, tuple(names))}: {dotted}"
    if item["type"] == "extra_forbidden":
        known = _known_keys(tuple(names[:-1]))
        return f"{place}: unknown key{nearest(str(names[-1]), known)} (known: {', '.join(known)})"
    message = item["msg"].removeprefix("Value error, ")
    pattern = item.get("ctx", {}).get("pattern")
    if pattern is not None:
        message = f"must match {pattern}"
    expected = item.get("ctx", {}).get("expected")
    if expected is not None:
        choices = re.findall(r"'([^']*)'", str(expected))
        message = f"allowed are {', '.join(choices)}{nearest(str(item['input']), choices)}"
    return f"{place or 'recipe'}: found {item['input']!r}; {message}"


_BRANCHES = ("float", "Linear", "Cosine", "Steps")
_NESTED: dict[str, type[Closed]] = {
    "rungs": Rungs, "scoring": ObjectiveOptions, "final": ObjectiveOptions, "final_budget": Budget,
    "first": Budget,
}  # fmt: skip


def _known_keys(parents: tuple[Any, ...]) -> list[str]:
    model: type[Closed] = _NESTED.get(str(parents[-1]), Recipe) if parents else Recipe
    if parents and parents[-1] in ("alpha", "temperature"):
        return ["linear", "cosine", "steps"]
    return [field.alias or name for name, field in model.model_fields.items()]
