"""Full runs of earlier studies, as a study learns from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nasdistill.analysis.experience import Experience
from nasdistill.common.seeds import hash_seed
from nasdistill.recipe import Recipe
from nasdistill.results import keys
from nasdistill.results.experience import (
    MOST_RUNS,
    EarlierRun,
    experience_file,
    read_runs,
    shipped_runs,
    stored,
)
from nasdistill.study.study import Study

# fmt: off
OF_A_FULL_RUN = (
    "final", "teachers", "iterate", "score", "batch_size", "views", "learning_rate", "sampling",
    "class_weights",
)
# fmt: on
"""Keys of a recipe by which full runs of one architecture differ."""


def open_experience(study: Study, setting: str, warn: Callable[[str], None]) -> Experience:
    """What a study learns from: fixed when it begins, so that it goes on as it began.

    Args:
        study: The study.
        setting: See `setting_of`.
        warn: Told of files that cannot be read.
    """

    def gather() -> dict[str, Any]:
        learns = study.recipe.experience and not study.trials()
        runs = earlier_runs(study.folder.parent, study.space.fingerprint, warn) if learns else []
        return stored(setting, runs[-MOST_RUNS:])

    study.get_or_measure(keys.EXPERIENCE, gather)
    return experience_of(study)


def experience_of(study: Study) -> Experience:
    """What a study that has begun learns from."""
    return Experience.stored(study.read(keys.EXPERIENCE))


def earlier_runs(studies: Path, space: str, warn: Callable[[str], None]) -> list[EarlierRun]:
    """Full runs on a space: those of the package, then those of a folder of studies.

    Args:
        studies: The folder.
        space: Fingerprint of the space.
        warn: Told of files that cannot be read.
    """
    return [*shipped_runs(space), *read_runs(experience_file(studies, space), space, warn)]


def setting_of(recipe: Recipe, data: str, weights: str, examples: int, begun: str = "") -> str:
    """The name of a setting, in which full runs can be compared.

    Args:
        recipe: What else makes a full run: objective, teachers, batches, views, rate, score.
        data: Fingerprint of the data.
        weights: Hash of the teacher's weights.
        examples: Training examples of a full run.
        begun: Where students begin, and with which weights; empty for fresh ones.
    """
    how = recipe.model_copy(update={"learning_rate": recipe.rate()}).model_dump_json(
        include=set(OF_A_FULL_RUN)
    )
    if begun:  # settings of fresh students keep the names that they have had
        how += begun
    return f"{hash_seed((data, weights, examples, how)):012x}"
