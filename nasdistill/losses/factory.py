"""From a recipe's options to an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nasdistill.losses.adversarial import AdversarialFeatures, AdversarialLogits
from nasdistill.losses.attention import AttentionMaps, AttentionRelations
from nasdistill.losses.example_weights import ByExample
from nasdistill.losses.exits import Exits
from nasdistill.losses.features import NST, Features, Gram
from nasdistill.losses.logits import DIST, DKD, JS, KL, Labels, MSELogits, ReverseKL, SoftCE
from nasdistill.losses.objective import MAIN, Objective, Weighted
from nasdistill.losses.relational import CRD, RKD, Similarity
from nasdistill.losses.schedules import Schedule, constant, during, schedule, within
from nasdistill.losses.term import Term
from nasdistill.recipe import ObjectiveOptions, StageOptions


def _attention(of: str, **options: Any) -> Term:
    """Feature maps and transformers' attention are one term to users, two kinds of reading here."""
    if of == "maps":
        return AttentionMaps(**options)
    options.pop("combine")
    return AttentionRelations(of=of, **options)  # type: ignore[arg-type]


def _adversarial(on: str, **options: Any) -> Term:
    if on == "features":
        return AdversarialFeatures(**options)
    return AdversarialLogits(options["strength"], options["width"])


TERMS: dict[str, Callable[..., Term]] = {
    "labels": Labels,
    "kl": KL,
    "reverse_kl": ReverseKL,
    "js": JS,
    "soft_ce": SoftCE,
    "mse_logits": MSELogits,
    "dkd": DKD,
    "dist": DIST,
    "features": Features,
    "attention": _attention,
    "gram": Gram,
    "similarity": Similarity,
    "rkd": RKD,
    "nst": NST,
    "crd": CRD,
    "adversarial": _adversarial,
    "exits": Exits,
}
ACTS_INSIDE = {"adversarial": "strength"}
"""Terms whose weight acts inside them, and what they call it."""


def objective_of(options: ObjectiveOptions) -> Objective:
    """The objective that a recipe describes: the classic pair, its terms, or its stages."""
    by_example = None
    if options.examples is not None:
        given = options.examples
        by_example = ByExample(given.by, given.least(), given.teacher)
    if options.stages is None:
        terms = _part(options, lambda inner: inner, lambda inner: inner)
        return Objective(terms, by_example, options.balance)
    staged: dict[str, Weighted] = {}
    start = 0.0
    for number, stage in enumerate(options.stages):
        begin, end = start, stage.until
        part = _part(
            stage,
            lambda inner, a=begin, b=end: within(inner, a, b),  # type: ignore[misc]
            lambda inner, a=begin, b=end: during(inner, a, b),  # type: ignore[misc]
        )
        for index, item in enumerate(part):
            key = _identity(stage, number, index)
            staged[key] = _both(staged[key], item) if key in staged else item
        start = end
    return Objective(list(staged.values()), by_example, options.balance)


def _identity(stage: StageOptions, number: int, index: int) -> str:
    """The same for a term that stands in several stages: it then keeps its projector."""
    if stage.terms is None or any(
        isinstance(value, dict)
        for key, value in stage.terms[index]
        if key not in ("weight", "layers")
    ):
        return f"{number}.{index}"
    return stage.terms[index].model_dump_json(exclude={"weight"})


def _both(first: Weighted, second: Weighted) -> Weighted:
    """One term with the weights of two stages, wherever they act."""

    def added(one: Schedule, other: Schedule) -> Schedule:
        return lambda progress: one(progress) + other(progress)

    term = first.term
    if isinstance(term, (AdversarialLogits, AdversarialFeatures)):
        assert isinstance(second.term, (AdversarialLogits, AdversarialFeatures))
        term = replace(term, strength=added(term.strength, second.term.strength))
    return replace(first, term=term, weight=added(first.weight, second.weight))


Place = Callable[[Schedule], Schedule]


def _part(options: Any, weight: Place, value: Place) -> list[Weighted]:
    """The terms of an objective or a stage.

    Args:
        options: Of either.
        weight: Puts a weight's schedule into its place in the run.
        value: Puts any other schedule there.
    """
    if options.terms is not None:
        return [_weighted(item, weight, value) for item in options.terms]
    alpha = schedule(options.alpha)
    return [
        Weighted(Labels(getattr(options, "label_smoothing", 0.0)), weight(alpha)),
        Weighted(
            KL(value(schedule(options.temperature))), weight(lambda progress: 1.0 - alpha(progress))
        ),
    ]


def _weighted(item: Any, weight: Place, value: Place) -> Weighted:
    outside = ("term", "weight", "teacher")
    given = {k: getattr(item, k) for k in type(item).model_fields if k not in outside}
    if "temperature" in given:
        given["temperature"] = value(schedule(given["temperature"]))
    own = weight(schedule(item.weight))
    if item.term in ACTS_INSIDE:
        given[ACTS_INSIDE[item.term]] = own
        own = weight(constant(1.0))
    return Weighted(TERMS[item.term](**given), own, getattr(item, "teacher", MAIN))
