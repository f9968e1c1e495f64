"""A user's own Python: families, teachers and sources from the file given by `--import`."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasdistill.common.errors import UserError
from nasdistill.recipe import Recipe
from nasdistill.study import Study


@dataclass(frozen=True)
class Plugins:
    """What a user's file defines.

    Attributes:
        families: `FAMILIES` of the file, or its function `build` under the file's own name.
        teachers: Every public function of the file, by name.
        sources: `SOURCES` of the file.
        fingerprint: Hash of the file's text; recorded with the study.
    """

    families: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    teachers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    sources: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    fingerprint: str = ""


def import_file(path: str | None) -> Plugins:
    """Runs a user's Python file and gathers what it defines.

    Args:
        path: The file, or None for nothing.

    Raises:
        UserError: If the file is missing or raises while it is imported.
    """
    if path is None:
        return Plugins()
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--import {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"nasdistill_import_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--import {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--import {path}: {type(error).__name__}: {error}") from error
    names = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
    families = dict(getattr(module, "FAMILIES", {}))
    if not families and "build" in names:
        families = {file.stem: names["build"]}
    return Plugins(
        families=families,
        teachers=names,
        sources=dict(getattr(module, "SOURCES", {})),
        fingerprint=hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(),
    )


def load_plugins(recipe: Recipe) -> Plugins:
    """Runs the file given by `--import`, and makes its families and sources known."""
    return register_plugins(recipe.import_file)


def register_plugins(file: str | None) -> Plugins:
    """Runs a file of the user's own, if there is one, and makes its families and sources known."""
    from nasdistill.data import register_sources
    from nasdistill.models import register_families
    from nasdistill.trials.plugins import import_file

    imported = import_file(file)
    register_families(imported.families)
    register_sources(imported.sources)
    return imported


def check_plugins(study: Study, imported: Plugins) -> None:
    """Holds the file given by `--import` against the one that a study was made with.

    Raises:
        UserError: If it has changed.
    """
    if (
        study.get_or_measure("import_fingerprint", lambda: imported.fingerprint)
        != imported.fingerprint
    ):
        raise UserError(
            f"study {study.folder.name!r}: the file given by --import has changed since the study "
            "was made"
        )
