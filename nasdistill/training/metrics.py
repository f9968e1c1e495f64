"""Measures of a model's predictions: pure functions of logits and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nasdistill.common.intervals import of_the_mean, wilson
from nasdistill.common.types import ScoreName


def accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The share of examples whose highest logit is at the label.

    Args:
        logits_NK: Any float dtype, `[N, K]`.
        labels_N: int64 `[N]`.

    Returns:
        A number in [0, 1]; NaN without examples.
    """
    return _mean(logits_NK.argmax(1) == labels_N)


def agreement(logits_a_NK: Tensor, logits_b_NK: Tensor) -> float:
    """The share of examples that two models put in the same class, right or wrong.

    Args:
        logits_a_NK: `[N, K]` of one model.
        logits_b_NK: `[N, K]` of the other, on the same examples.
    """
    return _mean(logits_a_NK.argmax(1) == logits_b_NK.argmax(1))


class Conditional(NamedTuple):
    """A share among some of the examples.

    Attributes:
        share: In [0, 1]; NaN without examples.
        examples: Their number.
    """

    share: float
    examples: int


class AgreementByTeacher(NamedTuple):
    """Agreement among the examples where the teacher is right, and among the others."""

    teacher_right: Conditional
    teacher_wrong: Conditional


def agreement_by_teacher(
    student_logits_NK: Tensor, teacher_logits_NK: Tensor, labels_N: Tensor
) -> AgreementByTeacher:
    """Agreement where the teacher is right, and where it is wrong.

    The first is the share of the teacher's knowledge that the student has; the second, the share of
    the teacher's mistakes that it makes as well.

    Args:
        student_logits_NK: `[N, K]`.
        teacher_logits_NK: `[N, K]`, the same examples and classes.
        labels_N: int64 `[N]`.
    """
    teacher_N = teacher_logits_NK.argmax(1)
    same_N = student_logits_NK.argmax(1) == teacher_N
    right_N = teacher_N == labels_N
    return AgreementByTeacher(
        Conditional(_mean(same_N[right_N]), int(right_N.sum())),
        Conditional(_mean(same_N[~right_N]), int((~right_N).sum())),
    )


class ClassCounts(NamedTuple):
    """Counts by class, int64 `[K]`; their quotient is the class's recall.

    Attributes:
        right: Examples that are put in their class.
        examples: All examples of the class.
    """

    right: Tensor
    examples: Tensor


def right_by_class(logits_NK: Tensor, labels_N: Tensor) -> ClassCounts:
    """Counts the right predictions and the examples of each class.

    Args:
        logits_NK: `[N, K]`.
        labels_N: int64 `[N]`, each in [0, K).
    """
    classes = logits_NK.shape[1]
    right_N = logits_NK.argmax(1) == labels_N
    return ClassCounts(
        torch.bincount(labels_N[right_N], minlength=classes),
        torch.bincount(labels_N, minlength=classes),
    )


class Accuracy(NamedTuple):
    """An accuracy, or a balanced one, with its 95 % interval.

    Attributes:
        share: In [0, 1]; NaN without examples.
        low: Lower end of the interval.
        high: Upper end.
    """

    share: float
    low: float
    high: float


def accuracy_with_interval(logits_NK: Tensor, labels_N: Tensor) -> Accuracy:
    """Accuracy with its Wilson interval.

    Args:
        logits_NK: Any float dtype, `[N, K]`.
        labels_N: int64 `[N]`.
    """
    share, n = accuracy(logits_NK, labels_N), len(labels_N)
    return Accuracy(share, *wilson(round(share * n) if n else 0, n))


def balanced_accuracy(logits_NK: Tensor, labels_N: Tensor) -> Accuracy:
    """The mean of the accuracies within classes, of those that have examples.

    A model that always answers the same class has one ÷ the number of classes, however uneven they
    are (Brodersen et al., "The balanced accuracy and its posterior distribution", 2010).

    Args:
        logits_NK: Any float dtype, `[N, K]`.
        labels_N: int64 `[N]`.
    """
    right_K, examples_K = right_by_class(logits_NK, labels_N)
    pairs = zip(right_K.tolist(), examples_K.tolist(), strict=True)
    counts = [(right, examples) for right, examples in pairs if examples]
    shares = [right / examples for right, examples in counts]
    return Accuracy(sum(shares) / len(shares) if shares else math.nan, *of_the_mean(counts))


