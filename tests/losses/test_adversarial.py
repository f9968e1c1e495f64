"""Two sides in one step: the student's gradient is turned round, the discriminator's is not."""

from __future__ import annotations

import math

import pytest
import torch
from model_helpers import bound, compared, conv, loss_of, objective, pictures, term
from torch import Tensor, nn

from nasdistill.losses.adversarial import (
    AdversarialFeatures,
    AdversarialLogits,
    Discriminator,
    _sides,
    reverse,
)
from nasdistill.losses.layer_pairs import Pair
from nasdistill.losses.logits import standardised
from nasdistill.losses.schedules import constant, linear


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def judge(inside: int = 3) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(inside, 8)


def grads(strength: float) -> tuple[Tensor, list[Tensor]]:
    """Of the student's side, and of the discriminator."""
    student, discriminator = drawn(5, 3).requires_grad_(), judge()
    torch.autograd.backward(_sides(discriminator, student, drawn(5, 3, seed=1), strength).mean())
    assert student.grad is not None
    return student.grad, [p.grad for p in discriminator.parameters() if p.grad is not None]


def test_the_gradient_is_turned_round() -> None:
    x = drawn(4, 2).requires_grad_()
    weight = drawn(4, 2, seed=1)
    y = reverse(x, 0.3)
    assert torch.equal(y, x)
    torch.autograd.backward((weight * y).sum())
    torch.testing.assert_close(x.grad, -0.3 * weight)


def test_strength_acts_on_the_student_alone() -> None:
    discriminator, student = judge(), drawn(5, 3).requires_grad_()
    plain_loss = nn.functional.softplus(discriminator(student).squeeze(1)).mean()
    (plain,) = torch.autograd.grad(plain_loss, student)
    weak, judged_weakly = grads(0.1)
    strong, judged_strongly = grads(2.0)
    torch.testing.assert_close(weak, -0.1 * plain)
    torch.testing.assert_close(strong, -2.0 * plain)
    assert len(judged_weakly) == 6
    for one, other in zip(judged_weakly, judged_strongly, strict=True):
        assert torch.equal(one, other)
    assert not grads(0.0)[0].any()


def test_the_loss_is_the_cross_entropy_of_both_sides() -> None:
    discriminator, student, teacher = judge(), drawn(5, 3), drawn(5, 3, seed=1)
    with torch.no_grad():
        loss = _sides(discriminator, student, teacher, 1.0)
        says = [[float(discriminator(x[i : i + 1])) for i in range(5)] for x in (student, teacher)]
    for value, mine, theirs in zip(loss.tolist(), *says, strict=True):
        p, q = (1 / (1 + math.exp(-x)) for x in (mine, theirs))
        assert value == pytest.approx(-math.log(1 - p) - math.log(q), rel=1e-4)


def test_the_discriminator_learns_to_tell_them_apart() -> None:
    student, teacher = drawn(40, 3) + 1.0, drawn(40, 3, seed=1) - 1.0
    discriminator = judge()
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.02)
    for _ in range(60):
        loss = _sides(discriminator, student, teacher, 0.1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = (discriminator(student) < 0).float().mean() + (
            discriminator(teacher) > 0
        ).float().mean()
    assert float(right) / 2 > 0.9 and loss.item() < 2 * math.log(2) / 2


def test_the_student_comes_to_fool_it() -> None:
    """Both sides in one step, as in a run: the student's mean moves to the teacher's."""
    student, teacher = nn.Parameter(drawn(64, 2) + 2.0), drawn(64, 2, seed=1)
    discriminator = judge(2)
    optimizer = torch.optim.Adam([student, *discriminator.parameters()], 0.02)
    before = float((student.mean(0) - teacher.mean(0)).norm().detach())
    for _ in range(200):
        loss = _sides(discriminator, student, teacher, 1.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = float((student.mean(0) - teacher.mean(0)).norm().detach())
    assert after < before / 3


def test_logits_are_judged_standardised() -> None:
    made = AdversarialLogits(constant(1.0), 8)
    student, teacher = conv(), conv((6, 10, 12), seed=1)
    made_bound = bound(made, student, teacher)
    torch.manual_seed(0)
    helper = made_bound.auxiliary()
    assert isinstance(helper, Discriminator) and helper[0].in_features == 3
    images = pictures(4)
    loss = loss_of(made_bound, student.eval(), teacher.eval(), images, helper)
    with torch.no_grad():
        sides = [standardised(model(images)) for model in (student, teacher)]
        torch.testing.assert_close(loss, _sides(helper, *sides, 1.0), atol=1e-5, rtol=1e-4)


def test_features_are_judged_pooled_and_projected() -> None:
    made = AdversarialFeatures(strength=constant(0.5), width=8)
    torch.manual_seed(0)
    helper = made.helper(Pair("a", ("b",), (4, 2, 2), ((6, 3, 3),)))
    assert isinstance(helper, nn.ModuleDict)
    student, teacher = drawn(5, 4, 2, 2), drawn(5, 6, 3, 3, seed=1)
    project, discriminator = helper["project"], helper["judge"]
    assert isinstance(project, nn.Linear)
    assert (project.in_features, project.out_features) == (4, 6)
    with torch.no_grad():
        mine = project(student.mean(dim=(2, 3)))
        worked = _sides(discriminator, mine, teacher.mean(dim=(2, 3)), 0.5)
        torch.testing.assert_close(compared(made, student, teacher, helper), worked)


def test_the_weight_of_a_recipe_is_the_strength() -> None:
    made = term("adversarial", weight={"linear": [0.0, 0.4]}, width=16)
    assert isinstance(made, AdversarialLogits)
    assert [made.strength(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.2, 0.4])
    assert made.width == 16 and linear(0.0, 0.4)(0.5) == made.strength(0.5)


def test_a_weight_of_zero_costs_nothing() -> None:
    for on in ("logits", "features"):
        none = objective({"term": "labels"}, {"term": "adversarial", "on": on, "weight": 0})
        assert len(none.terms) == 1 and not none.teachers and not none.reads_layers
        late = objective(
            {"term": "labels"},
            {"term": "adversarial", "on": on, "weight": {"steps": {0: 0, 0.5: 0.1}}},
        )
        assert [late.active(progress) for progress in (0.0, 0.4, 0.5)] == [(0,), (0,), (0, 1)]
