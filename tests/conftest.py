"""What all tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from small_study import OpenContext, prepare

from nasdistill.common.events import Event
from nasdistill.recipe import load_recipe
from nasdistill.study import Study
from nasdistill.trials.context import StudyContext, open_context
from nasdistill.trials.plugins import load_plugins

# The same examples everywhere: a change is judged by what it changes.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that a small search needs, as the current one."""
    monkeypatch.chdir(tmp_path)
    return prepare(tmp_path)


@pytest.fixture
def events() -> list[Event]:
    """What a context opened by `opened` has told."""
    return []


@pytest.fixture
def opened(here: Path, events: list[Event]) -> OpenContext:
    """Opens the small study of the current folder, with some keys of its recipe changed."""

    def open_it(**options: Any) -> StudyContext:
        recipe = load_recipe("recipe.yaml", options)
        study = Study.open(recipe, Path("studies"), "a test")
        return open_context(study, load_plugins(recipe.import_file), events.append)

    return open_it
