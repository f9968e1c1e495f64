"""Figures worked by hand, and slow reference implementations."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from nasdistill.common.intervals import wilson
from nasdistill.training.metrics import (
    accuracy,
    agreement,
    agreement_by_teacher,
    balanced_accuracy,
    class_relation_preservation,
    expected_calibration_error,
    mean_relative_drop,
    overconfidence,
    pairwise_areas,
    reliability,
    right_by_class,
)


def test_accuracy_and_agreement_count_highest_logits() -> None:
    a = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[2.0, 1.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 1])
    assert accuracy(a, labels) == 0.75
    assert accuracy(b, labels) == 0.75
    assert agreement(a, b) == 0.5
    assert accuracy(a.half(), labels) == 0.75
    assert math.isnan(accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))


def test_balanced_accuracy_is_the_mean_over_classes_that_have_examples() -> None:
    # 8 of 10 of class 0 are right, 1 of 2 of class 1, class 2 has none.
    answers = torch.tensor([0] * 8 + [1, 2] + [1, 0])
    logits, labels = torch.eye(3)[answers], torch.tensor([0] * 10 + [1] * 2)
    share, low, high = balanced_accuracy(logits, labels)
    assert share == pytest.approx((0.8 + 0.5) / 2)
    # Joined from the classes' Wilson intervals by the formula of Zou and Donner.
    (low_0, high_0), (low_1, high_1) = wilson(8, 10), wilson(1, 2)
    assert low == pytest.approx(0.65 - math.hypot(0.8 - low_0, 0.5 - low_1) / 2)
    assert high == pytest.approx(0.65 + math.hypot(high_0 - 0.8, high_1 - 0.5) / 2)
    assert accuracy(logits, labels) == 0.75
    empty = balanced_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert math.isnan(empty.share) and empty[1:] == (0.0, 1.0)


def test_always_one_answer_is_worth_nothing_when_balanced() -> None:
    logits, labels = torch.eye(2)[[0] * 100], torch.tensor([0] * 97 + [1] * 3)
    assert accuracy(logits, labels) == 0.97
    assert balanced_accuracy(logits, labels).share == 0.5


def test_calibration_error_by_hand() -> None:
    # Two bins. (0, .5]: one example, confidence .5, right. (.5, 1]: .9 right, .7 wrong, .8 right.
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 0, 1])
    # Lower: |1 - .5| / 4; upper: |2 - 2.4| / 4.
    error = expected_calibration_error(probabilities, labels, bins=2)
    assert error == pytest.approx((0.5 + 0.4) / 4, abs=1e-6)


def test_calibration_error_is_zero_when_confidence_is_accuracy() -> None:
    probabilities = torch.tensor([[0.75, 0.25]]).repeat(4, 1)
    assert expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 1])) == 0.0
    certain = torch.eye(3)
    assert expected_calibration_error(certain, torch.tensor([0, 1, 2])) == 0.0
    assert expected_calibration_error(certain, torch.tensor([1, 2, 0])) == 1.0


def test_areas_by_hand() -> None:
    # Score of the pair (0, 1) is column 0 minus column 1: class 0 has 3, 1, 0; class 1 has 1, -2.
    # Of 6 pairs: 3 > 1, 3 > -2, 1 = 1 (half), 1 > -2, 0 < 1, 0 > -2: 4.5 of 6.
    logits = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert pairwise_areas(logits, labels).tolist() == [0.75]


def test_preservation_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    student = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[5.0, 0.0], [4.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    # The teacher's area is 1, the student's .75.
    assert class_relation_preservation(student, teacher, labels) == pytest.approx(0.75)
    # The other way round it is 1 - |.75 - 1| / .75.
    assert class_relation_preservation(teacher, student, labels) == pytest.approx(2 / 3)
    assert class_relation_preservation(teacher, teacher, labels) == 1.0


def test_preservation_is_the_same_on_log_probabilities() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 60, 4).double()
    labels = torch.arange(60) % 4
    on_logits = class_relation_preservation(student, teacher, labels)
    on_logs = class_relation_preservation(student.log_softmax(1), teacher.log_softmax(1), labels)
    assert on_logits == pytest.approx(on_logs, abs=1e-9)


def _slow_area(logits: Tensor, labels: Tensor, a: int, b: int) -> float:
    score = logits[:, a] - logits[:, b]
    wins = [
        1.0 if s > t else 0.5 if s == t else 0.0
        for s in score[labels == a].tolist()
        for t in score[labels == b].tolist()
    ]
    return sum(wins) / len(wins) if wins else math.nan


def test_areas_equal_the_definition_with_ties_and_uneven_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randint(0, 4, (70, 5), generator=generator).float()
    labels = torch.randint(0, 4, (70,), generator=generator)  # class 4 has no example
    areas = pairwise_areas(logits, labels).tolist()
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    expected = [_slow_area(logits, labels, a, b) for a, b in pairs]
    assert areas == pytest.approx(expected, nan_ok=True)
    preserved = class_relation_preservation(logits + 0, logits, labels)
    assert preserved == 1.0  # pairs with the empty class are left out


def test_one_class_has_no_pair() -> None:
    logits, labels = torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)
    assert math.isnan(class_relation_preservation(logits, logits, labels))


@pytest.mark.parametrize(("classes", "examples", "seconds"), [(10, 5000, 1.0), (100, 10_000, 8.0)])
def test_preservation_is_quick(classes: int, examples: int, seconds: float) -> None:
    student, teacher = torch.randn(2, examples, classes)
    labels = torch.arange(examples) % classes
    start = time.process_time()
    class_relation_preservation(student, teacher, labels)
    assert time.process_time() - start < seconds


def test_agreement_where_the_teacher_is_right_and_wrong() -> None:
    # Labels 0 0 1 1 1; the teacher predicts 0 1 1 0 1, right on three; the student 0 1 0 1 1.
    teacher = torch.eye(2)[[0, 1, 1, 0, 1]]
    student = torch.eye(2)[[0, 1, 0, 1, 1]]
    labels = torch.tensor([0, 0, 1, 1, 1])
    right, wrong = agreement_by_teacher(student, teacher, labels)
    assert right == (pytest.approx(2 / 3), 3) and wrong == (0.5, 2)
    right, wrong = agreement_by_teacher(student, torch.eye(2)[labels], labels)
    assert right == (0.6, 5) and math.isnan(wrong.share) and wrong.examples == 0


def test_right_by_class() -> None:
    logits = torch.eye(4)[[0, 1, 1, 0, 1]]
    right, examples = right_by_class(logits, torch.tensor([0, 0, 1, 1, 1]))
    assert right.tolist() == [1, 2, 0, 0] and examples.tolist() == [2, 3, 0, 0]


def test_reliability_and_overconfidence_by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 0, 1])
    low, high = reliability(probabilities, labels, bins=2)
    assert low == (0.5, 1.0, 1)
    assert high == (pytest.approx(0.8), pytest.approx(2 / 3), 3)
    # Mean confidence (.5 + .9 + .7 + .8) / 4 = .725, accuracy .75.
    assert overconfidence(probabilities, labels) == pytest.approx(-0.025)
    assert reliability(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) == []


def test_mean_relative_drop_by_hand() -> None:
    assert mean_relative_drop(0.8, [0.8, 0.6, 0.4]) == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert math.isnan(mean_relative_drop(0.0, [0.0])) and math.isnan(mean_relative_drop(0.8, []))
