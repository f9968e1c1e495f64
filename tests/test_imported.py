"""What a user's own file brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasdistill.errors import UserError
from nasdistill.imported import Imported, import_file


def write(folder: Path, text: str, name: str = "own.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_families_sources_and_teachers(tmp_path: Path) -> None:
    text = (
        "def line(architecture, input, classes): return 'net'\n"
        "def blobs(request): return 'source'\n"
        "def _hidden(): pass\n"
        "FAMILIES = {'line': line}\nSOURCES = {'blobs': blobs}\n"
    )
    found = import_file(write(tmp_path, text))
    assert found.families["line"]({}, None, 3) == "net"
    assert found.sources["blobs"](None) == "source"
    assert "line" in found.teachers and "_hidden" not in found.teachers
    assert len(found.fingerprint) == 16


def test_build_stands_under_the_files_name(tmp_path: Path) -> None:
    found = import_file(write(tmp_path, "def build(a, i, c): return 1\n", "comb.py"))
    assert list(found.families) == ["comb"]


def test_the_fingerprint_follows_the_text(tmp_path: Path) -> None:
    one = import_file(write(tmp_path, "x = 1\n")).fingerprint
    assert import_file(write(tmp_path, "x = 1\n")).fingerprint == one
    assert import_file(write(tmp_path, "x = 2\n")).fingerprint != one


def test_nothing_asked_nothing_found() -> None:
    assert import_file(None) == Imported()


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("import nowhere_at_all\n", "own.py", "ModuleNotFoundError: No module named 'nowhere"),
        ("1 / 0\n", "own.py", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "own.py", "SyntaxError"),
        ("x = 1\n", "own.txt", "must end in .py"),
    ],
)
def test_files_that_cannot_be_imported(tmp_path: Path, text: str, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        import_file(write(tmp_path, text, name))
    with pytest.raises(UserError, match="there is no such file"):
        import_file(str(tmp_path / "none.py"))
