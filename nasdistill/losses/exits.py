"""A term on the student alone: its last layer teaches shallower ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from nasdistill.common.values import Temperature, Weight
from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import as_map, map_shape, pooled
from nasdistill.losses.logits import kl, label_loss
from nasdistill.losses.options import StudentLayers, TermOptions
from nasdistill.losses.schedules import Schedule, constant
from nasdistill.losses.term import Term
from nasdistill.models.hooks import LayerError, ModelSummary, Outputs


class ExitsOptions(TermOptions):
    """`exits`: shallow layers get classifiers of their own, taught by the student's last layer.

    Attributes:
        layers: Names or numbers of the student's layers; all but the last if `auto`.
        soft: Share of the student's own answer against the labels.
        temperature: Of that answer.
    """

    term: Literal["exits"]
    weight: Weight = 1.0
    layers: StudentLayers = "auto"
    soft: float = Field(default=0.5, ge=0, le=1)
    temperature: Temperature = 4.0


class ExitLayer(NamedTuple):
    """A layer that a classifier stands on.

    Attributes:
        name: Its name.
        channels: Number of its channels.
        special: Number of special tokens before the patches in its output.
    """

    name: str
    channels: int
    special: int = 0


@dataclass(frozen=True)
class Exits(Term):
    """Classifiers on shallow layers, taught by the labels and by the student's own last layer.

    The mean over exits of (1 − soft)·cross-entropy + soft·T²·KL(own answer ‖ exit) (Zhang et al.,
    "Be Your Own Teacher", 2019). The exits are thrown away after training. Left out against the
    paper: bottlenecks of convolutions between a layer and its exit; the hint, an L2 loss from the
    features before the last classifier to those of each exit, and its weight; the sum over exits,
    which grows with their number; and their use afterwards, as an ensemble or for stopping early.

    Attributes:
        layers: Names or numbers of the student's layers; all but the last if `auto`.
        soft: Share of the own answer against the labels.
        temperature: T, over progress.
        exits: The layers that classifiers stand on, in a bound term.
        classes: Number of logits.
        class_weights: See `Labels`.
    """

    Options: ClassVar[type[TermOptions]] = ExitsOptions
    asks_teacher: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = True
    teaches_classes: ClassVar[bool] = False  # the last layer teaches the exits, and learns nothing
    layers: Literal["auto"] | Sequence[str] = "auto"
    soft: float = 0.5
    temperature: Schedule = constant(4.0)
    exits: tuple[ExitLayer, ...] = ()
    classes: int = 0
    class_weights: Tensor | None = field(default=None, compare=False)

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """See `Term`."""
        if self.layers == "auto":
            names = student.blocks[:-1]
        else:
            names = tuple(student.layer(key) for key in self.layers)
        if not names:
            raise LayerError("exits: the student has but one layer, and no shallower one to teach")
        exits = tuple(
            ExitLayer(name, map_shape(student.shapes[name])[0], student.special_tokens(name))
            for name in names
        )
        return replace(self, exits=exits, classes=student.classes)

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(layer.name for layer in self.exits)

    def auxiliary(self) -> nn.Module:
        """A linear classifier for each exit."""
        return nn.ModuleList([nn.Linear(layer.channels, self.classes) for layer in self.exits])

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
        for layer, head in zip(self.exits, auxiliary, strict=True):
            exit_BC = head(pooled(as_map(student.features[layer.name], layer.special))).float()
            soft_B = kl(own_BC, (exit_BC / temperature).log_softmax(dim=1)) * temperature**2
            hard_B = label_loss(exit_BC, batch, class_weights_C=self.class_weights)
            losses.append((1.0 - self.soft) * hard_B + self.soft * soft_B)
        return torch.stack(losses).mean(dim=0)
