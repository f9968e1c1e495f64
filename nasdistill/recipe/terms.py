"""The terms of an objective, as a recipe writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from nasdistill.common.types import Closed
from nasdistill.recipe.values import ScheduleText, no_less, positive

Weight = Annotated[ScheduleText, AfterValidator(no_less)]
Temperature = Annotated[ScheduleText, AfterValidator(positive)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _layers(value: Any) -> Any:
    """`auto`, or the teacher's layers by the student's; one layer may stand without its list."""
    if value == "auto":
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            "write auto, or the teacher's layers by the student's: {0: 0, 1: [2, 3]} or "
            "{stage1: layer2}"
        )
    read = {}
    for student, teachers in value.items():
        listed = teachers if isinstance(teachers, (list, tuple)) else [teachers]
        if not listed or not all(_is_layer(one) for one in (student, *listed)):
            raise ValueError(f"{student!r}: {teachers!r} is not a layer's name or number")
        read[str(student)] = tuple(str(one) for one in listed)
    return read


def _is_layer(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


Layers = Annotated[Literal["auto"] | dict[str, tuple[str, ...]], BeforeValidator(_layers)]


class LabelsOptions(Closed):
    """`labels`: cross-entropy against the labels."""

    term: Literal["labels"]
    weight: Weight = 1.0
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class AskingOptions(Closed):
    """What terms that ask a teacher have in common.

    Attributes:
        weight: In the sum.
        teacher: Who is asked: `teacher`, or a name from the recipe's `teachers`.
    """

    weight: Weight = 1.0
    teacher: str = "teacher"


class LogitsOptions(AskingOptions):
    """What terms on the teacher's logits have in common.

    Attributes:
        temperature: T, above 0; the loss is multiplied by T².
        standardise: Whether each example's logits are brought to mean 0 and standard deviation 1
            before they are divided by T.
    """

    temperature: Temperature = 4.0
    standardise: bool = False


class KLOptions(LogitsOptions):
    """`kl`: KL(teacher ‖ student)."""

    term: Literal["kl"]


class ReverseKLOptions(LogitsOptions):
    """`reverse_kl`: KL(student ‖ teacher)."""

    term: Literal["reverse_kl"]


class JSOptions(LogitsOptions):
    """`js`: the Jensen-Shannon divergence."""

    term: Literal["js"]


class SoftCEOptions(LogitsOptions):
    """`soft_ce`: cross-entropy against the teacher's distribution."""

    term: Literal["soft_ce"]


class MSELogitsOptions(AskingOptions):
    """`mse_logits`: the mean squared difference of logits."""

    term: Literal["mse_logits"]
    standardise: bool = False


class DKDOptions(LogitsOptions):
    """`dkd`: target and non-target class apart.

    Attributes:
        target: Weight of the target class's part, the paper's α.
        others: Weight of the other classes' part, the paper's β.
    """

    term: Literal["dkd"]
    target: Factor = 1.0
    others: Factor = 8.0


class DISTOptions(LogitsOptions):
    """`dist`: correlations between classes, and between examples.

    Attributes:
        inter: Weight of the correlation over classes, the paper's β.
        intra: Weight of the correlation over the examples of a batch, the paper's γ.
    """

    term: Literal["dist"]
    temperature: Temperature = 1.0
    inter: Factor = 1.0
    intra: Factor = 1.0


class LayersOptions(AskingOptions):
    """What terms on intermediate outputs have in common.

    Attributes:
        layers: The teacher's layers by the student's, by name or number; `auto` finds them.
        combine: What is done with several layers of the teacher: their `mean`, or `concat` along
            the channels.
    """

    layers: Layers = "auto"
    combine: Literal["mean", "concat"] = "mean"


class FeaturesOptions(LayersOptions):
    """`features`: mean squared error between feature maps.

    Attributes:
        resize: Where sizes differ: `pool` the larger to the smaller, or `bilinear`, the teacher's
            to the student's.
    """

    term: Literal["features"]
    resize: Literal["pool", "bilinear"] = "pool"


class AttentionOptions(LayersOptions):
    """`attention`: where a model looks.

    Attributes:
        of: `maps` of features (channels squared and summed), attention `matrices` of transformers,
            or relations of their `values`.
        loss: `mse`, `kl` or `cosine`.
    """

    term: Literal["attention"]
    of: Literal["maps", "matrices", "values"] = "maps"
    loss: Literal["mse", "kl", "cosine"] = "mse"

    @model_validator(mode="after")
    def _matrices_have_no_channels(self) -> AttentionOptions:
        if self.of != "maps" and self.combine != "mean":
            raise ValueError(f"{self.of} of several layers are averaged; concat is for maps")
        return self


