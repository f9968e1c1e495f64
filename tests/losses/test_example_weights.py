"""Weights by example, worked by hand, and groups that are empty."""

from __future__ import annotations

import json
import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses import KL, TERMS, Labels, Objective, Weighted, objective_of
from nasdistill.losses.example_weights import FOLLOWS, ByExample
from nasdistill.losses.schedules import constant
from nasdistill.models.hooks import Outputs
from nasdistill.recipe import ObjectiveOptions
from nasdistill.recipe.objective import ExamplesOptions

# Largest probabilities 0.95, 0.6 and 0.25; right, wrong, right.
P = torch.tensor([[0.95, 0.02, 0.02, 0.01], [0.3, 0.6, 0.05, 0.05], [0.25, 0.25, 0.25, 0.25]])
TAUGHT = P.log()
LABELS = torch.tensor([0, 0, 0])
SAID = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]])


def loss(by: ByExample | None, labels: Tensor = LABELS) -> Tensor:
    objective = Objective(
        [Weighted(Labels(), constant(1.0)), Weighted(KL(constant(2.0)), constant(0.5))], by
    )
    ids = torch.arange(3)
    batch = Batch(SAID, labels, ids, ids, 0)
    return objective([nn.Identity()], [{}], lambda *_: Outputs(TAUGHT), batch, 0.0)


def parts() -> tuple[Tensor, Tensor]:
    student, taught = Outputs(SAID), Outputs(TAUGHT)
    ids = torch.arange(3)
    batch = Batch(SAID, LABELS, ids, ids, 0)
    return Labels()(student, None, batch, 0.0), KL(constant(2.0))(student, taught, batch, 0.0)


@pytest.mark.parametrize(
    ("by", "threshold", "follow", "rest"),
    [
        ("confident", 0.9, [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]),
        ("by_difficulty", 0.3, [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]),
        ("correct_only", 0.9, [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]),
        ("confident", 0.99, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ("by_difficulty", 0.1, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
    ],
)
def test_each_example_counts_once(
    by: str, threshold: float, follow: list[float], rest: list[float]
) -> None:
    labels_B, kl_B = parts()
    worked = (torch.tensor(rest) * labels_B + 0.5 * torch.tensor(follow) * kl_B).sum() / 3
    assert float(loss(ByExample(by, threshold))) == pytest.approx(float(worked), rel=1e-6)


def test_certainty_is_one_less_the_share_of_the_largest_entropy() -> None:
    weight_B, rest = ByExample("entropy", 0.0).weights(TAUGHT, LABELS)
    assert rest == 1.0
    for weight, row in zip(weight_B.tolist(), P.tolist(), strict=True):
        worked = 1 + sum(p * math.log(p) for p in row) / math.log(4)
        assert weight == pytest.approx(worked, abs=1e-6)
    assert weight_B[2].item() == pytest.approx(0.0, abs=1e-6)


def test_all_alike_without() -> None:
    labels_B, kl_B = parts()
    assert float(loss(None)) == pytest.approx(float((labels_B + 0.5 * kl_B).mean()), rel=1e-6)


@pytest.mark.parametrize("by", FOLLOWS)
def test_half_precision_answers_give_weights_within_bounds(by: str) -> None:
    weight_B, _ = ByExample(by, 0.5).weights((40 * TAUGHT).half(), LABELS)
    assert weight_B.dtype == torch.float32
    assert ((weight_B >= 0) & (weight_B <= 1 + 1e-6)).all()


def test_recipes_and_terms_name_the_same() -> None:
    made = {name: objective_of(with_term(name)).terms[-1].term for name in TERMS}
    assert [name for name, term in made.items() if term.coupled] == [
        "dist",
        "similarity",
        "rkd",
        "crd",
    ]
    for name, term in TERMS.items():
        assert term.Options.model_fields["term"].annotation == Literal[name]
    known = ExamplesOptions.model_fields["by"].annotation.__args__  # type: ignore[union-attr]
    assert set(known) == set(FOLLOWS)


def with_term(name: str) -> ObjectiveOptions:
    terms = [{"term": "labels"}, {"term": name}]
    return ObjectiveOptions.model_validate_json(json.dumps({"terms": terms}))
