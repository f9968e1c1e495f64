"""Terms on logits: against figures by hand, an independent formula, and torchdistill's losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nasdistill.data import Batch
from nasdistill.losses import KL, TERMS, Term
from nasdistill.losses.logits import DIST, DKD, JS, MSELogits, ReverseKL, SoftCE, standardised
from nasdistill.losses.schedules import constant
from nasdistill.models.hooks import Outputs

SOFTENED = {
    "kl": KL,
    "reverse_kl": ReverseKL,
    "js": JS,
    "soft_ce": SoftCE,
    "dkd": DKD,
    "dist": DIST,
}
LOGITS = ("labels", *SOFTENED, "mse_logits")
T = 3.0


def make(name: str, temperature: float = T, **options: Any) -> Term:
    if name in SOFTENED:
        return TERMS[name](temperature=constant(temperature), **options)
    return TERMS[name](**options)


def drawn(seed: int, batch: int = 6, classes: int = 5, size: float = 3.0) -> Tensor:
    return size * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = drawn(0), drawn(1)
LABELS = torch.tensor([0, 1, 2, 3, 4, 2])


def loss(term: Term, student: Tensor = STUDENT, teacher: Tensor = TEACHER) -> Tensor:
    ids = torch.arange(len(student))
    batch = Batch(student, LABELS[: len(student)], ids, ids, 0)
    return term(Outputs(student), Outputs(teacher), batch, 0.5)


def p_of(logits: Tensor, row: int, temperature: float = T) -> list[float]:
    powers = [math.exp(float(x) / temperature) for x in logits[row]]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("row", [0, 3])
def test_divergences_against_plain_sums(row: int) -> None:
    s, t = p_of(STUDENT, row), p_of(TEACHER, row)
    mean = [(a + b) / 2 for a, b in zip(s, t, strict=True)]
    worked = {
        "kl": kl(t, s),
        "reverse_kl": kl(s, t),
        "js": (kl(s, mean) + kl(t, mean)) / 2,
        "soft_ce": -sum(a * math.log(b) for a, b in zip(t, s, strict=True)),
    }
    for name, value in worked.items():
        assert float(loss(make(name))[row]) == pytest.approx(T**2 * value, rel=1e-5), name


def test_decoupled_parts_against_plain_sums() -> None:
    for row, label in enumerate(LABELS.tolist()):
        s, t = p_of(STUDENT, row), p_of(TEACHER, row)
        target = kl([t[label], 1 - t[label]], [s[label], 1 - s[label]])
        rest_s, rest_t = ([p for i, p in enumerate(x) if i != label] for x in (s, t))
        rest_s, rest_t = ([p / sum(x) for p in x] for x in (rest_s, rest_t))
        others = kl(rest_t, rest_s)
        value = loss(make("dkd", target=1.0, others=8.0))[row]
        assert float(value) == pytest.approx(T**2 * (target + 8 * others), rel=1e-4)
        # The identity that the paper starts from: KL = TCKD + (1 - teacher's target) · NCKD.
        assert kl(t, s) == pytest.approx(target + (1 - t[label]) * others, rel=1e-6)


def test_mse_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 2.0]])
    assert loss(MSELogits(), student, teacher).tolist() == [4.5]


def test_correlation_forgives_scale_and_shift_of_probabilities() -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).log()
    closer = (0.5 * teacher.exp() + 0.5 / 3).log()  # a linear map of the same probabilities
    term = make("dist", temperature=1.0)
    assert float(loss(term, closer, teacher)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(make("kl", temperature=1.0), closer, teacher).mean()) > 0.01


def test_standardised_logits() -> None:
    shown = standardised(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    assert shown[0].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)
    assert shown[1].tolist() == [0.0, 0.0, 0.0]
    twice = loss(make("kl", standardise=True), 2 * STUDENT + 1, TEACHER)
    assert torch.allclose(twice, loss(make("kl", standardise=True)), atol=1e-4)


def test_the_same_as_torchdistill() -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    outputs = {"it": {"output": STUDENT}}, {"it": {"output": TEACHER}}
    where = ("it", "output", "it", "output")
    theirs = losses.KDLoss(*where, temperature=T, alpha=0.3)(*outputs, LABELS)
    ours = 0.3 * loss(make("labels")).mean() + 0.7 * loss(make("kl")).mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    theirs = losses.LogitStdKDLoss(*where, temperature=T, alpha=0.3)(*outputs, LABELS)
    ours = 0.3 * loss(make("labels")).mean() + 0.7 * loss(make("kl", standardise=True)).mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)
    theirs = losses.DISTLoss(*where, beta=0.7, gamma=1.3, tau=T)(*outputs)
    expected = float(theirs) / T**2  # which torchdistill multiplies by
    assert float(loss(make("dist", inter=0.7, intra=1.3))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOGITS)
def test_contract(name: str) -> None:
    """The contract of a term: shape, finite in half precision, gradients to the student alone."""
    term = make(name)
    student = STUDENT.clone().requires_grad_()
    teacher = TEACHER.clone().requires_grad_()
    value = loss(term, student, teacher.detach())
    assert value.shape == (() if term.coupled else (len(STUDENT),)) and value.dtype == torch.float32
    value.mean().backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None
    for kind in (torch.float16, torch.bfloat16):
        large = (drawn(2, size=60.0).to(kind), drawn(3, size=60.0).to(kind))
        assert loss(term, *large).isfinite().all()
    if name not in ("labels", "soft_ce"):
        assert float(loss(term, TEACHER, TEACHER).abs().max()) < 1e-4
    sure = torch.tensor([[100.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss(term, sure, torch.zeros(1, 5)).mean().backward()
    assert sure.grad is not None and sure.grad.isfinite().all()


@pytest.mark.parametrize("name", SOFTENED)
def test_the_size_of_the_gradient_is_kept_at_all_temperatures(name: str) -> None:
    """By T² for divergences, without it for correlations: it tends to a limit."""
    norms = []
    for temperature in (1.0, 4.0, 16.0, 64.0):
        student = STUDENT.clone().requires_grad_()
        value = loss(make(name, temperature), student).mean()
        (gradient,) = torch.autograd.grad(value, student)
        norms.append(float(gradient.norm()))
    assert norms[3] == pytest.approx(norms[2], rel=0.2), norms
    assert max(norms) < 12 * min(norms), norms  # js is bounded, and so weak at T 1
