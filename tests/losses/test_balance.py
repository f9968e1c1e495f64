"""Terms of different size, brought to one scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import conv, objective, run_of, teacher_of
from small_study import write_blobs
from torch import Tensor, nn

from nasdistill.data import Dataset, load_data
from nasdistill.losses.balance import EVERY, Balance
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import CachedTargets
from nasdistill.training import Run, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


def test_value_by_hand() -> None:
    balance = Balance("value", 3)
    first = balance({0: torch.tensor(4.0), 2: torch.tensor(0.5)}, [])
    assert {key: float(x) for key, x in first.items()} == {0: 1.0, 2: 1.0}
    second = balance({0: torch.tensor(2.0)}, [])
    size = 0.95 * 4 + 0.05 * 2
    assert float(second[0]) == pytest.approx(2 / size)
    third = balance({0: torch.tensor(3.0), 2: torch.tensor(0.5)}, [])
    assert float(third[0]) == pytest.approx(3 / (0.95 * size + 0.05 * 3))
    assert float(third[2]) == pytest.approx(1.0)
    assert balance.size.tolist() == pytest.approx([0.95 * size + 0.15, 0.0, 0.5])


def test_gradients_have_norm_one_after() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    balance = Balance("gradient", 2)

    def losses() -> dict[int, Tensor]:
        return {
            0: 100.0 * weight.square().sum(),
            1: 0.01 * (weight * torch.tensor([3.0, 4.0])).sum(),
        }

    even = balance(losses(), [weight])
    # Gradients 200·(1, 2) and 0.01·(3, 4).
    assert balance.size.tolist() == pytest.approx([200 * 5**0.5, 0.05])
    for loss in even.values():
        (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert float(grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_gradients_are_looked_at_every_tenth_step() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    balance, sizes = Balance("gradient", 1), []
    for step in range(EVERY + 1):
        balance({0: (1.0 + step) * weight.sum()}, [weight])
        sizes.append(float(balance.size))
    assert sizes[:EVERY] == [1.0] * EVERY
    assert sizes[EVERY] == pytest.approx(0.95 * 1.0 + 0.05 * 11.0)


@pytest.mark.parametrize("kind", ["value", "gradient"])
def test_a_term_that_begins_with_nothing_is_not_blown_up(kind: Any) -> None:
    """As where no example of the first batch is followed, or known."""
    weight = nn.Parameter(torch.tensor([1.0]))
    balance = Balance(kind, 1)
    balance({0: 0.0 * weight.sum()}, [weight])
    for _ in range(EVERY + 2):
        (even,) = balance({0: 3.0 * weight.sum()}, [weight]).values()
        assert 0.5 < even.item() <= 3.0
    assert even.item() == pytest.approx(1.0)


def teachers(data: Dataset, folder: Path) -> dict[str, Any]:
    teacher = teacher_of(conv((6, 8, 10), seed=5))
    return {"teacher": CachedTargets(teacher, LogitCache(teacher, data, folder))}


@pytest.mark.parametrize("kind", ["value", "gradient"])
def test_a_run_with_terms_of_other_size_is_balanced_and_restored(
    kind: str, data: Dataset, tmp_path: Path
) -> None:
    targets = teachers(data, tmp_path)

    def make() -> Run:
        run_objective = objective(
            {"term": "labels"},
            {"term": "features", "weight": 0.5},
            {"term": "kl", "temperature": 20.0, "weight": {"steps": {0: 0, 0.4: 1}}},
            balance=kind,
        )
        made = run_of(data, [conv((4, 6, 8))], run_objective, targets)
        made.targets["teacher"].prepare(made.stream.plan(0, 30))
        return made

    def size(run: Run) -> Tensor:
        return run.auxiliaries[0].get_submodule("balance").get_buffer("size")

    whole = make()
    for _ in train(whole, 12 * 50):
        pass
    assert (size(whole) > 0).all()
    first = make()
    for _ in train(first, 3 * 50):
        pass
    assert size(first)[2] == 0.0, "a term that is off has no size"
    first.save(tmp_path / "run.pt")
    second = make()
    second.restore(tmp_path / "run.pt")
    branch = first.branch(first.lr_schedule)
    for run in (second, branch):
        for _ in train(run, 12 * 50):
            pass
        assert torch.equal(size(run), size(whole))
        for one, other in zip(run.students.parameters(), whole.students.parameters(), strict=True):
            assert torch.equal(one, other)
    assert first.auxiliaries[0].get_submodule("balance").get_extra_state() == [3, 3, 0]
    # Evened out, the features' loss counts half of the labels'.
    plan = list(whole.stream.plan(12, 13))
    (batch,) = data.train.batches(plan, whole.size, whole.sizes)
    loss = float(whole.loss(batch).detach())
    assert loss == pytest.approx(2.5, rel=0.5) if kind == "value" else loss > 0
