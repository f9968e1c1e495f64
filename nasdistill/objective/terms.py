"""Terms that need only logits and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from nasdistill.objective.schedules import Schedule


@dataclass(frozen=True)
class Outputs:
    """What a model said about a batch.

    Attributes:
        logits: Floating point `[B, C]`.
        features: Intermediate outputs by module name, for terms that ask for them.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Term(ABC):
    """One thing matched between student and teacher, or labels.

    Attributes:
        asks_teacher: Whether the teacher's outputs are needed.
        coupled: Whether the examples of a batch depend on each other; the result is then a scalar
            instead of a loss per example.
    """

    asks_teacher: ClassVar[bool]
    coupled: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels_B: Tensor, progress: float
    ) -> Tensor:
        """The loss.

        Args:
            student: What the student said, with gradients.
            teacher: What the teacher said, without; None where no term asks it.
            labels_B: int64 `[B]`.
            progress: Share of the run that is done, in [0, 1].

        Returns:
            float32 `[B]`, or a scalar where `coupled`.
        """


@dataclass(frozen=True)
class Labels(Term):
    """Cross-entropy against the labels.

    Attributes:
        smoothing: Probability mass spread evenly over the classes (Szegedy et al., 2016).
    """

    asks_teacher: ClassVar[bool] = False
    smoothing: float = 0.0

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels_B: Tensor, progress: float
    ) -> Tensor:
        """See `Term`."""
        return F.cross_entropy(
            student.logits.float(), labels_B, reduction="none", label_smoothing=self.smoothing
        )


@dataclass(frozen=True)
class KL(Term):
    """T²·KL(teacher ‖ student) between distributions softened at temperature T.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. The factor T²
    keeps the size of the gradient when T changes.

    Attributes:
        temperature: T, over progress.
    """

    asks_teacher: ClassVar[bool] = True
    temperature: Schedule

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels_B: Tensor, progress: float
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None
        temperature = self.temperature(progress)
        log_student_BC = F.log_softmax(student.logits.float() / temperature, dim=1)
        log_teacher_BC = F.log_softmax(teacher.logits.float() / temperature, dim=1)
        divergence_BC = F.kl_div(log_student_BC, log_teacher_BC, reduction="none", log_target=True)
        return divergence_BC.sum(dim=1) * temperature**2


TERMS: dict[str, type[Term]] = {"labels": Labels, "kl": KL}
