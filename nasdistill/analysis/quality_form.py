"""The form of a final's quality.json, which is checked when it is read. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, model_validator

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Interval(BaseModel):
    """A share and its 95 % interval; without examples the share is None."""

    value: Share | None
    low: Number
    high: Number


class OfModels(BaseModel):
    """A figure of student and teacher; None where it has no examples."""

    student: Number | None
    teacher: Number | None


class KnownOfModels(BaseModel):
    """A figure of student and teacher that is always there."""

    student: Number
    teacher: Number


class IntervalsOfModels(BaseModel):
    """A share of student and teacher, with intervals."""

    student: Interval
    teacher: Interval


class Agreement(BaseModel):
    """The share of examples on which both answer alike."""

    all: Share | None
    teacher_right: Share | None
    teacher_right_examples: int
    teacher_wrong: Share | None
    teacher_wrong_examples: int


class OfClass(IntervalsOfModels):
    """The accuracy within one class."""

    class_: str = Field(alias="class")
    examples: int
    difference: Number | None
    p: Number

    @model_validator(mode="after")
    def _known_where_there_are_examples(self) -> OfClass:
        values = (self.difference, self.student.value, self.teacher.value)
        if self.examples and None in values:
            raise ValueError("a class with examples must have accuracies and their difference")
        return self


class WorstPair(BaseModel):
    """A pair of classes whose relation is kept least."""

    classes: list[str]
    preserved: Number


class Relations(BaseModel):
    """The relations of classes."""

    preservation: Number | None
    worst_pairs: list[WorstPair]


class Bin(BaseModel):
    """A bin of the reliability diagram."""

    confidence: Number
    accuracy: Number
    examples: Annotated[int, Field(ge=0)]


class Calibration(BaseModel):
    """The calibration of one model."""

    ece: Number | None
    overconfidence: Number | None
    bins: list[Bin]


class CalibrationOfModels(BaseModel):
    """The calibration of both."""

    student: Calibration
    teacher: Calibration


class Corrupted(KnownOfModels):
    """The accuracy under one corruption."""

    kind: str
    severity: Number
    retention: OfModels
    agreement: Share | None


class Robustness(BaseModel):
    """The accuracy under noise and blur."""

    examples: int
    clean: KnownOfModels
    rows: list[Corrupted]
    mean_drop: OfModels


class Spread(BaseModel):
    """The spread of accuracy over classes."""

    range: Number | None
    deviation: Number | None


class SpreadOfModels(BaseModel):
    """The spread of both."""

    student: Spread
    teacher: Spread


class LosingClass(BaseModel):
    """A class that loses more than the mean one."""

    class_: str = Field(alias="class")
    loss: Number


class Confusion(KnownOfModels):
    """Examples of one class that are put in another."""

    true: str
    answered: str
    verdict: str
    both: Number
    p: Number


class Bias(BaseModel):
    """The bias between classes."""

    level: Number
    spread: SpreadOfModels
    mean_loss: Number
    losing_classes: list[LosingClass]
    tested_pairs: int
    confusions: list[Confusion]


class QualityFile(BaseModel):
    """The content of quality.json."""

    data: str
    split: str
    examples: int
    accuracy: IntervalsOfModels
    balanced_accuracy: IntervalsOfModels | None = None
    majority: Share | None = None
    agreement: Agreement
    per_class: list[OfClass]
    class_relations: Relations
    calibration: CalibrationOfModels
    robustness: Robustness
    bias: Bias


QUALITY = TypeAdapter(QualityFile)
