"""What a term is: one thing matched between student and teacher, or labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.models.hooks import ModelSummary, Outputs

__all__ = ["Outputs", "Term"]


class Term(ABC):
    """One thing matched between student and teacher, or labels.

    Attributes:
        asks_teacher: Whether the teacher's outputs are needed.
        coupled: Whether the examples of a batch depend on each other; the result is then a scalar
            instead of a loss per example.
        reads_layers: Whether it needs more than logits, and so has to be bound first.
        student_layers: Names of the student's layers that it reads.
        teacher_layers: Names of the teacher's.
    """

    asks_teacher: ClassVar[bool]
    coupled: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """The same term, with its layers found in one student and its teacher.

        Raises:
            LayerError: If a layer does not exist, or two do not fit.
        """
        return self

    def auxiliary(self) -> nn.Module | None:
        """What learns together with the student and is thrown away: a projector, a discriminator.

        Only of a bound term.
        """
        return None

    @abstractmethod
    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            student: What the student said, with gradients.
            teacher: What the teacher said, without; None where no term asks it.
            batch: The examples.
            progress: Share of the run that is done, in [0, 1].
            auxiliary: What `auxiliary` gave, trained so far.

        Returns:
            float32 `[B]`, or a scalar where `coupled`.
        """
