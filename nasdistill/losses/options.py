"""Options of terms as a recipe writes them: what several terms have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nasdistill.common.types import Closed
from nasdistill.common.values import Temperature, Weight

Combine = Literal["mean", "concat"]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _layer_pairs(value: Any) -> Any:
    """`auto`, or the teacher's layers by the student's; one layer may stand without its list."""
    if value == "auto":
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            "write auto, or the teacher's layers by the student's: {0: 0, 1: [2, 3]} or "
            "{stage1: layer2}"
        )
    pairs = {}
    for student, teachers in value.items():
        listed = teachers if isinstance(teachers, (list, tuple)) else [teachers]
        if not listed or not all(_is_layer(key) for key in (student, *listed)):
            raise ValueError(f"{student!r}: {teachers!r} is not a layer's name or number")
        pairs[str(student)] = tuple(str(key) for key in listed)
    return pairs


def _student_layers(value: Any) -> Any:
    if value == "auto":
        return value
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_layer, value)):
        raise ValueError("write auto, or a list of the student's layers: [0, 1] or [stage0]")
    return tuple(str(key) for key in value)


def _is_layer(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


LayerPairs = Annotated[Literal["auto"] | dict[str, tuple[str, ...]], BeforeValidator(_layer_pairs)]
StudentLayers = Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(_student_layers)]


class TermOptions(Closed):
    """Options of a term.

    Each class of options declares `term`, a `Literal` of the term's name in `TERMS`, and `weight`,
    the term's weight in the sum. All other keys but `teacher` are arguments of the term's `make`.
    """


class AskingOptions(TermOptions):
    """Options of a term that asks a teacher.

    Attributes:
        weight: In the sum.
        teacher: The teacher that is asked: `teacher`, or a name from the recipe's `teachers`.
    """

    weight: Weight = 1.0
    teacher: str = "teacher"


class LogitsOptions(AskingOptions):
    """Options of a term on the teacher's logits.

    Attributes:
        temperature: T, above 0; the loss is multiplied by T², but for `dist`.
        standardise: Whether each example's logits are brought to mean 0 and standard deviation 1
            before they are divided by T.
    """

    temperature: Temperature = 4.0
    standardise: bool = False


class LayersOptions(AskingOptions):
    """Options of a term on intermediate outputs.

    Attributes:
        layers: The teacher's layers by the student's, by name or number; `auto` finds them.
        combine: How several layers of the teacher become one: their `mean`, or `concat` along the
            channels.
    """

    layers: LayerPairs = "auto"
    combine: Combine = "mean"
