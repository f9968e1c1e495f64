"""Temperature and α, found alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.api.options import MOST_EPOCHS, check_number
from nasdistill.api.paths import recipe_of, study_record
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, silent
from nasdistill.common.files import REPORTS, STUDIES
from nasdistill.common.types import nearest
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.results import load_finals

if TYPE_CHECKING:  # slow to import
    from nasdistill.space import Architecture
    from nasdistill.study import Study

GRID: dict[str, tuple[float, ...]] = {
    "temperature": (1, 2, 3, 5, 7, 10, 15),
    "alpha": (0.0, 0.1, 0.3, 0.5, 0.7),
}
BOUNDS = {"temperature": (0.01, 1000.0), "alpha": (0.0, 1.0)}


@dataclass(frozen=True)
class TuneOutcome:
    """The outcome of tuning.

    Attributes:
        points: Each with its values, the accuracy on the score half, and its interval.
        best: The one of highest accuracy.
        picture: Path of the HTML page.
    """

    points: list[dict[str, Any]]
    best: dict[str, Any]
    picture: Path


def tune(
    target: str,
    *,
    over: Sequence[str] = ("temperature", "alpha"),
    temperatures: Sequence[float] | None = None,
    alphas: Sequence[float] | None = None,
    epochs: int = 2,
    data: str | None = None,
    teacher: str | None = None,
    classes: str | None = None,
    on_event: Emit | None = None,
) -> TuneOutcome:
    """Tries temperatures and α on one architecture, on validation data.

    Args:
        target: A study, whose recommended final (or best trial) is taken, or an architecture.json.
        over: `temperature`, `alpha` or both.
        temperatures: To try.
        alphas: To try, each in [0, 1].
        epochs: Passes over the training split for each point.
        data: For an architecture.json: the data (the shipped ones if not given).
        teacher: For an architecture.json: the teacher.
        classes: For an architecture.json: which of the teacher's classes is which of the data's.
        on_event: Told what happens.

    Raises:
        UserError: For anything that the caller can mend.
    """
    check_number("epochs", epochs, 1, MOST_EPOCHS)
    grid = _grid(over, temperatures, alphas)
    emit = on_event or silent
    recipe, file = _recipe_of(target, {"data": data, "teacher": teacher, "classes": classes})
    from nasdistill.finals.tune import best_point
    from nasdistill.finals.tune import tune as tune_points
    from nasdistill.models.limits import check_size
    from nasdistill.report.tune import write_tuned
    from nasdistill.space import Architecture
    from nasdistill.study import Study
    from nasdistill.trials.context import open_context
    from nasdistill.trials.plugins import check_plugins, load_plugins

    plugins = load_plugins(recipe.import_file)
    study = Study.open(recipe, STUDIES, f"nasdistill tune {target}")
    check_plugins(study, plugins)
    architecture = _best_architecture(study) if file is None else Architecture.read(file)
    context = open_context(study, plugins, emit)
    check_size(architecture, context.dataset.input, context.classes, target)
    points = tune_points(context, architecture, grid, epochs)
    picture = REPORTS / study.folder.name / "tune.html"
    write_tuned(points, picture)
    return TuneOutcome(points, dict(best_point(points)), picture)


def _best_architecture(study: Study) -> Architecture:
    """That of a study's recommended final, else that of its best trial."""
    from nasdistill.study import architecture_of

    candidates = [c for c in study.candidates() if c.state in ("complete", "stopped")]
    if not candidates:
        raise UserError(f"study {study.folder.name!r} has no trial with a score yet")
    recommended = {final.number for final in load_finals(study.folder) if final.recommended}
    best = max(candidates, key=lambda c: (c.number in recommended, c.score or 0.0))
    return architecture_of(best)


def _grid(
    over: Sequence[str], temperatures: Sequence[float] | None, alphas: Sequence[float] | None
) -> dict[str, Sequence[float]]:
    chosen = {"temperature": temperatures, "alpha": alphas}
    grid: dict[str, Sequence[float]] = {}
    if not over:
        raise UserError(f"nothing to tune: name one of {', '.join(GRID)}")
    for name in over:
        if name not in GRID:
            raise UserError(
                f"--over {name}: unknown{nearest(name, GRID)}; known: {', '.join(GRID)}"
            )
        grid[name] = chosen[name] or GRID[name]
        low, high = BOUNDS[name]
        outside = [value for value in grid[name] if not low <= value <= high]
        if outside:
            raise UserError(f"{name} {outside[0]:g} is not in [{low:g}, {high:g}]")
    idle = [name for name, values in chosen.items() if values and name not in grid]
    if idle:
        raise UserError(f"values of {idle[0]} are given, but --over does not name it")
    return grid


def _recipe_of(target: str, given: Mapping[str, str | None]) -> tuple[Recipe, Path | None]:
    """The recipe to tune in, and the architecture's file if it is one."""
    path = Path(target)
    options = {key: value for key, value in given.items() if value is not None}
    if path.suffix != ".json":
        if options:
            raise UserError(
                "--data, --teacher and --classes go with an architecture.json; a study has its own"
            )
        return recipe_of(study_record(target)), None
    if not path.is_file():
        raise UserError(f"{target}: there is no such file")
    from nasdistill.space import Architecture

    # No student is turned away here, so there is no limit to derive from a teacher.
    options |= {"minimize": "params", "max_params": "1000G"}
    identity = repr((Architecture.read(path).fingerprint, sorted(options.items())))
    digest = hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()
    return load_recipe(None, {**options, "study": f"tune-{digest}"}), path
