"""Terms on relations between the examples of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nasdistill.common.values import Temperature
from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import OnLayers, Pair, channels_of, pooled
from nasdistill.losses.options import Factor, LayersOptions, TermOptions
from nasdistill.losses.schedules import Schedule, constant


class SimilarityOptions(LayersOptions):
    """`similarity`: how alike the examples of a batch are."""

    term: Literal["similarity"]


@dataclass(frozen=True)
class Similarity(OnLayers):
    """Similarity of the examples of a batch: cosines between rows of the similarity matrix.

    G = Q Qᵀ of flattened maps Q `[B, CHW]`, each row brought to length 1; the loss is
    ‖G_teacher − G_student‖² ÷ B² (Tung and Mori, "Similarity-Preserving Knowledge Distillation",
    2019).
    """

    Options: ClassVar[type[TermOptions]] = SimilarityOptions
    coupled: ClassVar[bool] = True

    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """See `OnLayers`."""
        student_BB, teacher_BB = (similarities(x.flatten(1)) for x in (student_BCHW, teacher_BCHW))
        return (teacher_BB - student_BB).square().sum() / len(student_BB) ** 2


def similarities(q_BD: Tensor) -> Tensor:
    """Q Qᵀ with rows of length 1, `[B, B]`."""
    return F.normalize(q_BD @ q_BD.T, dim=1)


class RKDOptions(LayersOptions):
    """`rkd`: distances and angles between the examples of a batch.

    Attributes:
        distance: Weight of the distances.
        angle: Weight of the angles.
    """

    term: Literal["rkd"]
    distance: Factor = 1.0
    angle: Factor = 2.0


@dataclass(frozen=True)
class RKD(OnLayers):
    """Distances and angles between examples (Park et al., "Relational Knowledge Distillation",
    2019), by the Huber loss, of the pooled maps.

    Attributes:
        distance: Weight of the distances, each divided by their mean.
        angle: Weight of the cosines of the angles that each three examples span.
    """

    Options: ClassVar[type[TermOptions]] = RKDOptions
    coupled: ClassVar[bool] = True
    whole_depth: ClassVar[bool] = False
    distance: float = 1.0
    angle: float = 2.0

    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """See `OnLayers`."""
        student_BC, teacher_BC = pooled(student_BCHW), pooled(teacher_BCHW)
        distance = F.smooth_l1_loss(distances(student_BC), distances(teacher_BC))
        angle = F.smooth_l1_loss(angles(student_BC), angles(teacher_BC))
        return self.distance * distance + self.angle * angle


def distances(x_BD: Tensor) -> Tensor:
    """Euclidean distances, divided by the mean of those that are not 0; `[B, B]`."""
    squared_BB = (x_BD[:, None] - x_BD[None]).square().sum(dim=2)
    # The gradient of a root at 0 is infinite: the diagonal, and equal rows, are taken out before.
    is_apart_BB = squared_BB > 1e-12
    root_BB = squared_BB.clamp_min(1e-12).sqrt()
    distance_BB = torch.where(is_apart_BB, root_BB, torch.zeros_like(squared_BB))
    return distance_BB / (distance_BB.sum() / is_apart_BB.sum().clamp_min(1)).clamp_min(1e-12)


def angles(x_BD: Tensor) -> Tensor:
    """Cosines of the angle at each example between the directions to two others; `[B, B, B]`."""
    direction_BBD = F.normalize(x_BD[None] - x_BD[:, None], dim=2)
    return direction_BBD @ direction_BBD.transpose(1, 2)


class CRDOptions(LayersOptions):
    """`crd`: the teacher's features of an example, told from those of the batch's others.

    Attributes:
        temperature: Of the cosines.
        width: Of the space in which they are compared.
    """

    term: Literal["crd"]
    temperature: Temperature = 0.1
    width: int = Field(default=128, ge=2, le=4096)


@dataclass(frozen=True)
class CRD(OnLayers):
    """Contrast: the teacher's features of an example are told from those of the batch's others.

    Both pooled maps are projected linearly to unit vectors; the loss is the cross-entropy of the
    right partner among those of the batch that share no class with it (InfoNCE, van den Oord et
    al., 2018; for distillation, with a memory of negatives of other classes instead of the batch:
    Tian et al., "Contrastive Representation Distillation", 2020), in the mean of both sides: the
    teacher's features told apart by the student's, and the student's by the teacher's.

    Attributes:
        temperature: Of the cosines, over progress.
        width: Of the common space.
    """

    Options: ClassVar[type[TermOptions]] = CRDOptions
    coupled: ClassVar[bool] = True
    reads_labels: ClassVar[bool] = True
    whole_depth: ClassVar[bool] = False
    temperature: Schedule = constant(0.1)
    width: int = 128

    def helper(self, pair: Pair) -> nn.Module:
        """The two projections."""
        channels = channels_of(pair, self.combine)
        return nn.ModuleDict(
            {
                "student": nn.Linear(channels.student, self.width),
                "teacher": nn.Linear(channels.teacher, self.width),
            }
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
        student_BD = F.normalize(helper["student"](pooled(student_BCHW)).float(), dim=1)
        teacher_BD = F.normalize(helper["teacher"](pooled(teacher_BCHW)).float(), dim=1)
        logits_BB = student_BD @ teacher_BD.T / self.temperature(progress)
        own_B = torch.arange(len(student_BD), device=student_BD.device)
        is_other_BB = shares_class(batch) & (own_B[:, None] != own_B)
        logits_BB = logits_BB.masked_fill(is_other_BB, -torch.inf)
        return (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2


def shares_class(batch: Batch) -> Tensor:
    """Whether two examples have a class in common, mixed ones by either label; bool `[B, B]`."""
    labels = [x for x in (batch.labels, batch.partners) if x is not None]
    pairs = [a[:, None] == b for a in labels for b in labels]
    return torch.stack(pairs).any(dim=0)
