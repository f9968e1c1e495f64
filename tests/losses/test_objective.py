import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nasdistill.data import Batch
from nasdistill.losses import KL, Labels, Objective, Weighted
from nasdistill.losses.schedules import constant, cosine, linear, schedule, steps
from nasdistill.models.hooks import Outputs

STUDENT = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
TEACHER = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
LABELS = torch.tensor([0, 1])


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def batch() -> Batch:
    ids = torch.arange(2)
    return Batch(STUDENT, LABELS, ids, ids, 0)


def test_labels_is_cross_entropy_per_example() -> None:
    loss_B = Labels()(Outputs(STUDENT), None, batch(), 0.0)
    assert loss_B.tolist() == pytest.approx([softplus(-2.0), math.log(2)], rel=1e-6)


def test_label_smoothing_worked_by_hand() -> None:
    loss_B = Labels(smoothing=0.2)(Outputs(STUDENT), None, batch(), 0.0)
    # 0.9 on the right class, 0.1 on the other.
    assert loss_B[0].item() == pytest.approx(0.9 * softplus(-2.0) + 0.1 * softplus(2.0), rel=1e-6)


def test_class_weights_multiply_the_loss_of_labels_by_class() -> None:
    weights = torch.tensor([3.0, 0.5])
    plain_B = Labels(smoothing=0.2)(Outputs(STUDENT), None, batch(), 0.0)
    loss_B = Labels(0.2, weights)(Outputs(STUDENT), None, batch(), 0.0)
    assert torch.allclose(loss_B, plain_B * weights)
    mixed = replace(batch(), partners=LABELS.flip(0), share=torch.tensor([0.75, 1.0]))
    loss_B = Labels(class_weights=weights)(Outputs(STUDENT), None, mixed, 0.0)
    own, partner = 3.0 * softplus(-2.0), 0.5 * softplus(2.0)
    assert loss_B[0].item() == pytest.approx(0.75 * own + 0.25 * partner, rel=1e-6)
    # All terms on labels of an objective get them, the others stay.
    objective = Objective.classic(constant(0.3), constant(2.0)).with_class_weights(weights)
    labels, kl = (item.term for item in objective.terms)
    assert labels.class_weights is weights and kl == KL(kl.temperature)  # type: ignore[attr-defined]


def test_kl_worked_by_hand_and_scaled_by_the_squared_temperature() -> None:
    loss_B = KL(constant(2.0))(Outputs(STUDENT), Outputs(TEACHER), batch(), 0.0)
    p = 1 / (1 + math.exp(-1.0))  # student's softened probabilities of the first example
    first = 4 * (0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p)))
    q = 1 / (1 + math.exp(-2.0))  # teacher's of the second
    second = 4 * (q * math.log(q / 0.5) + (1 - q) * math.log((1 - q) / 0.5))
    assert loss_B.tolist() == pytest.approx([first, second], rel=1e-5)


def test_kl_is_zero_where_both_agree() -> None:
    loss_B = KL(constant(4.0))(Outputs(TEACHER), Outputs(TEACHER.half()), batch(), 0.0)
    assert loss_B.abs().max().item() < 1e-6


def test_classic_objective_mixes_both_and_reaches_the_student_only() -> None:
    student = nn.Linear(2, 2, bias=False)
    nn.init.eye_(student.weight)
    taught = TEACHER.clone().requires_grad_()
    objective = Objective.classic(constant(0.3), constant(2.0))
    loss = objective([student], [{}], lambda *_: Outputs(taught.detach()), batch(), 0.0)
    labels_B = Labels()(Outputs(STUDENT), None, batch(), 0.0)
    kl_B = KL(constant(2.0))(Outputs(STUDENT), Outputs(TEACHER), batch(), 0.0)
    assert loss.item() == pytest.approx((0.3 * labels_B + 0.7 * kl_B).mean().item(), rel=1e-6)
    loss.backward()
    assert student.weight.grad is not None and student.weight.grad.abs().sum() > 0
    assert taught.grad is None


def test_labels_alone_never_ask_the_teacher() -> None:
    def ask(*_: object) -> Outputs:
        raise AssertionError("asked")

    objective = Objective.labels()
    assert objective.teachers == ()
    objective([nn.Identity()], [{}], ask, batch(), 0.0)


def test_weights_follow_their_schedule() -> None:
    objective = Objective([Weighted(Labels(), linear(1.0, 0.0))])
    begin, end = (objective([nn.Identity()], [{}], None, batch(), p).item() for p in (0.0, 1.0))
    assert begin > 0 and end == 0.0


def test_schedules() -> None:
    assert linear(10.0, 1.0)(0.5) == pytest.approx(5.5)
    assert [cosine(4.0, 2.0)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([4.0, 3.0, 2.0])
    staircase = steps({0.0: 0.3, 0.5: 0.7})
    assert [staircase(p) for p in (0.0, 0.49, 0.5, 1.0)] == [0.3, 0.3, 0.7, 0.7]
    assert schedule({"linear": [0.0, 2.0]})(0.25) == pytest.approx(0.5)
    assert schedule(4)(0.9) == 4.0
