"""Deeper layers teach shallower ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import as_map, pooled, shape_of_map
from nasdistill.losses.logits import kl, label_loss
from nasdistill.losses.schedules import Schedule, constant
from nasdistill.losses.term import Term
from nasdistill.models.hooks import LayerError, ModelSummary, Outputs


@dataclass(frozen=True)
class Exits(Term):
    """Classifiers on shallow layers, taught by the labels and by the student's own last layer.

    The mean over exits of (1 − soft)·cross-entropy + soft·T²·KL(own answer ‖ exit) (Zhang et al.,
    "Be Your Own Teacher", 2019). The exits are thrown away after training.

    Attributes:
        layers: Names or numbers of the student's layers; all but the last if `auto`.
        soft: Share of the own answer against the labels.
        temperature: T, over progress.
        found: What `bind` found: name and channels of each layer.
        classes: Number of logits.
    """

    asks_teacher: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = True
    layers: Literal["auto"] | Sequence[str] = "auto"
    soft: float = 0.5
    temperature: Schedule = constant(4.0)
    found: tuple[tuple[str, int], ...] = ()
    classes: int = 0

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """See `Term`."""
        if self.layers == "auto":
            names = student.blocks[:-1]
        else:
            names = tuple(student.layer(one) for one in self.layers)
        if not names:
            raise LayerError("exits: the student has but one layer, and no shallower one to teach")
        found = tuple((name, shape_of_map(student.shapes[name])[0]) for name in names)
        return replace(self, found=found, classes=student.classes)

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(name for name, _ in self.found)

    def auxiliary(self) -> nn.Module:
        """A linear classifier for each exit."""
        return nn.ModuleList([nn.Linear(inside, self.classes) for _, inside in self.found])

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert isinstance(auxiliary, nn.ModuleList)
        temperature = self.temperature(progress)
        own_BC = (student.logits.detach().float() / temperature).log_softmax(dim=1)
        losses = []
        for (name, _), head in zip(self.found, auxiliary, strict=True):
            exit_BC = head(pooled(as_map(student.features[name]))).float()
            soft_B = kl(own_BC, (exit_BC / temperature).log_softmax(dim=1)) * temperature**2
            hard_B = label_loss(exit_BC, batch)
            losses.append((1.0 - self.soft) * hard_B + self.soft * soft_B)
        return torch.stack(losses).mean(dim=0)
