"""A user's own Python: families, teachers and sources from the file given by `--import`."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasdistill.common.errors import UserError
from nasdistill.data import register_sources
from nasdistill.models import register_families, register_nets
from nasdistill.results import keys
from nasdistill.study import Study


@dataclass(frozen=True)
class Plugins:
    """The definitions of a user's file.

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


def load_plugins(path: str | None) -> Plugins:
    """Runs a user's file, if there is one, and makes its families and sources known.

    Args:
        path: The file, or None for nothing.

    Raises:
        UserError: If the file is missing or raises while it is imported.
    """
    plugins = read_plugins(path)
    register_families(plugins.families)
    register_nets(plugins.teachers)
    register_sources(plugins.sources)
    return plugins


def read_plugins(path: str | None) -> Plugins:
    """Runs a user's file and gathers its definitions, without making them known.

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
    functions = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
    families = dict(getattr(module, "FAMILIES", {}))
    if not families and "build" in functions:
        families = {file.stem: functions["build"]}
    return Plugins(
        families=families,
        teachers=functions,
        sources=dict(getattr(module, "SOURCES", {})),
        fingerprint=hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(),
    )


def check_plugins(study: Study, plugins: Plugins) -> None:
    """Holds the file given by `--import` against the one that a study was made with.

    Raises:
        UserError: If it has changed.
    """
    stored = study.get_or_measure(keys.IMPORT_FINGERPRINT, lambda: plugins.fingerprint)
    if stored != plugins.fingerprint:
        raise UserError(
            f"study {study.folder.name!r}: the file given by --import has changed since the study "
            "was made"
        )
