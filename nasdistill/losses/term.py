"""Terms: each is one thing matched between student and teacher, or labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.options import TermOptions
from nasdistill.models.hooks import ModelSummary, Outputs

__all__ = ["Outputs", "Term"]


class Term(ABC):
    """One thing matched between student and teacher, or labels.

    Attributes:
        Options: A recipe's options of the term, for a term among `TERMS`.
        asks_teacher: Whether the teacher's outputs are needed.
        coupled: Whether the examples of a batch depend on each other; the result is then a scalar
            instead of a loss per example.
        reads_layers: Whether it needs more than logits, and so has to be bound first.
        reads_labels: Whether the examples' labels enter the loss.
        one_label: Whether it needs one label for each example, and so no mixed examples.
        teaches_classes: Whether it moves the student's logits to what the labels, or a teacher that
            knows the classes, say of an example.
        adversarial: Whether a part of it learns against the student. Such a loss has two sides,
            which `balance` cannot even out.
        weight_field: The field that a recipe's weight is given to, as a schedule; None where the
            weight multiplies the loss.
        capture_obstacle: The reason why its steps cannot be captured in a CUDA graph, as the end of
            a sentence that begins with its name; None where they can, or where it is only that
            `teacher_layers` are read, which is known without.
        student_layers: Names of the student's layers that it reads.
        teacher_layers: Names of the teacher's.
        matched_layers: Of a student that was cut from its teacher, the layers that are compared
            with themselves as they were.
    """

    Options: ClassVar[type[TermOptions]]
    asks_teacher: ClassVar[bool]
    coupled: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    one_label: ClassVar[bool] = False
    teaches_classes: ClassVar[bool] = True
    adversarial: ClassVar[bool] = False
    weight_field: ClassVar[str | None] = None
    capture_obstacle: ClassVar[str | None] = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    matched_layers: tuple[str, ...] = ()

    @classmethod
    def make(cls, **arguments: Any) -> Term:
        """The term that a recipe's options describe.

        Args:
            arguments: The options' values, schedules as functions of progress; without `term`,
                `weight` and `teacher`.
        """
        return cls(**arguments)

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """The same term, with its layers found in one student and its teacher.

        Raises:
            LayerError: If a layer does not exist, or two do not fit.
        """
        return self

    def auxiliary(self) -> nn.Module | None:
        """The module that learns with the student and is thrown away: a projector, a discriminator.

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
            student: The student's outputs, with gradients.
            teacher: The teacher's outputs, without; None where no term asks it.
            batch: The examples.
            progress: Share of the run that is done, in [0, 1].
            auxiliary: The module that `auxiliary` made, trained so far.

        Returns:
            float32 `[B]`, or a scalar where `coupled`.
        """
