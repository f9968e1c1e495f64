"""The search space of a recipe, its tree made from the net or nets that students are cut from."""

from __future__ import annotations

from collections.abc import Sequence

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import STUDIES
from nasdistill.data import Dataset
from nasdistill.models.counts import Counts, count_architecture
from nasdistill.models.pruned_space import MadeSpace, pretrained_space, pruned_space, smallest
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
    classes = len(dataset.classes)
    if space.template.models:
        made = pretrained_space(
            space,
            dataset.input,
            classes,
            lambda model: emit(Event("stage", f"what can be cut from {model}", stage="teacher")),
        )
    else:
        made = _cut_of_one(recipe, space, dataset, plugins, emit)
    _tell(made, emit)
    counts = [count_architecture(each, dataset.input, classes) for each in smallest(made.space)]
    check_limits(recipe, space.name, counts)
    return made.space


def _cut_of_one(
    recipe: Recipe, space: SearchSpace, dataset: Dataset, plugins: Plugins, emit: Emit
) -> MadeSpace:
    """Makes the tree of a space whose students are all cut from one net."""
    assert space.template is not None
    base = space.template.base
    where = f"space {space.name}: base:" if base is not None else "--teacher"
    emit(Event("stage", f"what can be cut from {base or recipe.teacher}", stage="teacher"))
    architecture = base_architecture(
        base or recipe.teacher, studies_root=STUDIES, imported=plugins.teachers, flag=where
    )
    return pruned_space(space, architecture, dataset.input, len(dataset.classes))


def _tell(made: MadeSpace, emit: Emit) -> None:
    few = list(made.left_whole.items())[:3]
    if few:
        more = f"; and {len(made.left_whole) - 3} more" if len(made.left_whole) > 3 else ""
        reasons = "; ".join(f"{name} ({reason})" for name, reason in few)
        emit(Event("note", f"left whole: {reasons}{more}", stage="teacher"))


def check_limits(recipe: Recipe, name: str, counts: Sequence[Counts]) -> None:
    """Refuses limits that no architecture of a space keeps.

    Args:
        recipe: With the limits.
        name: The space's.
        counts: Of its smallest architectures, one at least.

    Raises:
        UserError: Naming the size of the smallest of them.
    """
    limits = {key: getattr(recipe, f"max_{key}") for key in _LIMITED}
    limits = {key: limit for key, limit in limits.items() if limit is not None}
    if any(all(getattr(c, key) <= limit for key, limit in limits.items()) for c in counts):
        return
    least = min(counts, key=lambda c: max(getattr(c, key) / lim for key, lim in limits.items()))
    key = max(limits, key=lambda key: getattr(least, key) / limits[key])
    raise UserError(
        f"--max-{key} {limits[key]:,}: the smallest net of the space {name!r} has "
        f"{getattr(least, key):,} {_LIMITED[key]} ({least.params:,} parameters, {least.macs:,} "
        "multiply-adds); raise the limit, or keep less in the space's YAML"
    )
