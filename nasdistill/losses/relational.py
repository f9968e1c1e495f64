"""Terms on how the examples of a batch lie to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.losses.layer_pairs import OnLayers, Pair, channels, pooled
from nasdistill.losses.schedules import Schedule, constant


@dataclass(frozen=True)
class Similarity(OnLayers):
    """How alike the examples of a batch are: cosines between rows of the similarity matrix.

    G = Q Qᵀ of flattened maps Q `[B, CHW]`, each row brought to length 1; the loss is
    ‖G_teacher − G_student‖² ÷ B² (Tung and Mori, "Similarity-Preserving Knowledge Distillation",
    2019).
    """

    coupled: ClassVar[bool] = True

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        mine, theirs = (similarities(x.flatten(1)) for x in (student_BCHW, teacher_BCHW))
        return (theirs - mine).square().sum() / len(mine) ** 2


def similarities(q_BD: Tensor) -> Tensor:
    """Q Qᵀ with rows of length 1, `[B, B]`."""
    return F.normalize(q_BD @ q_BD.T, dim=1)


@dataclass(frozen=True)
class RKD(OnLayers):
    """Distances and angles between examples (Park et al., "Relational Knowledge Distillation",
    2019), by the Huber loss, of the pooled maps.

    Attributes:
        distance: Weight of the distances, each divided by their mean.
        angle: Weight of the cosines of the angles that each three examples span.
    """

    coupled: ClassVar[bool] = True
    whole_depth: ClassVar[bool] = False
    distance: float = 1.0
    angle: float = 2.0

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        mine, theirs = pooled(student_BCHW), pooled(teacher_BCHW)
        apart = F.smooth_l1_loss(distances(mine), distances(theirs))
        turned = F.smooth_l1_loss(angles(mine), angles(theirs))
        return self.distance * apart + self.angle * turned


def distances(x_BD: Tensor) -> Tensor:
    """Euclidean distances, divided by the mean of those that are not 0; `[B, B]`."""
    squared = (x_BD[:, None] - x_BD[None]).square().sum(dim=2)
    # The gradient of a root at 0 is infinite: the diagonal, and twins, are taken out before it.
    there = squared > 1e-12
    apart = torch.where(there, squared.clamp_min(1e-12).sqrt(), torch.zeros_like(squared))
    return apart / (apart.sum() / there.sum().clamp_min(1)).clamp_min(1e-12)


def angles(x_BD: Tensor) -> Tensor:
    """Cosines of the angle at each example between the directions to two others; `[B, B, B]`."""
    direction_BBD = F.normalize(x_BD[None] - x_BD[:, None], dim=2)
    return direction_BBD @ direction_BBD.transpose(1, 2)


@dataclass(frozen=True)
class CRD(OnLayers):
    """The teacher's picture of an example must be told from its pictures of the batch's others.

    Both pooled maps are projected linearly to unit vectors; the loss is the cross-entropy of the
    right partner among all of the batch (InfoNCE, van den Oord et al., 2018; for distillation, with
    a memory of negatives instead of the batch: Tian et al., "Contrastive Representation
    Distillation", 2020).

    Attributes:
        temperature: Of the cosines, over progress.
        width: Of the common space.
    """

    coupled: ClassVar[bool] = True
    whole_depth: ClassVar[bool] = False
    temperature: Schedule = constant(0.1)
    width: int = 128

    def helper(self, pair: Pair) -> nn.Module:
        """The two projections."""
        mine, theirs = channels(pair, self.combine)
        return nn.ModuleDict(
            {"student": nn.Linear(mine, self.width), "teacher": nn.Linear(theirs, self.width)}
        )

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        assert isinstance(helper, nn.ModuleDict)
        mine = F.normalize(helper["student"](pooled(student_BCHW)).float(), dim=1)
        theirs = F.normalize(helper["teacher"](pooled(teacher_BCHW)).float(), dim=1)
        alike_BB = mine @ theirs.T / self.temperature(progress)
        return F.cross_entropy(alike_BB, torch.arange(len(mine), device=mine.device))
