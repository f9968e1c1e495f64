"""Reads recipes: files, flags and stored ones, with every error at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml.comments import CommentedMap

from nasdistill.common.errors import UserError
from nasdistill.common.files import check_utf8
from nasdistill.common.types import Closed, nearest, without_password
from nasdistill.common.values import Budget
from nasdistill.common.yaml import line_of, plain, read_yaml
from nasdistill.recipe.objective import (
    ExamplesOptions,
    FeedOptions,
    MixOptions,
    ObjectiveOptions,
    RandAugmentOptions,
    StageOptions,
    SyntheticOptions,
)
from nasdistill.recipe.recipe import FORMER, RAY_KEYS, Recipe, Rungs
from nasdistill.recipe.teachers import IterateOptions, TeacherOptions
from nasdistill.recipe.terms import known_terms
from nasdistill.space import SearchSpace


def load_recipe(path: str | Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """Reads a recipe; a flag beats the file.

    Args:
        path: A YAML file, or None for the defaults.
        overrides: Values by YAML key, from flags or from Python; those of `rungs`, `scoring` and
            `final` may hold some of the keys below, the rest stay as the file has them.
            `synthetic` is no key of a file: it feeds both objectives with so many images made from
            the teacher, without labels where the file does not say what is learned.

    Raises:
        UserError: With every error at once, each with its place, what was found and what is
            allowed.
    """
    tree = CommentedMap() if path is None else read_yaml(Path(path))
    return _validate(plain(tree), overrides, tree, str(path), new=True)


def from_stored(stored: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe that a study has stored, with some of its keys replaced.

    Args:
        stored: What `Recipe.stored` gave.
        overrides: Values by YAML key, as in `load_recipe`.

    Raises:
        UserError: As `load_recipe` does.
    """
    return _validate(plain(stored), overrides or {}, None, "the stored recipe", new=False)


NESTED = ("rungs", "scoring", "final")
FLAGS: dict[tuple[str, ...], str] = {
    ("rungs", "first"): "--first-rung",
    ("rungs", "count"): "--rung-count",
    ("rungs", "eta"): "--eta",
    ("scoring", "alpha"): "--alpha",
    ("final", "alpha"): "--alpha",
    ("scoring", "temperature"): "--temperature",
    ("final", "temperature"): "--temperature",
    ("scoring", "feed", "synthetic"): "--synthetic",
    ("final", "feed", "synthetic"): "--synthetic",
}
_WORDS = {
    "study": "letters, digits, '.', '_' and '-', the first a letter or digit, at most 200",
    "device": "auto, cpu, cuda, cuda:N",
    "latency_engine": "onnxruntime, openvino, executorch, litert, torch, cuda, command:PROGRAM",
    "deploy": "fp32, int8",
    "image_size": "a number of pixels from 16 to 256",
    "channels": "1 (grey), 3 (RGB)",
    "min_accuracy": "a share from 0 to 1, such as 0.88 or 88%",
    "minimize": "latency, params, macs, bytes, each at most once",
}
_NUMBERS = (
    *("image_size", "channels", "trials", "top_k", "workers", "seed", "batch_size", "views"),
    *("learning_rate", "eta", "count", "synthetic", "max_loss", "gpu_share", "cpus_per_worker"),
    "final_gpus",
)


def _validate(
    data: dict[str, Any],
    overrides: Mapping[str, Any],
    tree: CommentedMap | None,
    source: str,
    *,
    new: bool,
) -> Recipe:
    flags: set[tuple[str, ...]] = set()
    overrides = dict(overrides)
    synthetic = overrides.pop("synthetic", None)
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
    if synthetic is not None:
        for key in ("scoring", "final"):
            data[key] = _fed_from_teacher(data.get(key), _from_flag("synthetic", synthetic))
            flags.add((key, "feed", "synthetic"))
    for key in FORMER:  # what says that it is left out asks for what is done
        if not new or data.get(key) is False:
            data.pop(key, None)
    for key, value in data.items():
        if isinstance(value, str):
            check_utf8(
                f"--{key.replace('_', '-')}" if (key,) in flags else f"{source}: {key}", value
            )
    of_space = _problems_of_space(data.get("space"), tree, source, flags) if new else []
    try:
        recipe = Recipe.model_validate_json(json.dumps(data), strict=True, context={"new": new})
    except ValidationError as error:
        lines = sorted(_explain(item, tree, source, flags) for item in error.errors())
        problems = [*dict.fromkeys(line for _, line in lines), *of_space]
        raise UserError("\n".join(problems)) from None
    if recipe.engine == "local":
        _check_local(data if new else overrides, source, flags)
    if of_space:
        raise UserError("\n".join(of_space))
    return recipe


