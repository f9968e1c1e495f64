"""Where finals began, and the runs that they are held against, as cells of HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from nasdistill.common import formats
from nasdistill.recipe import LEARNING_RATES
from nasdistill.results import Final, StudyRecord


def begin_of(final: Final) -> str:
    """Where a final began; those of an earlier release do not say: fresh."""
    return str(final.metrics.get("begin", "fresh"))


def begun(final: Final) -> str:
    """Where a final began, and with which weights."""
    weights = final.metrics.get("begin_weights") or ""
    return f"{escape(begin_of(final))}<br><small>{escape(str(weights))}</small>"


def beginning(record: StudyRecord) -> Mapping[str, Any]:
    """Where the students of a study begin, and their learning rate, as facts."""
    recipe = record.recipe
    begin = recipe.get("begin") or "fresh"
    rates = {str(name): rate for name, rate in LEARNING_RATES.items()}
    rate = recipe.get("learning_rate") or rates.get(begin)
    weights = {"weights": dict(record.first_weights)} if record.first_weights else {}
    return {"begin": begin, "learning rate": rate, **weights}


def rival(name: str) -> Callable[[Final], str]:
    """The test accuracy of a run that a final is held against."""

    def cell(final: Final) -> str:
        run = final.metrics.get(name)
        if not run:
            return "not trained"
        bounds = formats.interval(run.get("test_interval"))
        return f"{formats.percent(run.get('test_accuracy'))}<br><small>{bounds}</small>"

    return cell


def gain_over(name: str) -> Callable[[Final], str]:
    """How far a final is ahead of a run that it is held against."""

    def cell(final: Final) -> str:
        run, accuracy = (final.metrics.get(key) for key in (name, "test_accuracy"))
        if not run or accuracy is None:
            return formats.NONE
        return f"{100 * (accuracy - run['test_accuracy']):+.1f} points"

    return cell
