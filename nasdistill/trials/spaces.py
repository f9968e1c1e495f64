"""The search space of a recipe, its tree made from the teacher where it needs one."""

from __future__ import annotations

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import STUDIES
from nasdistill.data import Dataset
from nasdistill.models.counts import Counts, count_architecture
from nasdistill.models.pruned_space import MadeSpace, pruned_space, smallest
from nasdistill.recipe import Recipe
from nasdistill.space import SearchSpace
from nasdistill.teachers.bases import base_architecture
from nasdistill.trials.plugins import Plugins

_LIMITED = {"params": "parameters", "macs": "multiply-adds", "bytes": "bytes"}


def space_of(
    recipe: Recipe, space: SearchSpace, dataset: Dataset, plugins: Plugins, emit: Emit
) -> SearchSpace:
    """Makes the tree of a recipe's space.

    Args:
        recipe: Names the teacher and the limits.
        space: As its YAML says, with a template.
        dataset: The study's data.
        plugins: What the user's own file brings.
        emit: Told what is left whole.

    Raises:
        UserError: If there is no net to cut, it cannot be cut, or no cut keeps the limits.
    """
    assert space.template is not None
    base = space.template.base
    where = f"space {space.name}: base:" if base is not None else "--teacher"
    emit(Event("stage", f"what can be cut from {base or recipe.teacher}", stage="teacher"))
    architecture = base_architecture(
        base or recipe.teacher, studies_root=STUDIES, imported=plugins.teachers, flag=where
    )
    classes = len(dataset.classes)
    made = pruned_space(space, architecture, dataset.input, classes)
    _tell(made, emit)
    least = count_architecture(smallest(made.space), dataset.input, classes)
    _check_limits(recipe, space.name, least)
    return made.space


def _tell(made: MadeSpace, emit: Emit) -> None:
    few = list(made.left_whole.items())[:3]
    if few:
        more = f"; and {len(made.left_whole) - 3} more" if len(made.left_whole) > 3 else ""
        reasons = "; ".join(f"{name} ({reason})" for name, reason in few)
        emit(Event("note", f"left whole: {reasons}{more}", stage="teacher"))


def _check_limits(recipe: Recipe, name: str, least: Counts) -> None:
    """Refuses limits that not even the smallest architecture keeps.

    Raises:
        UserError: Naming its size.
    """
    for key, words in _LIMITED.items():
        limit, smallest_one = getattr(recipe, f"max_{key}"), getattr(least, key)
        if limit is not None and smallest_one > limit:
            raise UserError(
                f"--max-{key} {limit:,}: the smallest net of the space {name!r} has "
                f"{smallest_one:,} {words} ({least.params:,} parameters, {least.macs:,} "
                "multiply-adds); raise the limit, or keep less in the space's YAML"
            )
