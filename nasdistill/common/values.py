"""Values of a recipe and how they are written: counts, times, shares, budgets, schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from nasdistill.common.types import (
    Closed,
    Cost,
    FormatName,
    parse_count,
    parse_duration,
    without_password,
)


def _fraction(value: Any) -> Any:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", value) if isinstance(value, str) else None
    if match is not None:
        return float(match.group(1)) / (100 if match.group(2) else 1)
    if isinstance(value, str):
        raise ValueError("write a share such as 0.88 or 88%")
    return value


def _seconds(value: Any) -> Any:
    return None if value is None else parse_duration(value, "s")


def _milliseconds(value: Any) -> Any:
    return None if value is None else parse_duration(value, "ms")


def _count(value: Any) -> Any:
    return None if value is None else parse_count(value)


def _listed(value: Any) -> Any:
    """A tuple from text with commas or from a list, which strict tuples do not take."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return tuple(value) if isinstance(value, list) else value


def _distinct(value: tuple[Cost, ...]) -> tuple[Cost, ...]:
    if len(set(value)) != len(value):
        raise ValueError("a cost is named twice")
    return value


def _distinct_formats(value: tuple[FormatName, ...]) -> tuple[FormatName, ...]:
    if len(set(value)) != len(value):
        raise ValueError("a format is named twice")
    return value


def _storage_url(value: str) -> str:
    """Refuses a password whose `@` ends it early: its rest would be the host, and shown."""
    after_password = re.sub(r"^[^/]*//[^:/]*:[^@]*@", "", value)
    if after_password != value and "@" in re.split("[/?]", after_password)[0]:
        raise ValueError("a password's '@' is written %40 in a URL, its '/' %2F")
    return value


StorageURL = Annotated[str, AfterValidator(_storage_url)]


def _files_url(value: str) -> str:
    """Refuses what is no URL, and passwords: it is stored with the study, and shown."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^*?[\]]+", value) is None:
        raise ValueError(
            "allowed: a URL such as file:///shared/studies, s3://BUCKET/studies or "
            "gs://BUCKET/studies, without * ? [ ]"
        )
    if without_password(value) != value:
        raise ValueError(
            "a password has no place in it: its driver reads it from where it always does, such "
            "as AWS_SECRET_ACCESS_KEY or ~/.aws/credentials"
        )
    return value.rstrip("/")


FilesURL = Annotated[str, AfterValidator(_files_url)]


def _class_weights(value: Any) -> Any:
    """`balanced`, or weights by the class's name: a mapping, or text such as `ok=1,broken=30`."""
    if isinstance(value, str) and "=" in value:
        pairs = [part.rpartition("=") for part in value.split(",")]
        value = {name.strip(): number for name, _, number in pairs}
    if value in (None, "balanced"):
        return value
    try:
        weights = {str(name): _number(number) for name, number in value.items()}
    except (TypeError, ValueError, AttributeError):
        weights = {}
    if not weights or not all(weight > 0 for weight in weights.values()):
        raise ValueError(
            "write balanced, or a weight above 0 by the class's name: {ok: 1, broken: 30}, as a "
            "flag ok=1,broken=30"
        )
    return weights


ClassWeights = Annotated[Literal["balanced"] | dict[str, float], BeforeValidator(_class_weights)]
Count = Annotated[int, BeforeValidator(_count)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Milliseconds = Annotated[float, BeforeValidator(_milliseconds)]
Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1, allow_inf_nan=False)]
Formats = Annotated[
    tuple[FormatName, ...], BeforeValidator(_listed), AfterValidator(_distinct_formats)
]
Costs = Annotated[tuple[Cost, ...], BeforeValidator(_listed), AfterValidator(_distinct)]


