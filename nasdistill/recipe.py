"""One study's whole configuration: YAML and flags in, a validated object out. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml.comments import CommentedMap

from nasdistill.errors import UserError
from nasdistill.options import Closed, nearest, without_password
from nasdistill.recipe_objective import (
    ExamplesOptions,
    FeedOptions,
    IterateOptions,
    MixOptions,
    ObjectiveOptions,
    RandAugmentOptions,
    StageOptions,
    SyntheticOptions,
    TeacherOptions,
    check_teachers,
)
from nasdistill.recipe_terms import TERM_OPTIONS
from nasdistill.recipe_values import (
    Budget,
    BudgetText,
    Costs,
    Count,
    Fraction,
    Milliseconds,
    Seconds,
)
from nasdistill.recipe_yaml import line_of, parse_yaml, plain, read_yaml, write_yaml

__all__ = [
    "FREE", "UNNAMED", "Budget", "FeedOptions", "ObjectiveOptions", "Recipe", "Rungs",
    "StageOptions", "SyntheticOptions", "TeacherOptions", "changed_keys", "from_stored", "line_of",
    "load_recipe", "parse_yaml", "read_yaml",
]  # fmt: skip

FREE = ("trials", "time_limit", "top_k", "workers")
"""Keys that may change when a study goes on."""

UNNAMED = (*FREE, "study", "storage")
"""Keys that a study's default name does not follow."""


class Rungs(Closed):
    """The ladder: budgets `first`, `first · eta`, …; 1/eta of the trials goes on at each."""

    first: BudgetText = Budget(images=3000)
    eta: int = Field(default=3, ge=2, le=10)
    count: int = Field(default=3, ge=1, le=8)


class Recipe(Closed):
    """Everything that makes a study. Each key is a flag of `nasdistill search` as well."""

    space: str = "mobile"
    data: str = "fashion-mnist-mini"
    data_root: str | None = None
    image_size: int | None = Field(default=None, ge=16, le=256)
    channels: Literal[1, 3] | None = None
    skip_unreadable: bool = False
    teacher: str = "auto"
    weights: str | None = None
    teachers: dict[str, TeacherOptions] = {}
    study: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    trials: int = Field(default=24, ge=1)
    time_limit: Seconds | None = None
    top_k: int = Field(default=2, ge=1)
    minimize: Costs = Field(default=("latency", "params"), min_length=1)
    max_params: Count | None = None
    max_macs: Count | None = None
    max_bytes: Count | None = None
    max_latency: Milliseconds | None = None
    min_accuracy: Fraction | None = None
    latency_engine: str = Field(
        default="onnxruntime", pattern=r"^(onnxruntime|torch|cuda|command:.+)$"
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "fp32", "bf16", "bf16-mixed"] = "auto"
    deterministic: bool = False
    workers: int = Field(default=1, ge=1, le=64)
    seed: int = Field(default=0, ge=0, lt=2**32)
    storage: str | None = None
    import_file: str | None = Field(default=None, alias="import")
    baseline: bool = False
    sampler: Literal["random", "tpe", "nsga2", "qmc"] = "tpe"
    stopping: bool = True
    rungs: Rungs = Rungs()
    final_budget: BudgetText = Budget(epochs=8)
    batch_size: int = Field(default=64, ge=2)
    views: int = Field(default=4, ge=1, le=1000)
    learning_rate: float = Field(default=0.008, gt=0, allow_inf_nan=False)
    scoring: ObjectiveOptions = ObjectiveOptions()
    final: ObjectiveOptions = ObjectiveOptions()
    iterate: IterateOptions | None = None

    @model_validator(mode="after")
    def _teachers_are_there(self) -> Recipe:
        check_teachers(self.teachers, {"scoring": self.scoring, "final": self.final})
        return self

    def study_name(self) -> str:
        """The study's name: as given, or made from what differs from the defaults."""
        if self.study is not None:
            return self.study
        base = Path(self.space).stem
        if self.data != Recipe().data:
            data = self.data.split(":")[-1].rstrip("/").rsplit("/", 1)[-1]
            base += "-" + (Path(data).stem or "data")
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.") or "study"
        default, shipped = Recipe().stored(), re.fullmatch(r"[\w-]+", self.space) is not None
        named = {k: v for k, v in self.stored().items() if k not in (*UNNAMED, "space")}
        differs = {k: v for k, v in named.items() if v != default[k]}
        if shipped and not differs:
            return base
        readable = "-".join(_readable(key, value) for key, value in differs.items())
        if shipped and len(readable) <= 48 and "?" not in readable:
            return f"{base}-{readable}"
        text = json.dumps([self.space, differs], sort_keys=True)
        return f"{base}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"

    def stored(self) -> dict[str, Any]:
        """Plain JSON values, by YAML key; the storage's password is left out."""
        values = self.model_dump(mode="json", by_alias=True)
        if self.storage is not None:
            values["storage"] = without_password(self.storage)
        return values

    def to_yaml(self) -> str:
        """The recipe as YAML that `load_recipe` reads."""
        return write_yaml({k: v for k, v in self.stored().items() if v is not None})


