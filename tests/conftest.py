"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from small_study import prepare

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
