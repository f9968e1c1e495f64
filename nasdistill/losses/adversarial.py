"""A discriminator tells teacher from student; the student learns to fool it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from nasdistill.common.values import Weight
from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import OnLayers, Pair, channels_of, pooled
from nasdistill.losses.logits import standardised
from nasdistill.losses.options import LayersOptions, TermOptions
from nasdistill.losses.schedules import Schedule, constant
from nasdistill.losses.term import Term
from nasdistill.models.hooks import ModelSummary, Outputs

ON_THE_HOST = "scales gradients by a number on the host"


class AdversarialOptions(LayersOptions):
    """`adversarial`: a discriminator tells teacher from student, the student learns to fool it.

    Attributes:
        on: `logits` or `features` (pooled).
        width: Of the discriminator's hidden layers.
        weight: Strength of the gradient that reaches the student; the discriminator learns at 1.
    """

    term: Literal["adversarial"]
    on: Literal["logits", "features"] = "logits"
    width: int = Field(default=128, ge=2, le=4096)
    weight: Weight = 0.1

    @model_validator(mode="after")
    def _logits_have_no_layers(self) -> AdversarialOptions:
        named = [name for name in ("layers", "combine") if name in self.model_fields_set]
        if self.on == "logits" and named:
            raise ValueError(f"{named[0]} goes with on: features; found on: logits")
        return self


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is turned round and scaled (Ganin et al., 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(x: Tensor, strength: float) -> Tensor:
    """`x`, through which the gradient comes back as −`strength` times itself."""
    reversed_: Tensor = _Reverse.apply(x, strength)  # type: ignore[no-untyped-call]
    return reversed_


class Discriminator(nn.Sequential):
    """From a vector to one logit, high where the vector is the teacher's."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__(
            nn.Linear(inside, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )


def _sides(judge: nn.Module, student_BD: Tensor, teacher_BD: Tensor, strength: float) -> Tensor:
    """Binary cross-entropy of both sides, `[B]`; the student gets the gradient turned round."""
    of_student = judge(reverse(student_BD, strength)).float().squeeze(1)
    of_teacher = judge(teacher_BD).float().squeeze(1)
    return F.softplus(of_student) + F.softplus(-of_teacher)


@dataclass(frozen=True)
class AdversarialLogits(Term):
    """The discriminator sees standardised logits.

    One optimiser step serves both sides: the discriminator lowers its loss, and the gradient that
    reaches the student is reversed (Ganin et al., 2016; adversarial distillation: Xu et al., 2018).
    The strength acts at the reversal alone: the discriminator learns at full rate. Where it is
    sure, the reversed gradient fades; that of −log σ(D) does not, and on features it keeps the
    student from learning its classes (`benchmarks/adversarial.py`).

    Left out against Xu et al.: the discriminator names no class, so it compares the answers of all
    classes at once; it is not regularised; it sees logits without their level and scale; the
    distance L1 between logits, for which another term stands; and steps of both sides in turn.

    Attributes:
        strength: Of the reversed gradient, over progress.
        width: Of the discriminator's hidden layers.
    """

    Options: ClassVar[type[TermOptions]] = AdversarialOptions
    asks_teacher: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = True  # for the number of logits
    teaches_classes: ClassVar[bool] = False
    adversarial: ClassVar[bool] = True
    weight_field: ClassVar[str | None] = "strength"
    capture_obstacle: ClassVar[str | None] = ON_THE_HOST
    strength: Schedule = constant(0.1)
    width: int = 128
    classes: int = 0

    @classmethod
    def make(cls, **arguments: Any) -> Term:
        """See `Term`: `on` tells logits from features."""
        if arguments.pop("on", "logits") == "features":
            return AdversarialFeatures(**arguments)
        return cls(arguments["strength"], arguments["width"])

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """See `Term`."""
        return AdversarialLogits(self.strength, self.width, student.classes)

    def auxiliary(self) -> nn.Module:
        """See `Term`."""
        return Discriminator(self.classes, self.width)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None and auxiliary is not None
        student_BC, teacher_BC = standardised(student.logits), standardised(teacher.logits)
        return _sides(auxiliary, student_BC, teacher_BC, self.strength(progress))


@dataclass(frozen=True)
class AdversarialFeatures(OnLayers):
    """The discriminator sees pooled features; the student's through a linear projection.

    Several pairs of layers have a discriminator each (Shen et al., "MEAL", 2019). Left out against
    that paper: a loss of similarity beside each discriminator, a weight for each of them, and a
    teacher drawn anew for each step from several.

    Attributes:
        strength: See `AdversarialLogits`.
        width: See `AdversarialLogits`.
    """

    Options: ClassVar[type[TermOptions]] = AdversarialOptions
    whole_depth: ClassVar[bool] = False
    adversarial: ClassVar[bool] = True
    weight_field: ClassVar[str | None] = "strength"
    capture_obstacle: ClassVar[str | None] = ON_THE_HOST
    strength: Schedule = constant(0.1)
    width: int = 128

    def helper(self, pair: Pair) -> nn.Module:
        """The discriminator, and the projection to the teacher's channels."""
        student, teacher = channels_of(pair, self.combine)
        return nn.ModuleDict(
            {"project": nn.Linear(student, teacher), "judge": Discriminator(teacher, self.width)}
        )

    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """See `OnLayers`."""
        assert isinstance(helper, nn.ModuleDict)
        student_BD = helper["project"](pooled(student_BCHW)).float()
        return _sides(helper["judge"], student_BD, pooled(teacher_BCHW), self.strength(progress))