def _readable(key: str, value: Any) -> str:
    """`seed3`, `no-stopping`, `minimize-params.macs`; holds a `?` where it would not be exact."""
    key = key.replace("_", "-")
    if isinstance(value, bool):
        return key if value else f"no-{key}"
    if isinstance(value, (int, float)):
        text = repr(value).removesuffix(".0")
        return f"{key}{text}" if re.fullmatch(r"[\d.]+", text) else "?"
    if key == "minimize":
        return f"{key}-{'.'.join(value)}"
    return f"{key}-{value}" if key in ("sampler", "precision", "device") else "?"


def changed_keys(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys, with both values, that differ although they may not when a study goes on."""
    before, after = old.stored(), new.stored()
    keys = [k for k in before if k not in (*FREE, "study")]
    return [(k, before[k], after[k]) for k in keys if before[k] != after[k]]


def load_recipe(path: str | Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """Reads a recipe; a flag beats the file.

    Args:
        path: A YAML file, or None for the defaults.
        overrides: Values by YAML key, from flags or from Python; those of `rungs`, `scoring` and
            `final` may hold some of the keys below, the rest stay as the file has them.

    Raises:
        UserError: With every error at once, each with its place, what was found and what is
            allowed.
    """
    tree = CommentedMap() if path is None else read_yaml(Path(path))
    return _validate(plain(tree), overrides, tree, str(path))


def from_stored(stored: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe that a study has stored, with some of its keys replaced.

    Args:
        stored: What `Recipe.stored` gave.
        overrides: Values by YAML key, as in `load_recipe`.

    Raises:
        UserError: As `load_recipe` does.
    """
    return _validate(plain(stored), overrides or {}, None, "the stored recipe")


NESTED = ("rungs", "scoring", "final")
FLAGS: dict[tuple[str, ...], str] = {
    ("rungs", "first"): "--first-rung",
    ("rungs", "count"): "--rung-count",
    ("rungs", "eta"): "--eta",
    ("scoring", "alpha"): "--alpha",
    ("final", "alpha"): "--alpha",
    ("scoring", "temperature"): "--temperature",
    ("final", "temperature"): "--temperature",
}
_WORDS = {
    "study": "letters, digits, '.', '_' and '-', the first a letter or digit",
    "device": "auto, cpu, cuda, cuda:N",
    "latency_engine": "onnxruntime, torch, cuda, command:PROGRAM",
    "image_size": "a number of pixels from 16 to 256",
    "channels": "1 (grey), 3 (RGB)",
    "min_accuracy": "a share from 0 to 1, such as 0.88 or 88%",
    "minimize": "latency, params, macs, bytes, each at most once",
}
_NUMBERS = (
    *("image_size", "channels", "trials", "top_k", "workers", "seed", "batch_size", "views"),
    *("learning_rate", "eta", "count"),
)


def _validate(
    data: dict[str, Any], overrides: Mapping[str, Any], tree: CommentedMap | None, source: str
) -> Recipe:
    flags: set[tuple[str, ...]] = set()
    for name, value in overrides.items():
        key = "import" if name == "import_file" else name
        inner = value.model_dump() if isinstance(value, BaseModel) else value
        if key in NESTED and isinstance(inner, Mapping):
            below = data.get(key)
            news = {sub: _from_flag(sub, plain(v)) for sub, v in inner.items()}
            data[key] = {**(below if isinstance(below, dict) else {}), **news}
            flags |= {(key, sub) for sub in inner}
        else:
            data[key] = _from_flag(key, plain(inner))
            flags.add((key,))
    try:
        return Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        lines = sorted(_explain(item, tree, source, flags) for item in error.errors())
        raise UserError("\n".join(dict.fromkeys(line for _, line in lines))) from None


def _from_flag(key: str, value: Any) -> Any:
    """Flags come as text; where a plain number is meant they become one."""
    if key not in _NUMBERS or not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _explain(
    item: Any, tree: CommentedMap | None, source: str, flags: set[tuple[str, ...]]
) -> tuple[int, str]:
    """One error: its line (0 for a flag), and in words its place, what was found and is allowed."""
    whole = not item["loc"]  # what is wrong with the recipe as a whole begins with its place
    location = _message(item, "").partition(": ")[0].split(".") if whole else item["loc"]
    path, model = _place(tuple(location))
    line = 1 if tree is None else line_of(tree, path)
    place = f"{source}{'' if tree is None else f':{line}'}: {'.'.join(map(str, path))}"
    for flag in flags:
        if path[: len(flag)] == flag:
            line, place = 0, FLAGS.get(flag, f"--{'-'.join(flag).replace('_', '-')}")
    if item["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in model.model_fields.items()]
        near = nearest(str(path[-1]), known)
        return line, f"{place}: unknown key{near} (known: {', '.join(known)})"
    if whole:
        return line, f"{place}: {_message(item, '').partition(': ')[2]}"
    found, message = repr(item["input"]), _message(item, str(path[-1]))
    found = found if len(found) <= 60 else found[:57] + "..."
    told = message if message.startswith(found) else f"found {found}; {message}"
    return line, f"{place}: {told}"


def _place(location: tuple[Any, ...]) -> tuple[tuple[Any, ...], type[Closed]]:
    """The path of a key as the user wrote it, and the model that its parent is.

    Pydantic puts the kind of a term between its index and its keys.
    """
    if "terms" in location[:-2]:
        at = location.index("terms") + 2
        kind = TERM_OPTIONS.get(str(location[at]))
        if kind is not None:
            return location[:at] + location[at + 1 :], kind
    if location[0] == "teachers" and len(location) > 2:
        return location, TeacherOptions
    names = [str(part) for part in location[:-1] if not isinstance(part, int)]
    return location, _MODELS.get(names[-1], Recipe) if names else Recipe


def _message(item: Any, key: str) -> str:
    """What is allowed, with the nearest allowed word."""
    words, context = _WORDS.get(key), item.get("ctx", {})
    if words is not None:
        return f"allowed: {words}{nearest(str(item['input']), words.split(', '))}"
    expected = context.get("expected", context.get("expected_tags"))
    if expected is not None:
        choices = re.findall(r"'([^']*)'", str(expected))
        given = str(context.get("tag", item["input"]))
        return f"allowed: {', '.join(choices)}{nearest(given, choices)}"
    if item["type"] == "union_tag_not_found":
        return f"a term needs the key 'term' (one of {', '.join(TERM_OPTIONS)})"
    if item["type"].startswith("bool"):
        return "allowed: true, false"
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


_MODELS: dict[str, type[Closed]] = {
    "rungs": Rungs, "scoring": ObjectiveOptions, "final": ObjectiveOptions, "final_budget": Budget,
    "first": Budget, "examples": ExamplesOptions, "stages": StageOptions, "feed": FeedOptions,
    "mix": MixOptions, "rand_augment": RandAugmentOptions, "synthetic": SyntheticOptions,
    "iterate": IterateOptions,
}  # fmt: skip
