"""From a recipe's options to an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nasdistill.objective.examples import ByExample
from nasdistill.objective.logits import DIST, DKD, JS, KL, Labels, MSELogits, ReverseKL, SoftCE
from nasdistill.objective.objective import Objective, Weighted
from nasdistill.objective.schedules import schedule
from nasdistill.objective.terms import Term
from nasdistill.recipe import ObjectiveOptions

TERMS: dict[str, Callable[..., Term]] = {
    "labels": Labels,
    "kl": KL,
    "reverse_kl": ReverseKL,
    "js": JS,
    "soft_ce": SoftCE,
    "mse_logits": MSELogits,
    "dkd": DKD,
    "dist": DIST,
}


def objective_of(options: ObjectiveOptions) -> Objective:
    """The objective that a recipe describes: its terms, or the classic pair."""
    by_example = None
    if options.examples is not None:
        by_example = ByExample(options.examples.by, options.examples.least())
    if options.terms is None:
        return Objective.classic(
            schedule(options.alpha),
            schedule(options.temperature),
            options.label_smoothing,
            by_example,
        )
    return Objective([_weighted(item) for item in options.terms], by_example)


def _weighted(item: Any) -> Weighted:
    given = {k: getattr(item, k) for k in type(item).model_fields if k not in ("term", "weight")}
    if "temperature" in given:
        given["temperature"] = schedule(given["temperature"])
    return Weighted(TERMS[item.term](**given), schedule(item.weight))
