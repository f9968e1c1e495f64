"""What a student is trained on, as a recipe says it: the classic pair, or a list of terms."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from nasdistill.options import Closed
from nasdistill.recipe_values import ScheduleText, highest, no_less, positive, share

Weight = Annotated[ScheduleText, AfterValidator(no_less)]
Temperature = Annotated[ScheduleText, AfterValidator(positive)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LabelsOptions(Closed):
    """`labels`: cross-entropy against the labels."""

    term: Literal["labels"]
    weight: Weight = 1.0
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class LogitsOptions(Closed):
    """What terms on the teacher's logits have in common.

    Attributes:
        temperature: T, above 0; the loss is multiplied by T².
        standardise: Whether each example's logits are brought to mean 0 and standard deviation 1
            before they are divided by T.
    """

    weight: Weight = 1.0
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


class MSELogitsOptions(Closed):
    """`mse_logits`: the mean squared difference of logits."""

    term: Literal["mse_logits"]
    weight: Weight = 1.0
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


TermOptions: TypeAlias = Annotated[
    LabelsOptions
    | KLOptions
    | ReverseKLOptions
    | JSOptions
    | SoftCEOptions
    | MSELogitsOptions
    | DKDOptions
    | DISTOptions,
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
}


COUPLED = ("dist",)
"""Terms whose examples depend on each other: they have no loss of one example."""


class ExamplesOptions(Closed):
    """How far the teacher is followed on each example.

    Attributes:
        by: `confident` and `by_difficulty` follow it where its largest probability is above the
            threshold, and the labels elsewhere; `correct_only` where it is right; `entropy` by how
            sure it is.
        threshold: A probability: 0.9 for `confident`, 0.3 for `by_difficulty` if not given.
    """

    by: Literal["confident", "by_difficulty", "correct_only", "entropy"]
    threshold: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _threshold_fits(self) -> ExamplesOptions:
        if self.threshold is not None and self.by in ("correct_only", "entropy"):
            raise ValueError(f"{self.by} has no threshold")
        return self

    def least(self) -> float:
        """The threshold, given or not."""
        if self.threshold is not None:
            return self.threshold
        return 0.3 if self.by == "by_difficulty" else 0.9


class ObjectiveOptions(Closed):
    """α·labels + (1 − α)·T²·KL, or a weighted sum of terms.

    Attributes:
        alpha: Weight of the labels, 0 to 1: a number or a schedule over the run's progress.
        temperature: T, above 0: a number or a schedule.
        label_smoothing: Share of a label's mass that is spread over all classes.
        terms: What is matched instead; the three keys above then keep their defaults.
        examples: How far the teacher is followed on each example; on all alike if not given.
    """

    alpha: Annotated[ScheduleText, AfterValidator(share)] = 0.1
    temperature: Temperature = 4.0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    terms: tuple[TermOptions, ...] | None = None
    examples: ExamplesOptions | None = None

    @model_validator(mode="after")
    def _either_or(self) -> ObjectiveOptions:
        if self.terms is None:
            return self
        if not self.terms:
            raise ValueError("terms: at least one is needed")
        if all(highest(item.weight) == 0 for item in self.terms):
            raise ValueError("terms: all weights are zero, so nothing would be learned")
        fields = type(self).model_fields
        for name in ("alpha", "temperature", "label_smoothing"):
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"give either terms or {name}; terms have weights of their own")
        if self.examples is not None:
            self._check_examples()
        return self

    def _check_examples(self) -> None:
        coupled = [name for name in self.names() if name in COUPLED]
        if coupled:
            raise ValueError(
                f"examples: {', '.join(coupled)} couples the examples of a batch, so that none has "
                "a weight of its own"
            )
        if set(self.names()) == {"labels"}:
            raise ValueError("examples: no term asks the teacher")

    def names(self) -> tuple[str, ...]:
        """Names of the terms."""
        if self.terms is None:
            return ("labels", "kl")
        return tuple(item.term for item in self.terms)
