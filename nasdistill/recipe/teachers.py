"""Teachers of a recipe: several of them, and chains of finals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nasdistill.common.types import Closed, nearest
from nasdistill.common.values import BudgetText, Count
from nasdistill.recipe.objective import ObjectiveOptions


class IterateOptions(Closed):
    """A chain of finals, each teaching the next.

    Attributes:
        generations: How often a final's architecture is trained, each time taught by the time
            before (born again).
        assistants: Parameters of models between teacher and students, from large to small; each
            teaches the next, the last one the students.
    """

    generations: int | None = Field(default=None, ge=2, le=20)
    assistants: tuple[Count, ...] | None = Field(default=None, min_length=1, max_length=8)

    @model_validator(mode="after")
    def _one_kind(self) -> IterateOptions:
        if (self.generations is None) == (self.assistants is None):
            raise ValueError("give either generations or assistants")
        sizes = self.assistants or ()
        if any(after >= before for before, after in zip(sizes, sizes[1:], strict=False)):
            raise ValueError("assistants: sizes must fall, from the teacher's side down")
        return self


class TeacherOptions(Closed):
    """One of several teachers: a model, a table, a mean of others, or the student itself.

    Attributes:
        model: As `teacher` has it: `timm:NAME`, `final:STUDY/RANK`, ….
        weights: File with that model's weights.
        classes: Which of that model's classes is which of the data's, as the recipe's `classes`.
        table: A file of recorded answers, `.parquet` or `.npz`.
        missing: What happens if the table lacks an example: an `error`, or the terms that ask for
            it `skip` it.
        mean_of: Names of other teachers, whose distributions are averaged.
        shares: Of each in the mean; equal if not given.
        by: What weighs them, example by example: their `shares` alone, their `certainty`, or
            whether they are `correct`.
        ema: Decay of the student's moving average.
        earlier: The student of an earlier step: how long it stays.
        peers: Number of students that teach each other.
    """

    model: str | None = None
    weights: str | None = None
    classes: str | None = Field(default=None, min_length=1)
    table: str | None = None
    missing: Literal["error", "skip"] = "error"
    mean_of: tuple[str, ...] | None = Field(default=None, min_length=2)
    shares: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    by: Literal["shares", "certainty", "correct"] = "shares"
    ema: float | None = Field(default=None, gt=0, lt=1)
    earlier: BudgetText | None = None
    peers: int | None = Field(default=None, ge=2, le=8)

    @property
    def is_student(self) -> bool:
        """Whether it is the student itself, now or earlier, or another that learns with it."""
        return self.ema is not None or self.earlier is not None or self.peers is not None

    @model_validator(mode="after")
    def _one_kind(self) -> TeacherOptions:
        kinds = ("model", "table", "mean_of", "ema", "earlier", "peers")
        named = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(named) != 1:
            names = " and ".join(named) or "none"
            raise ValueError(f"give one of {', '.join(kinds)} (found {names})")
        if self.model is not None and self.model.startswith("table:"):
            raise ValueError(f"write table: {self.model.removeprefix('table:')} instead of a model")
        belongs = {"weights": "model", "classes": "model", "missing": "table"}
        belongs |= {"shares": "mean_of", "by": "mean_of"}
        for key, kind in belongs.items():
            if kind not in named and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} goes with {kind}")
        if self.shares is not None and len(self.shares) != len(self.mean_of or ()):
            raise ValueError("shares: give one for each of mean_of")
        return self


def check_teachers(
    teachers: Mapping[str, TeacherOptions], objectives: Mapping[str, ObjectiveOptions]
) -> None:
    """Every teacher that is named must be there and be able to do what is asked of it, and of each
    objective something must teach the classes.

    Args:
        teachers: The recipe's, by name.
        objectives: Its objectives, by key.

    Raises:
        ValueError: If a teacher is missing, or asked for what it does not have.
    """
    known = ("teacher", *teachers)
    if "teacher" in teachers:
        raise ValueError("teachers: the name 'teacher' is that of the recipe's own teacher")
    for name, options in teachers.items():
        for other in options.mean_of or ():
            if other not in known:
                raise ValueError(f"teachers.{name}.mean_of: {_unknown(other, known)}")
            if other != "teacher" and not (teachers[other].model or teachers[other].table):
                raise ValueError(
                    f"teachers.{name}.mean_of: {other!r} is no model and no table; only those have "
                    "answers that can be averaged"
                )
    for key, objective in objectives.items():
        for name in objective.teachers():
            if name not in known:
                raise ValueError(f"{key}: {_unknown(name, known)}")
        names = objective.without_classes({n for n, each in teachers.items() if each.is_student})
        if names:
            raise ValueError(
                f"{key}: {' and '.join(names)} alone teaches no classes; add labels, or kl of a "
                "teacher that knows them"
            )


def _unknown(name: str, known: Sequence[str]) -> str:
    return f"there is no teacher {name!r}{nearest(name, known)} (there: {', '.join(known)})"
