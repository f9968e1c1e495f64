"""The terms that a recipe can name, and objectives made of a recipe's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from nasdistill.common.values import highest, is_schedule
from nasdistill.losses.adversarial import AdversarialLogits
from nasdistill.losses.attention import AttentionMaps
from nasdistill.losses.example_weights import ByExample
from nasdistill.losses.exits import Exits
from nasdistill.losses.features import NST, Features, Gram
from nasdistill.losses.logits import DIST, DKD, JS, KL, Labels, MSELogits, ReverseKL, SoftCE
from nasdistill.losses.objective import MAIN, Objective, Weighted
from nasdistill.losses.relational import CRD, RKD, Similarity
from nasdistill.losses.schedules import Schedule, during, schedule, where_on, within
from nasdistill.losses.term import Term

TERMS: dict[str, type[Term]] = {
    "labels": Labels,
    "kl": KL,
    "reverse_kl": ReverseKL,
    "js": JS,
    "soft_ce": SoftCE,
    "mse_logits": MSELogits,
    "dkd": DKD,
    "dist": DIST,
    "features": Features,
    "attention": AttentionMaps,
    "gram": Gram,
    "similarity": Similarity,
    "rkd": RKD,
    "nst": NST,
    "crd": CRD,
    "adversarial": AdversarialLogits,
    "exits": Exits,
}


class PartOptions(Protocol):
    """Options of an objective, or of a stage of one: the classic pair, or terms."""

    @property
    def alpha(self) -> Any:
        """Weight of the labels in the classic pair: a number or a schedule."""

    @property
    def temperature(self) -> Any:
        """T of the classic pair: a number or a schedule."""

    @property
    def terms(self) -> Sequence[Any] | None:
        """Options of terms; None for the classic pair."""


class StageOptions(PartOptions, Protocol):
    """Options of a stage."""

    @property
    def until(self) -> float:
        """Its end, as a share of the run."""


class ObjectiveOptions(PartOptions, Protocol):
    """Options of an objective, as a recipe holds them."""

    @property
    def stages(self) -> Sequence[StageOptions] | None:
        """Parts of the run, one after the other; None for one."""

    @property
    def examples(self) -> Any:
        """Weights by example; None for on all alike."""

    @property
    def balance(self) -> Any:
        """The measure that the terms' sizes are evened out by; None for not at all."""


def objective_of(options: ObjectiveOptions) -> Objective:
    """The objective that a recipe describes: the classic pair, its terms, or its stages."""
    by_example = None
    if options.examples is not None:
        examples = options.examples
        by_example = ByExample(examples.by, examples.least(), examples.teacher)
    if options.stages is None:
        return Objective(_part(options, 0.0, 1.0), by_example, options.balance)
    staged: dict[str, Weighted] = {}
    start = 0.0
    for number, stage in enumerate(options.stages):
        for index, item in enumerate(_part(stage, start, stage.until)):
            key = _identity(stage, number, index)
            staged[key] = _both(staged[key], item) if key in staged else item
        start = stage.until
    return Objective(list(staged.values()), by_example, options.balance)


def _identity(stage: StageOptions, number: int, index: int) -> str:
    """The same for a term that stands in several stages: it then keeps its projector."""
    if stage.terms is None or any(
        isinstance(value, dict)
        for key, value in stage.terms[index]
        if key not in ("weight", "layers")
    ):
        return f"{number}.{index}"
    return str(stage.terms[index].model_dump_json(exclude={"weight"}))


def _both(first: Weighted, second: Weighted) -> Weighted:
    """One term with the weights of two stages, wherever they act."""

    def added(first: Schedule, second: Schedule) -> Schedule:
        return lambda progress: first(progress) + second(progress)

    term, field = first.term, first.term.weight_field
    if field is not None:
        weights = getattr(term, field), getattr(second.term, field)
        term = replace(term, **{field: added(*weights)})  # type: ignore[type-var]
    return replace(first, term=term, weight=added(first.weight, second.weight))


def _part(options: PartOptions, start: float, end: float) -> list[Weighted]:
    """The terms of an objective or a stage, whose weights are 0 outside of their part of the run.

    Args:
        options: Of the objective or the stage.
        start: Progress at which the part begins.
        end: Progress at which it ends.
    """
    if options.terms is not None:
        return [_weighted(x, start, end) for x in options.terms if highest(x.weight) > 0]
    alpha = schedule(options.alpha)
    temperature = during(schedule(options.temperature), start, end)
    return [
        Weighted(Labels(getattr(options, "label_smoothing", 0.0)), within(alpha, start, end)),
        Weighted(KL(temperature), within(lambda progress: 1.0 - alpha(progress), start, end)),
    ]


def _weighted(options: Any, start: float, end: float) -> Weighted:
    """The term of these options, with its weight and its teacher; see `_part`."""
    arguments = {key: getattr(options, key) for key in type(options).model_fields}
    for key, field in type(options).model_fields.items():
        if is_schedule(field) and key != "weight":
            arguments[key] = during(schedule(arguments[key]), start, end)
    weight = within(schedule(arguments.pop("weight")), start, end)
    term, teacher = TERMS[arguments.pop("term")], arguments.pop("teacher", MAIN)
    if term.weight_field is not None:
        arguments[term.weight_field] = weight
        weight = where_on(weight)
    return Weighted(term.make(**arguments), weight, teacher)
