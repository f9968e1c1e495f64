"""What local workers and those on a cluster have in common: tasks, replies, how many there are."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, NamedTuple

from nasdistill.common.machine import default_workers, pick_device
from nasdistill.recipe import Recipe
from nasdistill.study import Study

CONCURRENT_STUDENTS = 4
"""Students that are tried at once on a card, where that is found to be faster."""

Task = Literal["search", "finals", "finish", "open", "step", "leave"]
"""A worker's task.

`search` runs trials, `finals` trains finals ahead, `finish` chooses them and makes them. `open` and
`step` are answered with a number. `leave` ends it.
"""

Message = dict[str, Any]
"""One line of JSON, to a worker or from it.

To it: first `first_message`, then tasks. From it: events; `answer`, a number; `did`, a task, where
`open` says that the study is open; `share`, the number of finals that others can train;
`error`, why it ends, in words for the user.
"""


class PoolSize(NamedTuple):
    """How many local workers, this process included, and whether they are provisional."""

    workers: int
    provisional: bool


def choose_size(recipe: Recipe, concurrent_students: int | None) -> PoolSize:
    """Chooses the number of local workers.

    Those asked for; where runs must not differ, one; else one for each core of a CPU, and on a card
    what was found to be faster there.

    Args:
        recipe: The study's.
        concurrent_students: Found to be faster on the study's card; None while that is not known.
    """
    if recipe.workers is not None:
        return PoolSize(recipe.workers, False)
    if recipe.deterministic:
        return PoolSize(1, False)
    if uses_gpu(recipe):
        return PoolSize(concurrent_students or CONCURRENT_STUDENTS, concurrent_students is None)
    return PoolSize(default_workers(pick_device(recipe.device)), False)


def uses_gpu(recipe: Recipe) -> bool:
    """Whether students are trained on a GPU."""
    return pick_device(recipe.device).type != "cpu"


def first_message(study: Study, *, tells: bool = False) -> Message:
    """What a worker is told first; it may hold the storage's password.

    Args:
        study: It opens the same.
        tells: Whether it tells what all workers find alike: the stages, data and teachers.
    """
    return {
        "recipe": study.recipe.model_dump(mode="json", by_alias=True),
        "name": study.folder.name,
        "path": [os.path.abspath(place) for place in sys.path],
        "tells": tells,
    }
