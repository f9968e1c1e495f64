"""What a term is: one thing matched between student and teacher, or labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor


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
