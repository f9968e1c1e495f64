"""The result of `nasdistill evaluate`: its file, and its findings in words. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasdistill.analysis.quality_form import QUALITY
from nasdistill.common.errors import DamagedFileError
from nasdistill.common.files import set_aside
from nasdistill.common.json_files import check_form, read_json

QUALITY_FILE = "quality.json"
VERSION = 1

Quality = Mapping[str, Any]


def read_quality(folder: Path) -> dict[str, Any] | None:
    """Reads a final's quality.json.

    Args:
        folder: The final's.

    Returns:
        The result of `evaluation.evaluate`; None where there is no such file, or it is not one that
        this version wrote.

    Raises:
        DamagedFileError: If it cannot be read, or lacks something.
    """
    path = folder / QUALITY_FILE
    if not path.exists():
        return None
    content = read_json(path)
    if isinstance(content, dict) and content.get("version", VERSION) != VERSION:
        return None
    check_form(content, QUALITY, str(path))
    quality: dict[str, Any] = content
    return quality


def needs_evaluation(folder: Path, warn: Callable[[str], None]) -> bool:
    """Whether a final has no quality.json that can be read; a damaged one is set aside.

    Args:
        folder: The final's.
        warn: Told what is wrong with it, and its new name.
    """
    try:
        return read_quality(folder) is None
    except DamagedFileError as error:
        aside = set_aside(folder / QUALITY_FILE)
        warn(f"{error}; it was put aside as {aside.name}, and is made anew")
        return True


def findings(quality: Quality) -> list[str]:
    """Puts the figures into sentences.

    Args:
        quality: As `read_quality` gives it.
    """
    return [
        _classes_in_words(quality),
        _confusions_in_words(quality["bias"]),
        _calibration_in_words(quality["calibration"]),
        _robustness_in_words(quality["robustness"]),
    ]


def _classes_in_words(quality: Quality) -> str:
    bias, level = quality["bias"], quality["bias"]["level"]
    ranked = sorted(quality["per_class"], key=lambda row: row["difference"] or 0.0)
    changed = [row for row in ranked if row["p"] <= level]
    worse = [
        f"{row['class']} ({points(row['difference'])})" for row in changed if row["difference"] < 0
    ]
    better = [
        f"{row['class']} ({points(row['difference'])})"
        for row in reversed(changed)
        if row["difference"] > 0
    ]
    sentences = []
    absent = [str(row["class"]) for row in quality["per_class"] if not row["examples"]]
    if absent:
        sentences.append(f"Without examples, and so not judged: {_listed(absent)}.")
    if worse:
        sentences.append(f"Less accurate than the teacher, by more than chance: {_listed(worse)}.")
    if better:
        sentences.append(f"More accurate than the teacher, by more than chance: {_listed(better)}.")
    if not sentences:
        sentences.append("No class's accuracy differs from the teacher's by more than chance.")
    losing = [f"{row['class']} ({points(-row['loss'])})" for row in bias["losing_classes"]]
    if losing:
        mean = points(-bias["mean_loss"])
        sentences.append(f"Lose more than the mean class ({mean}): {_listed(losing)}.")
    return " ".join(sentences)


def _confusions_in_words(bias: Quality) -> str:
    count = {
        verdict: sum(c["verdict"] == verdict for c in bias["confusions"])
        for verdict in ("inherited", "worsened", "mended")
    }
    tested, sentences = bias["tested_pairs"], []
    if count["inherited"]:
        sentences.append(f"{_confusions(count['inherited'])} inherited from the teacher.")
    else:
        sentences.append("No confusion of the teacher's is inherited.")
    if count["worsened"] or count["mended"]:
        sentences.append(
            f"{count['worsened']} worsened and {count['mended']} mended beyond chance."
        )
    elif tested:
        sentences.append("None is worsened or mended by more than chance.")
    else:
        sentences.append("Too few answers differ to tell whether any is worsened or mended.")
    return " ".join(sentences)


def _calibration_in_words(calibration: Quality) -> str:
    clauses = []
    for model in ("student", "teacher"):
        over = calibration[model]["overconfidence"]
        if over is not None:
            word = "over" if over > 0 else "under"
            clauses.append(f"the {model} is {word}-confident by {abs(100 * over):.1f} points")
    text = ", ".join(clauses) or "no examples to calibrate on"
    return text[0].upper() + text[1:] + "."


def _robustness_in_words(robustness: Quality) -> str:
    drop = robustness["mean_drop"]
    if drop["student"] is None or drop["teacher"] is None:
        return "A model is never right on the clean pictures, so that none can be lost."
    return (
        f"Under noise and blur the student loses {100 * drop['student']:.0f} % of its accuracy on "
        f"average, the teacher {100 * drop['teacher']:.0f} %."
    )


def points(difference: float) -> str:
    """A difference of two shares, in percentage points: `−4.2 points`."""
    return f"{100 * difference:+.1f} points".replace("-", "−")


def _confusions(number: int) -> str:
    return "1 confusion is" if number == 1 else f"{number} confusions are"


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
