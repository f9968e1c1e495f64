"""What a user's own file brings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nasdistill
from nasdistill.common.errors import UserError
from nasdistill.recipe import load_recipe
from nasdistill.results import load_study
from nasdistill.trials.plugins import Plugins, read_plugins


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
    plugins = read_plugins(write(tmp_path, text))
    assert plugins.families["line"]({}, None, 3) == "net"
    assert plugins.sources["blobs"](None) == "source"
    assert "line" in plugins.teachers and "_hidden" not in plugins.teachers
    assert len(plugins.fingerprint) == 16


def test_build_stands_under_the_files_name(tmp_path: Path) -> None:
    plugins = read_plugins(write(tmp_path, "def build(a, i, c): return 1\n", "comb.py"))
    assert list(plugins.families) == ["comb"]


def test_the_fingerprint_follows_the_text(tmp_path: Path) -> None:
    one = read_plugins(write(tmp_path, "x = 1\n")).fingerprint
    assert read_plugins(write(tmp_path, "x = 1\n")).fingerprint == one
    assert read_plugins(write(tmp_path, "x = 2\n")).fingerprint != one


def test_nothing_asked_nothing_found() -> None:
    assert read_plugins(None) == Plugins()


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
        read_plugins(write(tmp_path, text, name))
    with pytest.raises(UserError, match="there is no such file"):
        read_plugins(str(tmp_path / "none.py"))


def test_finals_of_a_family_of_ones_own_are_profiled_and_exported(here: Path) -> None:
    Path("own.py").write_text(
        Path("own.py").read_text()
        + """
def line(architecture, input, classes):
    width = architecture.values["width"]
    pixels = input.channels * input.height * input.width
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.Linear(width, classes))

FAMILIES = {"line": line}
"""
    )
    Path("line.yaml").write_text("name: line\nfamily: line\nparameters: {width: {int: [4, 16]}}\n")
    changed = {"space": "line.yaml", "trials": 1, "top_k": 1, "min_accuracy": 0}
    nasdistill.search(load_recipe("recipe.yaml", changed))
    command = [sys.executable, "-m", "nasdistill"]  # a process that knows nothing of the family
    profiled = subprocess.run(
        [*command, "profile", "small/1", "--json"], capture_output=True, text=True
    )
    assert profiled.returncode == 0, profiled.stderr
    final = load_study("small", here / "studies").finals[0]
    assert json.loads(profiled.stdout)["params"] == final.metrics["params"]
    bare = [*command, "profile", str(final.folder)]
    refused = subprocess.run(bare, capture_output=True, text=True)
    assert refused.returncode == 2 and "with --import" in refused.stderr
    assert subprocess.run([*bare, "--import", "own.py"], capture_output=True).returncode == 0
    subprocess.run([*command, "export", "small", "1", "--format", "torch-export"], check=True)
    assert Path("small-1.pt2").exists()


@pytest.mark.parametrize("teacher", ["auto", "table:answers.npz"])
def test_weights_for_a_teacher_that_takes_none_are_refused(here: Path, teacher: str) -> None:
    recipe = load_recipe("recipe.yaml", {"teacher": teacher, "weights": "weights.pt"})
    with pytest.raises(UserError, match=f"--weights: found 'weights.pt' with --teacher {teacher}"):
        nasdistill.search(recipe)
