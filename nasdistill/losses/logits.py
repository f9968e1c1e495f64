"""Terms that need only logits and labels."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nasdistill.common.values import Temperature, Weight
from nasdistill.data import Batch
from nasdistill.losses.options import AskingOptions, Factor, LogitsOptions, TermOptions
from nasdistill.losses.schedules import Schedule
from nasdistill.losses.term import Term
from nasdistill.models.hooks import Outputs


class LabelsOptions(TermOptions):
    """`labels`: cross-entropy against the labels."""

    term: Literal["labels"]
    weight: Weight = 1.0
    smoothing: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class Labels(Term):
    """Cross-entropy against the labels.

    Attributes:
        smoothing: Probability mass spread evenly over the classes (Szegedy et al., 2016).
        class_weights: float32 `[C]`, the factor of an example's loss by its label; None for 1.
    """

    Options: ClassVar[type[TermOptions]] = LabelsOptions
    asks_teacher: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = True
    smoothing: float = 0.0
    class_weights: Tensor | None = field(default=None, compare=False)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        return label_loss(student.logits, batch, self.smoothing, self.class_weights)


@dataclass(frozen=True)
class Softened(Term):
    """A comparison of two distributions, softened at temperature T.

    The gradient of a divergence of softened distributions falls as 1/T²; the factor T² keeps its
    size when T changes (Hinton et al., 2015).

    Attributes:
        times_square: Whether the loss is multiplied by T².
        temperature: T, over progress.
        standardise: Whether each example's logits are brought to mean 0 and standard deviation 1
            first (Sun et al., "Logit Standardization in Knowledge Distillation", 2024).
    """

    asks_teacher: ClassVar[bool] = True
    times_square: ClassVar[bool] = True
    temperature: Schedule
    standardise: bool = False

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None
        temperature = self.temperature(progress)
        student_BC, teacher_BC = (
            _prepared(outputs.logits, self.standardise) / temperature
            for outputs in (student, teacher)
        )
        loss = self.compare(student_BC, teacher_BC, batch.labels)
        return loss * temperature**2 if self.times_square else loss

    @abstractmethod
    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """The loss of softened logits, before the factor T².

        Args:
            student_BC: float32, the student's logits divided by T.
            teacher_BC: The teacher's.
            labels_B: int64 `[B]`.

        Returns:
            float32 `[B]`, or a scalar where `coupled`.
        """


class KLOptions(LogitsOptions):
    """`kl`: KL(teacher ‖ student)."""

    term: Literal["kl"]


@dataclass(frozen=True)
class KL(Softened):
    """KL(teacher ‖ student).

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """

    Options: ClassVar[type[TermOptions]] = KLOptions

    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """See `Softened`."""
        return kl(teacher_BC.log_softmax(dim=1), student_BC.log_softmax(dim=1))


class ReverseKLOptions(LogitsOptions):
    """`reverse_kl`: KL(student ‖ teacher)."""

    term: Literal["reverse_kl"]


@dataclass(frozen=True)
class ReverseKL(Softened):
    """KL(student ‖ teacher): the student keeps to what the teacher finds likely.

    Used for distillation by Gu et al., "MiniLLM", 2024.
    """

    Options: ClassVar[type[TermOptions]] = ReverseKLOptions

    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """See `Softened`."""
        return kl(student_BC.log_softmax(dim=1), teacher_BC.log_softmax(dim=1))


class JSOptions(LogitsOptions):
    """`js`: the Jensen-Shannon divergence."""

    term: Literal["js"]


@dataclass(frozen=True)
class JS(Softened):
    """Jensen-Shannon divergence: the mean KL of both to their mean (Lin, 1991)."""

    Options: ClassVar[type[TermOptions]] = JSOptions

    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """See `Softened`."""
        log_p_BC, log_q_BC = student_BC.log_softmax(dim=1), teacher_BC.log_softmax(dim=1)
        log_mean_BC = torch.logaddexp(log_p_BC, log_q_BC) - math.log(2.0)
        return 0.5 * (kl(log_p_BC, log_mean_BC) + kl(log_q_BC, log_mean_BC))


class SoftCEOptions(LogitsOptions):
    """`soft_ce`: cross-entropy against the teacher's distribution."""

    term: Literal["soft_ce"]


@dataclass(frozen=True)
class SoftCE(Softened):
    """Cross-entropy against the teacher's distribution: KL plus the teacher's entropy."""

    Options: ClassVar[type[TermOptions]] = SoftCEOptions

    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """See `Softened`."""
        return -(teacher_BC.softmax(dim=1) * student_BC.log_softmax(dim=1)).sum(dim=1)


class DKDOptions(LogitsOptions):
    """`dkd`: target and non-target class apart.

    Attributes:
        target: Weight of the target class's part, the paper's α.
        others: Weight of the other classes' part, the paper's β.
    """

    term: Literal["dkd"]
    target: Factor = 1.0
    others: Factor = 8.0


@dataclass(frozen=True)
class DKD(Softened):
    """Decoupled knowledge distillation: the target class and the others apart.

    KL splits into one part that says how sure the teacher is of the label, and one about the other
    classes, which it weighs by how unsure the teacher is; here both have a weight of their own
    (Zhao et al., "Decoupled Knowledge Distillation", 2022).

    Attributes:
        target: Weight of the first part, the paper's α.
        others: Weight of the second part, the paper's β.
    """

    Options: ClassVar[type[TermOptions]] = DKDOptions
    reads_labels: ClassVar[bool] = True
    one_label: ClassVar[bool] = True
    target: float = 1.0
    others: float = 8.0

    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """See `Softened`."""
        is_label_BC = F.one_hot(labels_B, student_BC.shape[1]).bool()
        student_B2, teacher_B2 = (
            _label_against_rest(logits, is_label_BC) for logits in (student_BC, teacher_BC)
        )
        # Below any logit, and finite: -inf would give 0 · inf in the gradient.
        low = torch.finfo(torch.float32).min / 4
        rest_student_BC, rest_teacher_BC = (
            logits.masked_fill(is_label_BC, low).log_softmax(dim=1)
            for logits in (student_BC, teacher_BC)
        )
        return self.target * kl(teacher_B2, student_B2) + self.others * kl(
            rest_teacher_BC.masked_fill(is_label_BC, 0.0),
            rest_student_BC.masked_fill(is_label_BC, 0.0),
            weight_BC=rest_teacher_BC.exp(),
        )