MEASURES: Mapping[ScoreName, Callable[[Tensor, Tensor], Accuracy]] = {
    "accuracy": accuracy_with_interval,
    "balanced-accuracy": balanced_accuracy,
}
"""What a recipe's `score` may be: functions of logits `[N, K]` and labels int64 `[N]`."""


def expected_calibration_error(probabilities_NK: Tensor, labels_N: Tensor, bins: int = 15) -> float:
    """The mean distance of confidence and accuracy, by bin of confidence (Guo et al. 2017).

    The bins are equally wide and closed at the upper end; each counts by its share of examples.

    Args:
        probabilities_NK: `[N, K]`, rows sum to 1.
        labels_N: int64 `[N]`.
        bins: Number of bins over [0, 1].

    Returns:
        A number in [0, 1]; NaN without examples.
    """
    if not len(labels_N):
        return math.nan
    filled = reliability(probabilities_NK, labels_N, bins)
    gaps = (b.examples * abs(b.accuracy - b.confidence) for b in filled)
    return sum(gaps) / len(labels_N)


class Bin(NamedTuple):
    """The examples whose confidence falls between two bounds.

    Attributes:
        confidence: Their mean, in [0, 1].
        accuracy: Share of right predictions, in [0, 1].
        examples: Their number, at least 1.
    """

    confidence: float
    accuracy: float
    examples: int


def reliability(probabilities_NK: Tensor, labels_N: Tensor, bins: int = 15) -> list[Bin]:
    """Accuracy by confidence, the points of a reliability diagram (Guo et al. 2017, figure 1).

    Args:
        probabilities_NK: `[N, K]`, rows sum to 1.
        labels_N: int64 `[N]`.
        bins: Number of equally wide bins over [0, 1], closed at the upper end.

    Returns:
        The bins that hold examples, by rising confidence.
    """
    confidence_N, prediction_N = probabilities_NK.double().max(1)
    bin_N = ((confidence_N * bins).ceil().long() - 1).clamp_(0, bins - 1)
    zeros = confidence_N.new_zeros(bins)
    confidence_B = zeros.index_add(0, bin_N, confidence_N)
    right_B = zeros.index_add(0, bin_N, (prediction_N == labels_N).double())
    count_B = bin_N.bincount(minlength=bins).tolist()
    sums = zip(confidence_B.tolist(), right_B.tolist(), count_B, strict=True)
    return [Bin(confidence / n, right / n, n) for confidence, right, n in sums if n]


def overconfidence(probabilities_NK: Tensor, labels_N: Tensor) -> float:
    """Mean confidence minus accuracy: above zero where a model is surer than it is right.

    Args:
        probabilities_NK: `[N, K]`, rows sum to 1.
        labels_N: int64 `[N]`.

    Returns:
        A number in [-1, 1]; NaN without examples.
    """
    confidence_N, prediction_N = probabilities_NK.double().max(1)
    return float(confidence_N.mean()) - _mean(prediction_N == labels_N)


def mean_relative_drop(clean: float, corrupted: Sequence[float]) -> float:
    """The share of its clean accuracy that a model loses, on average over corruptions.

    The mean of 1 − corrupted ÷ clean. Averaging over severities, and measuring the loss
    against the clean figure, is after the corruption errors of Hendrycks & Dietterich (2019), which
    compare with a fixed network instead of the model itself.

    Args:
        clean: Accuracy on the clean examples, in [0, 1].
        corrupted: Accuracy on the same examples under each corruption, in [0, 1].

    Returns:
        At most 1; 0 if nothing is lost; NaN if `clean` is 0 or nothing was corrupted.
    """
    if not clean > 0 or not corrupted:
        return math.nan
    return sum(1 - value / clean for value in corrupted) / len(corrupted)