class Budget(Closed):
    """The epochs or the images that a run sees, one of them: `15 epochs` or `60k images`."""

    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    images: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_of_both(self) -> Budget:
        if (self.epochs is None) == (self.images is None):
            raise ValueError("give either epochs or images")
        return self

    @model_serializer
    def _text(self) -> str:
        if self.images is not None:
            return "1 image" if self.images == 1 else f"{self.images} images"
        return "1 epoch" if self.epochs == 1 else f"{self.epochs!r}".removesuffix(".0") + " epochs"

    def examples(self, train_size: int) -> int:
        """The budget in training examples, at least one.

        Args:
            train_size: Number of examples in the training split.
        """
        if self.images is not None:
            return self.images
        assert self.epochs is not None
        return max(1, round(self.epochs * train_size))


def _budget(value: Any) -> Any:
    """Reads `15 epochs`, `60k images`; a bare count could be either and is refused."""
    if isinstance(value, (Budget, Mapping)):
        return value
    text = str(value)
    epochs = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*epochs?\s*", text)
    if epochs is not None:
        return {"epochs": float(epochs.group(1))}
    images = re.fullmatch(r"(.*\S)\s*images?\s*", text)
    try:
        if images is not None:
            return {"images": parse_count(images.group(1))}
    except ValueError:
        pass
    raise ValueError("write a budget with its unit, such as '15 epochs' or '60k images'")


BudgetText = Annotated[Budget, BeforeValidator(_budget)]

SCHEDULE_HELP = (
    "write a number, {linear: [from, to]}, {cosine: [from, to]}, {warm_up: [value, share]} or "
    "{steps: {0.0: value, 0.5: value}} with steps from 0 up to 1"
)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _schedule(value: Any) -> Any:
    """A number, or a mapping of one kind to its numbers; keys of `steps` become floats."""
    try:
        if not isinstance(value, Mapping):
            return _number(value)
        ((kind, numbers),) = value.items()
        if kind in ("linear", "cosine"):
            start, end = numbers
            return {kind: [_number(start), _number(end)]}
        if kind == "warm_up":
            peak, over = map(_number, numbers)
            if not 0 < over <= 1:
                raise ValueError
            return {kind: [peak, over]}
        steps = {_number(float(start)): _number(number) for start, number in numbers.items()}
        if kind != "steps" or min(steps) != 0 or max(steps) > 1:
            raise ValueError
        return {kind: dict(sorted(steps.items()))}
    except (TypeError, ValueError, AttributeError):
        raise ValueError(SCHEDULE_HELP) from None


def _values(schedule: float | Mapping[str, Any]) -> list[float]:
    if not isinstance(schedule, Mapping):
        return [schedule]
    ((kind, numbers),) = schedule.items()
    if kind == "warm_up":
        return [0.0, numbers[0]]
    return list(numbers.values() if isinstance(numbers, Mapping) else numbers)


def highest(schedule: float | Mapping[str, Any]) -> float:
    """The largest value that a schedule takes."""
    return max(_values(schedule))


def is_schedule(field: FieldInfo) -> bool:
    """Whether a field of a configuration object holds a schedule."""
    return _READ_SCHEDULE in field.metadata


def _share(schedule: float | dict[str, Any]) -> float | dict[str, Any]:
    if not all(0 <= value <= 1 for value in _values(schedule)):
        raise ValueError("must lie within [0, 1]")
    return schedule


def _not_negative(schedule: float | dict[str, Any]) -> float | dict[str, Any]:
    if not all(value >= 0 for value in _values(schedule)):
        raise ValueError("must be 0 or more")
    return schedule


def _positive(schedule: float | dict[str, Any]) -> float | dict[str, Any]:
    if not all(value > 0 for value in _values(schedule)):
        raise ValueError("must be above 0")
    return schedule


_READ_SCHEDULE = BeforeValidator(_schedule)
ScheduleText = Annotated[float | dict[str, Any], _READ_SCHEDULE]
Alpha = Annotated[ScheduleText, AfterValidator(_share)]
Weight = Annotated[ScheduleText, AfterValidator(_not_negative)]
Temperature = Annotated[ScheduleText, AfterValidator(_positive)]
