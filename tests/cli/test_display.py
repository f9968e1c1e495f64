"""What the terminal shows of finals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from nasdistill.cli.display import finals_table
from nasdistill.results import Final


def shown(**more: Any) -> str:
    metrics: dict[str, Any] = {
        "test_accuracy": 0.97,
        "test_interval": [0.958, 0.979],
        "teacher_test_accuracy": 0.97 / 0.99,
        "params": 25_000,
        "compression": 10.0,
        "speedup": 4.0,
        "latency": [{"model": "student", "batch": 1, "median_ms": 0.25}],
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(finals_table([Final(1, 3, Path("x"), metrics | more)]))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def uneven(share: float, untested: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "score": "accuracy",
        "test_balanced_accuracy": 0.51,
        "test_balanced_interval": [0.5, 0.62],
        "majority": {"class": "ok", "share": share, "even": 0.5},
        "untested_classes": list(untested),
    }


def test_balanced_accuracy_and_the_majority_stand_beside_accuracy() -> None:
    text = shown(**uneven(0.97))
    assert "0.970 (0.958–0.979)" in text and "│ b │ 0.510 (0.500–0.620)" in text
    assert "Always 'ok': 0.970, b 0.500" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    missing = " ".join(shown(**uneven(0.5, ("rust",))).split())
    assert "no test examples of rust" in missing


def test_what_is_kept_of_the_teacher_stands_beside_the_score_that_it_is_of() -> None:
    teacher = {"teacher_test_balanced_accuracy": 0.6}
    lines = shown(**uneven(0.97), **teacher).splitlines()
    assert ["99.0%" in line for line in lines if "0.970 (" in line] == [True]
    balanced = shown(**uneven(0.97) | {"score": "balanced-accuracy"}, **teacher).splitlines()
    assert ["85.0%" in line for line in balanced if "0.510 (" in line] == [True]
    assert ["%" in line for line in balanced if "0.970 (" in line] == [False]


def test_even_classes_and_finals_of_earlier_releases_are_shown_as_before() -> None:
    for text in (shown(), shown(**uneven(0.51))):
        assert "0.970 (0.958–0.979)" in text and "balanced" not in text and "Always" not in text