def class_relation_preservation(
    student_logits_NK: Tensor, teacher_logits_NK: Tensor, labels_N: Tensor
) -> float:
    """The share of the teacher's power to separate each pair of classes that a student keeps.

    For a pair of classes, a model's power is the area under the ROC curve on the examples of the
    two, scored by the difference of the two classes' logits (which is also the difference of their
    log-probabilities); ties count half. The result is the mean over pairs of
    1 − |teacher − student| ÷ teacher. A pair counts only where both classes have examples and the
    teacher's area is above zero.

    Args:
        student_logits_NK: Logits or log-probabilities, `[N, K]`.
        teacher_logits_NK: The same examples and classes, `[N, K]`.
        labels_N: int64 `[N]`.

    Returns:
        At most 1; 1 if every area is the teacher's; NaN without a pair.
    """
    student_P = pairwise_areas(student_logits_NK, labels_N)
    teacher_P = pairwise_areas(teacher_logits_NK, labels_N)
    return float(preserved(student_P, teacher_P).nanmean())


def preserved(student_P: Tensor, teacher_P: Tensor) -> Tensor:
    """The share of each area of the teacher that is kept, 1 − |teacher − student| ÷ teacher.

    Args:
        student_P: Areas as `pairwise_areas` gives them.
        teacher_P: The teacher's, of the same pairs.

    Returns:
        float64 `[P]`, at most 1; NaN for a pair that does not count.
    """
    share_P = 1 - (teacher_P - student_P).abs() / teacher_P
    return share_P.where(teacher_P > 0, math.nan)  # the comparison is false for NaN, too


def pairwise_areas(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """The area under the ROC curve of each pair of classes.

    Args:
        logits_NK: `[N, K]`.
        labels_N: int64 `[N]`, each in [0, K).

    Returns:
        float64 `[K * (K - 1) / 2]`, pairs in the order (0, 1), (0, 2), …, (1, 2), …; NaN for a
        pair that has a class without examples.
    """
    logits_NK = logits_NK.double()
    classes = logits_NK.shape[1]
    rows = [torch.nonzero(labels_N == k).squeeze(1) for k in range(classes)]
    most = max((len(r) for r in rows), default=0)
    # Examples by their class, padded to the largest class: own_KMK[k, j] is the logits of the j-th
    # example of class k.
    own_KMK = logits_NK.new_zeros(classes, most, classes)
    counts_K = torch.tensor([len(r) for r in rows], device=logits_NK.device)
    for k, ids in enumerate(rows):
        own_KMK[k, : len(ids)] = logits_NK[ids]
    padding_KM = torch.arange(most, device=logits_NK.device) >= counts_K[:, None]
    areas = [
        _areas_against(a, own_KMK, padding_KM, counts_K, len(rows[a])) for a in range(classes - 1)
    ]
    return torch.cat(areas) if areas else logits_NK.new_zeros(0)


def _areas_against(
    a: int, own_KMK: Tensor, padding_KM: Tensor, counts_K: Tensor, count: int
) -> Tensor:
    """The areas of class `a` against each class after it, by the ranks of a's scores in theirs.

    Args:
        a: The class.
        own_KMK: Logits by class of the example, padded.
        padding_KM: True where there is no example.
        counts_K: Examples by class.
        count: Examples of class `a`.

    Returns:
        float64 `[K - a - 1]`.
    """
    others = own_KMK[a + 1 :]
    positive_RM = (own_KMK[a, :count, a, None] - own_KMK[a, :count, a + 1 :]).T.contiguous()
    own_RM = torch.diagonal(others[:, :, a + 1 :], dim1=0, dim2=2).T
    negative_RM = (others[:, :, a] - own_RM).masked_fill(padding_KM[a + 1 :], math.inf)
    negative_RM = negative_RM.sort(dim=1).values
    below_RM = torch.searchsorted(negative_RM, positive_RM, right=False)
    not_above_RM = torch.searchsorted(negative_RM, positive_RM, right=True)
    wins_R = (below_RM + not_above_RM).sum(1).double() / 2
    return wins_R / (count * counts_K[a + 1 :])


def _mean(hits_N: Tensor) -> float:
    return float(hits_N.double().mean())
