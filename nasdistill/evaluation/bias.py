"""Bias between classes: confusions that a student has from its teacher, and those of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nasdistill.common.intervals import wilson

LEVEL = 0.05
"""Chance, over all pairs of one comparison, of calling a difference real that is none."""
LEAST_SHARE, LEAST_LOW = 0.02, 0.01
"""Shares of a class from which on a teacher confuses it with another: the measured share, and the
lower end of its interval."""

Verdict = Literal["inherited", "worsened", "mended"]


@dataclass(frozen=True)
class Confusion:
    """Examples of one class that are put in another.

    Attributes:
        true: Their class.
        answered: The class they are put in.
        examples: Examples of the true class.
        teacher: Number of those that the teacher puts there.
        student: Number of those that the student puts there.
        both: Number of those that both put there.
        verdict: `worsened` or `mended`, where the student's count differs from the teacher's by
            more than chance; `inherited`, where the teacher confuses the two and the student is not
            seen to do it less.
        p: Of the exact test of the difference, corrected for all that were tested.
    """

    true: int
    answered: int
    examples: int
    teacher: int
    student: int
    both: int
    verdict: Verdict
    p: float


def paired_p(only_first: int, only_second: int) -> float:
    """The exact McNemar test: may two models differ this much by chance on the same examples?

    Of the examples where just one model has a property (is right, makes a certain mistake), each
    model would have half if the two had it equally often: the two-sided binomial probability of a
    split at least this uneven (McNemar 1947; exact as in Fagerland et al. 2013).

    Args:
        only_first: Examples where only the first model has it.
        only_second: Examples where only the second has it.

    Returns:
        A probability in (0, 1].
    """
    total = only_first + only_second
    term = tail = 1  # binomial coefficients, exact
    for i in range(min(only_first, only_second)):
        term = term * (total - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << total))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects for many tests so that the chance of any false finding stays as stated (Holm 1979).

    Args:
        p_values: One for each test.

    Returns:
        Corrected ones, in the same order: the i-th smallest of m becomes the largest of
        (m − j + 1) · p_j over j up to i, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def can_tell(discordant: int) -> bool:
    """Whether so many examples could show a difference at all, before any correction.

    A test whose smallest possible p-value is above the level can never find anything, and need not
    be corrected for (Tarone 1990).
    """
    return paired_p(0, discordant) <= LEVEL


def confusions(student_N: Tensor, teacher_N: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Counts predictions by true class.

    Args:
        student_N: int64 `[N]`, the predicted class.
        teacher_N: int64 `[N]`.
        labels_N: int64 `[N]`.
        classes: K.

    Returns:
        int64 `[3, K, K]`: of the student, of the teacher, and of both at once; rows are true
        classes, columns predicted ones.
    """
    same_N = student_N == teacher_N
    cells = [labels_N * classes + student_N, labels_N * classes + teacher_N]
    cells.append(cells[0][same_N])
    counts = [torch.bincount(cell, minlength=classes * classes) for cell in cells]
    return torch.stack(counts).view(3, classes, classes)


class Bias(NamedTuple):
    """The outcome of `find_bias`.

    Attributes:
        confusions: Those that have a verdict, the most frequent of the student first.
        tested: Number of pairs of classes that were tested.
    """

    confusions: list[Confusion]
    tested: int


def find_bias(counts_3KK: Tensor) -> Bias:
    """Judges every ordered pair of different classes.

    Worsened and mended are found by `paired_p` on the examples of the true class, corrected by
    `holm` for all pairs that are `can_tell`. A confusion that the teacher has (in 2 % of the class,
    and in 1 % by the lower end of its 95 % Wilson interval) and in which the student is within the
    teacher's interval or above is inherited.

    Args:
        counts_3KK: The result of `confusions`.
    """
    examples_K = counts_3KK[1].sum(1)
    student_KK, teacher_KK, both_KK = counts_3KK
    off_diagonal_KK = ~torch.eye(len(examples_K), dtype=torch.bool, device=examples_K.device)
    cells = torch.nonzero(((student_KK + teacher_KK) > 0) & off_diagonal_KK).tolist()
    counts = [(int(student_KK[a, b]), int(teacher_KK[a, b]), int(both_KK[a, b])) for a, b in cells]
    tested = [i for i, (s, t, both) in enumerate(counts) if can_tell(s + t - 2 * both)]
    p_values = holm(
        [paired_p(counts[i][0] - counts[i][2], counts[i][1] - counts[i][2]) for i in tested]
    )
    p_of = dict(zip(tested, p_values, strict=True))
    confusion_list = []
    for i, ((a, b), (s, t, both)) in enumerate(zip(cells, counts, strict=True)):
        n, p = int(examples_K[a]), p_of.get(i, 1.0)
        verdict = _verdict(s, t, n, p)
        if verdict is not None:
            confusion_list.append(Confusion(a, b, n, t, s, both, verdict, p))
    confusion_list.sort(key=lambda c: (-c.student / c.examples, c.true, c.answered))
    return Bias(confusion_list, len(tested))


def _verdict(student: int, teacher: int, examples: int, p: float) -> Verdict | None:
    if p <= LEVEL:
        return "worsened" if student > teacher else "mended"
    low = wilson(teacher, examples).low
    confused = teacher / examples >= LEAST_SHARE and low >= LEAST_LOW
    return "inherited" if confused and student / examples >= low else None
