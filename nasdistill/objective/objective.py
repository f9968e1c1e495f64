"""A weighted sum of terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.objective.examples import ByExample
from nasdistill.objective.logits import KL, Labels
from nasdistill.objective.schedules import Schedule
from nasdistill.objective.terms import Outputs, Term

Ask = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Weighted:
    """A term and its weight over progress."""

    term: Term
    weight: Schedule


@dataclass(frozen=True)
class Objective:
    """What a student is trained on.

    Attributes:
        terms: Terms with their weights.
        by_example: How far the teacher is followed on each example; None for on all alike.
    """

    terms: Sequence[Weighted]
    by_example: ByExample | None = None

    @classmethod
    def classic(
        cls,
        alpha: Schedule,
        temperature: Schedule,
        smoothing: float = 0.0,
        by_example: ByExample | None = None,
    ) -> Objective:
        """α·labels + (1 − α)·T²·KL (Hinton et al., 2015)."""
        return cls(
            [
                Weighted(Labels(smoothing), alpha),
                Weighted(KL(temperature), lambda progress: 1.0 - alpha(progress)),
            ],
            by_example,
        )

    @classmethod
    def labels(cls, smoothing: float = 0.0) -> Objective:
        """Cross-entropy against the labels alone: no teacher."""
        return cls([Weighted(Labels(smoothing), lambda progress: 1.0)])

    @property
    def asks_teacher(self) -> bool:
        """Whether any term needs the teacher."""
        return any(item.term.asks_teacher for item in self.terms)

    def __call__(
        self, student: nn.Module, ask: Ask | None, batch: Batch, progress: float
    ) -> Tensor:
        """The loss of one batch.

        Args:
            student: The module that learns; takes `batch.images`.
            ask: Gives the teacher's logits `[B, C]` for a batch; needed if any term asks.
            batch: The examples.
            progress: Share of the run that is done, in [0, 1].

        Returns:
            A float32 scalar with gradients.
        """
        said = Outputs(student(batch.images))
        taught = None
        if self.asks_teacher:
            assert ask is not None
            taught = Outputs(ask(batch))
        follow: Tensor | float = 1.0
        rest: Tensor | float = 1.0
        if self.by_example is not None:
            assert taught is not None, "only a teacher can be followed"
            follow, rest = self.by_example.weights(taught.logits, batch.labels)
        total = torch.zeros((), device=batch.labels.device)
        for item in self.terms:
            loss = item.term(said, taught, batch.labels, progress)
            share = follow if item.term.asks_teacher else rest
            total = total + (share * loss).mean() * item.weight(progress)
        return total