class GramOptions(LayersOptions):
    """`gram`: cosines between channels, softened by a temperature.

    Attributes:
        temperature: Of the cosines.
    """

    term: Literal["gram"]
    temperature: Temperature = 0.2


class SimilarityOptions(LayersOptions):
    """`similarity`: how alike the examples of a batch are."""

    term: Literal["similarity"]


class RKDOptions(LayersOptions):
    """`rkd`: distances and angles between the examples of a batch.

    Attributes:
        distance: Weight of the distances.
        angle: Weight of the angles.
    """

    term: Literal["rkd"]
    distance: Factor = 1.0
    angle: Factor = 2.0


class NSTOptions(LayersOptions):
    """`nst`: where neurons are active, as a distribution over positions."""

    term: Literal["nst"]


class CRDOptions(LayersOptions):
    """`crd`: the teacher's picture of an example, told from those of the batch's others.

    Attributes:
        temperature: Of the cosines.
        width: Of the space in which they are compared.
    """

    term: Literal["crd"]
    temperature: Temperature = 0.1
    width: int = Field(default=128, ge=2, le=4096)


class AdversarialOptions(LayersOptions):
    """`adversarial`: a discriminator tells teacher from student, the student learns to fool it.

    Attributes:
        on: `logits` or `features` (pooled).
        width: Of the discriminator's hidden layers.
        weight: How strongly the student is driven; the discriminator learns at full strength.
    """

    term: Literal["adversarial"]
    on: Literal["logits", "features"] = "logits"
    width: int = Field(default=128, ge=2, le=4096)
    weight: Weight = 0.1

    @model_validator(mode="after")
    def _logits_have_no_layers(self) -> AdversarialOptions:
        given = [name for name in ("layers", "combine") if name in self.model_fields_set]
        if self.on == "logits" and given:
            raise ValueError(f"{given[0]} goes with on: features; found on: logits")
        return self


class ExitsOptions(Closed):
    """`exits`: shallow layers get classifiers of their own, taught by the student's last layer.

    Attributes:
        layers: Names or numbers of the student's layers; all but the last if `auto`.
        soft: Share of the student's own answer against the labels.
        temperature: Of that answer.
    """

    term: Literal["exits"]
    weight: Weight = 1.0
    layers: Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(lambda v: _row(v))] = (
        "auto"
    )
    soft: float = Field(default=0.5, ge=0, le=1)
    temperature: Temperature = 4.0


def _row(value: Any) -> Any:
    if value == "auto":
        return value
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_layer, value)):
        raise ValueError("write auto, or a list of the student's layers: [0, 1] or [stage0]")
    return tuple(str(one) for one in value)


TermOptions: TypeAlias = Annotated[
    LabelsOptions
    | KLOptions
    | ReverseKLOptions
    | JSOptions
    | SoftCEOptions
    | MSELogitsOptions
    | DKDOptions
    | DISTOptions
    | FeaturesOptions
    | AttentionOptions
    | GramOptions
    | SimilarityOptions
    | RKDOptions
    | NSTOptions
    | CRDOptions
    | AdversarialOptions
    | ExitsOptions,
    Field(discriminator="term"),
]

TERM_OPTIONS: dict[str, type[Closed]] = {
    "labels": LabelsOptions,
    "kl": KLOptions,
    "reverse_kl": ReverseKLOptions,
    "js": JSOptions,
    "soft_ce": SoftCEOptions,
    "mse_logits": MSELogitsOptions,
    "dkd": DKDOptions,
    "dist": DISTOptions,
    "features": FeaturesOptions,
    "attention": AttentionOptions,
    "gram": GramOptions,
    "similarity": SimilarityOptions,
    "rkd": RKDOptions,
    "nst": NSTOptions,
    "crd": CRDOptions,
    "adversarial": AdversarialOptions,
    "exits": ExitsOptions,
}

COUPLED = ("dist", "similarity", "rkd", "crd")
"""Terms whose examples depend on each other: they have no loss of one example."""

ONE_LABEL = ("dkd",)
"""Terms that need one label for each example, and so no mixed ones."""
