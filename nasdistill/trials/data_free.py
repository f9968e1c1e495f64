"""Studies without a training split: students learn from images made from the teacher alone."""

from __future__ import annotations

from nasdistill.common.errors import UserError
from nasdistill.data import Dataset
from nasdistill.data.loading import no_training
from nasdistill.recipe import Recipe
from nasdistill.space import SearchSpace
from nasdistill.trials.training_setup import OF_THE_OBJECTIVE


def check_data_free(recipe: Recipe, dataset: Dataset, space: SearchSpace) -> None:
    """Refuses what needs training images, or their labels, where the data have none.

    Args:
        recipe: The study's.
        dataset: Its data.
        space: Where students come from.

    Raises:
        UserError: With all that cannot be had, and what is allowed instead.
    """
    if dataset.has_training:
        return
    objectives = {"scoring": recipe.scoring, "final": recipe.final}
    real = [name for name, options in objectives.items() if options.feed.synthetic is None]
    if len(real) == len(objectives):
        raise UserError(no_training(recipe.data))
    problems = [f"{name} is fed from it (feed: {{synthetic: …}} feeds images)" for name in real]
    problems += _of_teachers(recipe)
    for name, options in objectives.items():
        problems += [f"{name} learns labels by {reader}" for reader in options.label_readers()]
    if "alpha" in getattr(space.root.children.get(OF_THE_OBJECTIVE), "children", {}):
        problems.append(f"the space {space.name!r} searches alpha, the weight of labels")
    if recipe.sampling == "balanced":
        problems.append("--sampling balanced counts its classes (synthetic images are even)")
    if recipe.class_weights is not None:
        problems.append("--class-weights weigh labels")
    if recipe.baseline:
        problems.append("--baseline learns from labels alone")
    if problems:
        raise UserError(
            f"data {recipe.data!r}: no train split, and a synthetic image has no label but the "
            f"class it was made for. Found: {'; '.join(problems)}. Allowed: terms without labels "
            "(--alpha 0 leaves them out) on images of a teacher that is named and can be run"
        )


def _of_teachers(recipe: Recipe) -> list[str]:
    """What is wrong with the teachers, where there is nothing to train one on or to look up."""
    problems = []
    if recipe.teacher in ("auto", ""):
        problems.append("--teacher auto is trained on it (name a teacher)")
    if recipe.teacher.startswith("table:"):
        problems.append(f"--teacher {recipe.teacher} has answers to training images alone")
    for name, options in recipe.teachers.items():
        if options.table is not None:
            problems.append(f"the teacher {name!r} has answers to training images alone")
        if options.by == "correct":
            problems.append(f"the teacher {name!r} weighs by labels")
    return problems