class DISTOptions(LogitsOptions):
    """`dist`: correlations between classes, and between examples.

    Attributes:
        inter: Weight of the correlation over classes, the paper's β.
        intra: Weight of the correlation over the examples of a batch, the paper's γ.
    """

    term: Literal["dist"]
    temperature: Temperature = 1.0
    inter: Factor = 1.0
    intra: Factor = 1.0


@dataclass(frozen=True)
class DIST(Softened):
    """One minus the correlation of probabilities, over classes and over examples.

    A strong teacher's probabilities need not be met, only their order and proportions (Huang et
    al., "Knowledge Distillation from A Stronger Teacher", 2022).

    There is no factor T² (the authors' code has it): for large T, softmax(z/T) tends to
    1/C + (z − mean z) / (C·T), whose correlations are those of z, whatever T is.

    Attributes:
        inter: Weight of the correlation over the classes of an example, the paper's β.
        intra: Weight of the correlation over the examples of a class, the paper's γ.
    """

    Options: ClassVar[type[TermOptions]] = DISTOptions
    coupled: ClassVar[bool] = True
    times_square: ClassVar[bool] = False
    inter: float = 1.0
    intra: float = 1.0

    def compare(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """See `Softened`."""
        student, teacher = student_BC.softmax(dim=1), teacher_BC.softmax(dim=1)
        over_classes = (1.0 - _correlation(student, teacher)).mean()
        over_examples = (1.0 - _correlation(student.T, teacher.T)).mean()
        return self.inter * over_classes + self.intra * over_examples


class MSELogitsOptions(AskingOptions):
    """`mse_logits`: the mean squared difference of logits."""

    term: Literal["mse_logits"]
    standardise: bool = False


@dataclass(frozen=True)
class MSELogits(Term):
    """Mean squared difference of logits (Ba and Caruana, 2014).

    Attributes:
        standardise: See `Softened`.
    """

    Options: ClassVar[type[TermOptions]] = MSELogitsOptions
    asks_teacher: ClassVar[bool] = True
    standardise: bool = False

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None
        student_BC, teacher_BC = (
            _prepared(outputs.logits, self.standardise) for outputs in (student, teacher)
        )
        return (student_BC - teacher_BC).square().mean(dim=1)


def label_loss(
    logits_BC: Tensor,
    batch: Batch,
    smoothing: float = 0.0,
    class_weights_C: Tensor | None = None,
) -> Tensor:
    """Cross-entropy against the labels, float32 `[B]`; against both of a mixed example, by share.

    Args:
        logits_BC: Any floating point.
        batch: The examples.
        smoothing: Probability mass spread evenly over the classes.
        class_weights_C: float32, the factor of an example's loss by its label; None for 1.
    """

    def against(labels_B: Tensor) -> Tensor:
        loss_B = F.cross_entropy(
            logits_BC.float(), labels_B, reduction="none", label_smoothing=smoothing
        )
        return loss_B if class_weights_C is None else class_weights_C[labels_B] * loss_B

    own_B = against(batch.labels)
    if batch.partners is None or batch.share is None:
        return own_B
    return batch.share * own_B + (1.0 - batch.share) * against(batch.partners)


def _prepared(logits_BC: Tensor, standardise: bool) -> Tensor:
    return standardised(logits_BC) if standardise else logits_BC.float()


def standardised(logits_BC: Tensor) -> Tensor:
    """Logits at mean 0 and standard deviation 1 over the classes, float32 `[B, C]`."""
    deviation_B1 = (logits_BC.float().var(dim=1, keepdim=True) + 1e-12).sqrt()
    return (logits_BC.float() - logits_BC.float().mean(dim=1, keepdim=True)) / deviation_B1


def kl(log_p_BC: Tensor, log_q_BC: Tensor, weight_BC: Tensor | None = None) -> Tensor:
    """KL(p ‖ q) by example; `weight_BC` stands for p where its logarithm was masked."""
    p_BC = log_p_BC.exp() if weight_BC is None else weight_BC
    return (p_BC * (log_p_BC - log_q_BC)).sum(dim=1)


def _label_against_rest(logits_BC: Tensor, is_label_BC: Tensor) -> Tensor:
    """Log-probabilities of the label and of all other classes together, `[B, 2]`."""
    log_p_BC = logits_BC.log_softmax(dim=1)
    label_B = log_p_BC.masked_fill(~is_label_BC, -torch.inf).logsumexp(dim=1)
    rest_B = log_p_BC.masked_fill(is_label_BC, -torch.inf).logsumexp(dim=1)
    return torch.stack([label_B, rest_B], dim=1)


def _correlation(a_NM: Tensor, b_NM: Tensor) -> Tensor:
    """Pearson's correlation of the rows, `[N]`; 0 where a row does not vary."""
    a_NM, b_NM = (x - x.mean(dim=1, keepdim=True) for x in (a_NM, b_NM))
    return F.cosine_similarity(a_NM, b_NM, dim=1, eps=1e-8)
