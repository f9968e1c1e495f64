"""What a process lacks is named, from the exceptions that Python really raises."""

from __future__ import annotations

import pwd
import tempfile
from pathlib import Path

import pytest

from nasdistill.common.environment import environment_problem


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/none/a", "/none/b"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile._get_default_tempdir()
    assert environment_problem(caught.value) == (
        "No usable temporary directory found in ['/none/a', '/none/b']; have TMPDIR name a folder "
        "that can be written"
    )


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError) as caught:
        Path("~/photos").expanduser()
    assert "set HOME" in str(environment_problem(caught.value))


def test_a_path_that_is_too_long() -> None:
    with pytest.raises(OSError) as caught:
        Path("x" * 300).is_dir()
    assert environment_problem(caught.value) == f"a path is too long: {'x' * 60}…"


def test_no_memory() -> None:
    with pytest.raises(MemoryError) as caught:
        bytearray(2**60)
    assert str(environment_problem(caught.value)).startswith("there is not enough memory")


def test_other_errors_are_not_explained() -> None:
    assert environment_problem(ValueError("ours")) is None
    assert environment_problem(FileNotFoundError(2, "No such file", "x")) is None