def _check_local(values: Mapping[str, Any], source: str, flags: set[tuple[str, ...]]) -> None:
    """Refuses what is for workers on a cluster where there are none.

    A study that ran on one may go on without: what it has stored is then of no account.
    """
    for key in RAY_KEYS:
        if values.get(key) not in (None, Recipe.model_fields[key].default):
            flag = f"--{key.replace('_', '-')}"
            place = flag if (key,) in flags else f"{source}: {key}"
            raise UserError(
                f"{place}: found {values[key]!r}, but engine is local; allowed with ray"
            )


def _problems_of_space(
    space: Any, tree: CommentedMap | None, source: str, flags: set[tuple[str, ...]]
) -> list[str]:
    """What is wrong with a space that the recipe itself holds."""
    if not isinstance(space, dict) or not space:
        return []
    line = 1
    if tree is not None and ("space",) not in flags:
        space, line = tree["space"], line_of(tree, ("space",))
    else:
        source = "the given values"
    try:
        SearchSpace.from_tree(space, source, "space", line)
    except UserError as error:
        return str(error).splitlines()
    return []


def _fed_from_teacher(objective: Any, images: Any) -> Any:
    """An objective's values, fed with so many synthetic images; wrong ones stay as they are.

    Their labels are only the classes that they were made for, so that none are learned unless
    the values say what is.
    """
    values = objective or {}
    feed = values.get("feed") or {} if isinstance(values, dict) else values
    synthetic = feed.get("synthetic") or {} if isinstance(feed, dict) else feed
    if not all(isinstance(each, dict) for each in (values, feed, synthetic)):
        return objective
    unlabelled = {} if {"alpha", "terms", "stages"} & values.keys() else {"alpha": 0}
    return {**values, **unlabelled, "feed": {**feed, "synthetic": {**synthetic, "images": images}}}


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
    if item["type"] == "extra_forbidden" and len(path) == 1 and path[0] in FORMER:
        return line, f"{place}: {FORMER[path[0]]}"
    if item["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in model.model_fields.items()]
        near = nearest(str(path[-1]), known)
        return line, f"{place}: unknown key{near} (known: {', '.join(known)})"
    if whole:
        return line, f"{place}: {_message(item, '').partition(': ')[2]}"
    value, message = without_password(repr(item["input"])), _message(item, str(path[-1]))
    value = value if len(value) <= 60 else value[:57] + "..."
    text = message if message.startswith(value) else f"found {value}; {message}"
    return line, f"{place}: {text}"


def _place(location: tuple[Any, ...]) -> tuple[tuple[Any, ...], type[Closed]]:
    """The path of a key as the user wrote it, and the model that its parent is.

    Pydantic puts the kind of a term between its index and its keys.
    """
    if "terms" in location[:-2]:
        at = location.index("terms") + 2
        term = known_terms().get(str(location[at]))
        if term is not None:
            return location[:at] + location[at + 1 :], term.Options
    if location[0] == "teachers" and len(location) > 2:
        return location, TeacherOptions
    names = [str(part) for part in location[:-1] if not isinstance(part, int)]
    return location, _MODELS.get(names[-1], Recipe) if names else Recipe


def _message(item: Any, key: str) -> str:
    """The words that are allowed, with the nearest of them."""
    words, context = _WORDS.get(key), item.get("ctx", {})
    if words is not None:
        return f"allowed: {words}{nearest(str(item['input']), words.split(', '))}"
    expected = context.get("expected", context.get("expected_tags"))
    if expected is not None:
        choices = re.findall(r"'([^']*)'", str(expected))
        value = str(context.get("tag", item["input"]))
        return f"allowed: {', '.join(choices)}{nearest(value, choices)}"
    if item["type"] == "union_tag_not_found":
        return f"a term needs the key 'term' (one of {', '.join(known_terms())})"
    if item["type"].startswith("bool"):
        return "allowed: true, false"
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


_MODELS: dict[str, type[Closed]] = {
    "rungs": Rungs,
    "scoring": ObjectiveOptions,
    "final": ObjectiveOptions,
    "final_budget": Budget,
    "first": Budget,
    "examples": ExamplesOptions,
    "stages": StageOptions,
    "feed": FeedOptions,
    "mix": MixOptions,
    "rand_augment": RandAugmentOptions,
    "synthetic": SyntheticOptions,
    "iterate": IterateOptions,
}
