"""How good a model's answers are: pure functions of logits and labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


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


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927).

    Args:
        correct: Successes, 0 to n.
        n: Trials.

    Returns:
        `(low, high)` in [0, 1]; `(0, 1)` when n is 0.

    Raises:
        ValueError: If `correct` is not between 0 and n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be between 0 and n = {n}, but is {correct}")
    if n == 0:
        return (0.0, 1.0)
    share, z2 = correct / n, _Z95 * _Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return (low, high)


def expected_calibration_error(probabilities_NK: Tensor, labels_N: Tensor, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart, by bin of confidence (Guo et al. 2017).

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
    confidence_N, answer_N = probabilities_NK.double().max(1)
    bin_N = ((confidence_N * bins).ceil().long() - 1).clamp_(0, bins - 1)
    gap_N = (answer_N == labels_N).double() - confidence_N
    gap_per_bin = gap_N.new_zeros(bins).index_add_(0, bin_N, gap_N)
    return float(gap_per_bin.abs().sum() / len(labels_N))


def class_relation_preservation(
    student_logits_NK: Tensor, teacher_logits_NK: Tensor, labels_N: Tensor
) -> float:
    """How well a student keeps the teacher's power to tell each pair of classes apart.

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
        At most 1, where 1 says that every area is the teacher's; NaN without a pair.
    """
    student_P = pairwise_areas(student_logits_NK, labels_N)
    teacher_P = pairwise_areas(teacher_logits_NK, labels_N)
    counts = teacher_P > 0  # false for NaN, too
    kept_P = 1 - (teacher_P - student_P).abs() / teacher_P
    return float(kept_P[counts].mean())


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
    # Examples by their class, padded to the largest class: own[k, j] is the logits of the j-th
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
    """The areas of class `a` against each class after it, by the ranks of a's scores in theirs."""
    others = own_KMK[a + 1 :]
    positive_RM = (own_KMK[a, :count, a, None] - own_KMK[a, :count, a + 1 :]).T.contiguous()
    theirs_RM = torch.diagonal(others[:, :, a + 1 :], dim1=0, dim2=2).T
    negative_RM = (others[:, :, a] - theirs_RM).masked_fill(padding_KM[a + 1 :], math.inf)
    negative_RM = negative_RM.sort(dim=1).values
    below_RM = torch.searchsorted(negative_RM, positive_RM, right=False)
    not_above_RM = torch.searchsorted(negative_RM, positive_RM, right=True)
    wins_R = (below_RM + not_above_RM).sum(1).double() / 2
    return wins_R / (count * counts_K[a + 1 :])


def _mean(hits_N: Tensor) -> float:
    return float(hits_N.double().mean())
