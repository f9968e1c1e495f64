"""Weights by example: how far the teacher is followed on each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

Follow = Callable[[Tensor, Tensor, float], Tensor]


def confident(logits_BC: Tensor, labels_B: Tensor, threshold: float) -> Tensor:
    """1 where the teacher's largest probability is above a threshold, else 0; float32 `[B]`."""
    return (logits_BC.softmax(dim=1).amax(dim=1) > threshold).float()


def correct_only(logits_BC: Tensor, labels_B: Tensor, threshold: float) -> Tensor:
    """1 where the teacher is right, else 0; float32 `[B]`."""
    return (logits_BC.argmax(dim=1) == labels_B).float()


def entropy(logits_BC: Tensor, labels_B: Tensor, threshold: float) -> Tensor:
    """One minus the teacher's entropy, as a share of the largest possible; float32 `[B]`."""
    log_p_BC = logits_BC.log_softmax(dim=1)
    return 1.0 + (log_p_BC.exp() * log_p_BC).sum(dim=1) / math.log(logits_BC.shape[1])


FOLLOWS: dict[str, Follow] = {
    "confident": confident,
    "by_difficulty": confident,
    "correct_only": correct_only,
    "entropy": entropy,
}
INSTEAD = ("confident", "by_difficulty")
"""Those by which labels take the place of the teacher where it is not followed."""


class ExampleWeights(NamedTuple):
    """Weights by example.

    Attributes:
        teacher: Of the terms that ask a teacher; float32 `[B]`.
        labels: Of all other terms; float32 `[B]`, or 1 for each example.
    """

    teacher: Tensor
    labels: Tensor | float


@dataclass(frozen=True)
class ByExample:
    """Weights by example: how far the teacher is followed on each.

    A loss is weighted and then averaged over the whole batch, so that each example counts the same
    whatever group it is in, and an empty group adds nothing.

    Attributes:
        by: A key of `FOLLOWS`.
        threshold: The probability at which `confident` and `by_difficulty` part.
        teacher: Name of the teacher whose logits decide.
    """

    by: str
    threshold: float
    teacher: str = "teacher"

    def weights(self, logits_BC: Tensor, labels_B: Tensor) -> ExampleWeights:
        """Weights of a batch.

        Args:
            logits_BC: The teacher's; any floating point.
            labels_B: int64 `[B]`.
        """
        teacher_B = FOLLOWS[self.by](logits_BC.float(), labels_B, self.threshold)
        return ExampleWeights(teacher_B, 1.0 - teacher_B if self.by in INSTEAD else 1.0)
