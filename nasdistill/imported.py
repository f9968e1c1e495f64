"""A user's own Python: families, teachers and sources from the file given by `--import`."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasdistill.errors import UserError


@dataclass(frozen=True)
class Imported:
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


def import_file(path: str | None) -> Imported:
    """Runs a user's Python file and gathers what it defines.

    Args:
        path: The file, or None for nothing.

    Raises:
        UserError: If the file is missing or raises while it is imported.
    """
    if path is None:
        return Imported()
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
    return Imported(
        families=families,
        teachers=names,
        sources=dict(getattr(module, "SOURCES", {})),
        fingerprint=hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(),
    )
