"""Objectives of a recipe: terms, stages, who teaches, what is fed."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from nasdistill.common.types import Closed
from nasdistill.common.values import Alpha, Temperature, highest
from nasdistill.recipe.terms import TermOptions, known_terms


class ExamplesOptions(Closed):
    """Weights by example: how far the teacher is followed on each.

    Attributes:
        by: `confident` and `by_difficulty` follow it where its largest probability is above the
            threshold, and the labels elsewhere; `correct_only` where it is right; `entropy` by how
            sure it is.
        threshold: A probability: 0.9 for `confident`, 0.3 for `by_difficulty` if not given.
        teacher: Whose answers decide.
    """

    by: Literal["confident", "by_difficulty", "correct_only", "entropy"]
    threshold: float | None = Field(default=None, gt=0, lt=1)
    teacher: str = "teacher"

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


class MixOptions(Closed):
    """Two examples shown as one.

    Attributes:
        kind: `mixup` blends them, `cutmix` puts a piece of one into the other.
        alpha: Of the Beta distribution that their shares are drawn from.
    """

    kind: Literal["mixup", "cutmix"]
    alpha: float = Field(default=1.0, gt=0, le=100)


class RandAugmentOptions(Closed):
    """Random operations on each view.

    Attributes:
        operations: How many, one after the other.
        magnitude: How strong, of 30.
    """

    operations: int = Field(default=2, ge=1, le=8)
    magnitude: int = Field(default=9, ge=0, le=30)


class SyntheticOptions(Closed):
    """Images made from the teacher alone; no training image is used.

    Attributes:
        images: How many.
        steps: Optimisation steps for each.
    """

    images: int = Field(default=2560, ge=2)
    steps: int = Field(default=60, ge=1)


class FeedOptions(Closed):
    """The feed of students, where it is not plain views.

    Attributes:
        cut_out: Side of a square that is blackened in each view, as a share of the picture's.
    """

    mix: MixOptions | None = None
    rand_augment: RandAugmentOptions | None = None
    cut_out: float | None = Field(default=None, gt=0, lt=1)
    synthetic: SyntheticOptions | None = None


class StageOptions(Closed):
    """A part of a run with an objective of its own: the classic pair, or terms.

    Attributes:
        until: Where it ends, as a share of the run; the last ends at 1. It begins where the one
            before ends. Schedules inside run from its begin to its end.
    """

    until: float = Field(gt=0, le=1)
    alpha: Alpha = 0.1
    temperature: Temperature = 4.0
    terms: tuple[TermOptions, ...] | None = None

    @model_validator(mode="after")
    def _either_or(self) -> StageOptions:
        _check_terms(self, ("alpha", "temperature"))
        return self


class ObjectiveOptions(Closed):
    """α·labels + (1 − α)·T²·KL, a weighted sum of terms, or stages of these.

    Attributes:
        alpha: Weight of the labels, 0 to 1: a number or a schedule over the run's progress.
        temperature: T, above 0: a number or a schedule.
        label_smoothing: Share of a label's mass that is spread over all classes.
        terms: What is matched instead; the three keys above then keep their defaults.
        stages: Parts of the run, one after the other; all four keys above then keep theirs.
        examples: How far the teacher is followed on each example; on all alike if not given.
        balance: Brings terms to one size by their running `value` or norm of `gradient`.
        feed: What students are fed.
    """

    alpha: Alpha = 0.1
    temperature: Temperature = 4.0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    terms: tuple[TermOptions, ...] | None = None
    stages: tuple[StageOptions, ...] | None = None
    examples: ExamplesOptions | None = None
    balance: Literal["value", "gradient"] | None = None
    feed: FeedOptions = FeedOptions()

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveOptions:
        _check_terms(self, ("alpha", "temperature", "label_smoothing"))
        if self.stages is not None:
            _check_stages(self)
        if self.examples is not None:
            self._check_examples()
        if self.balance is not None:
            self._check_balance()
        if self.feed.mix is not None:
            self._check_mixing()
        if self.feed.synthetic is not None and set(self.names()) == {"labels"}:
            raise ValueError("feed.synthetic: no term asks the teacher, who alone knows the images")
        return self

    def _named(self, attribute: str) -> list[str]:
        """Names of the terms of which an attribute holds; none where no term is written out."""
        if all(terms is None for terms in self.parts()):
            return []
        return [name for name in self.names() if getattr(known_terms()[name], attribute)]

    @property
    def coupled(self) -> list[str]:
        """Names of all that makes a batch's examples depend on each other."""
        return self._named("coupled") + (["balance"] if self.balance is not None else [])

    def _check_balance(self) -> None:
        two_sided = self._named("adversarial")
        if two_sided:
            names = ", ".join(two_sided)
            raise ValueError(f"balance: {names} has two sides, which no scale can even out")

    def _check_examples(self) -> None:
        coupled = self._named("coupled")
        if coupled:
            raise ValueError(
                f"examples: {', '.join(coupled)} couples the examples of a batch, so that none has "
                "a weight of its own"
            )
        if None not in self.parts() and not self._named("asks_teacher"):
            raise ValueError("examples: no term asks the teacher")

    def _check_mixing(self) -> None:
        one_label = self._named("one_label")
        if one_label:
            raise ValueError(f"feed.mix: {', '.join(one_label)} needs one label for each example")
        if self.examples is not None and self.examples.by == "correct_only":
            raise ValueError("feed.mix: whether a teacher is right on a mixed example is not known")

    def parts(self) -> tuple[Sequence[Any] | None, ...]:
        """The lists of terms, one for each stage; None for the classic pair."""
        return (self.terms,) if self.stages is None else tuple(s.terms for s in self.stages)

    def names(self) -> tuple[str, ...]:
        """Names of the terms, each once."""
        names: list[str] = []
        for terms in self.parts():
            names += ("labels", "kl") if terms is None else (item.term for item in terms)
        return tuple(dict.fromkeys(names))

    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that are asked, each once."""
        names: list[str] = []
        for terms in self.parts():
            names += ["teacher"] if terms is None else []
            names += [item.teacher for item in terms or () if hasattr(item, "teacher")]
        if self.examples is not None:
            names.append(self.examples.teacher)
        return tuple(dict.fromkeys(names))

    def label_readers(self) -> tuple[str, ...]:
        """The keys and names of all by which an example's label enters the loss, each once."""
        names: list[str] = []
        parts: Sequence[Any] = self.stages or (self,)
        for part in parts:
            if part.terms is None:
                names += ["alpha"] if highest(part.alpha) > 0 else []
                continue
            weighted = [item.term for item in part.terms if highest(item.weight) > 0]
            names += [name for name in weighted if known_terms()[name].reads_labels]
        if self.examples is not None and self.examples.by == "correct_only":
            names.append("examples: correct_only")
        return tuple(dict.fromkeys(names))

    def without_classes(self, of_student: Container[str]) -> tuple[str, ...]:
        """The names of all terms, if none of them teaches the classes in any part of the run.

        Args:
            of_student: Names of teachers that know no more of the classes than the student: its
                average, its earlier state, its peers.
        """
        names: list[str] = []
        for terms in self.parts():
            if terms is None:
                return ()
            for item in (item for item in terms if highest(item.weight) > 0):
                learns_of_itself = getattr(item, "teacher", None) in of_student
                if known_terms()[item.term].teaches_classes and not learns_of_itself:
                    return ()
                names.append(f"{item.term} of {item.teacher!r}" if learns_of_itself else item.term)
        return tuple(dict.fromkeys(names))

    def with_values(self, **values: float) -> ObjectiveOptions:
        """The classic pair with another α or temperature."""
        return self.model_copy(update=values)


def _check_terms(options: Any, classic: Sequence[str]) -> None:
    """Terms, where given, must teach something, and stand alone.

    Raises:
        ValueError: If they don't.
    """
    if options.terms is None:
        return
    if not options.terms:
        raise ValueError("terms: at least one is needed")
    if all(highest(item.weight) == 0 for item in options.terms):
        raise ValueError("terms: all weights are zero, so nothing would be learned")
    fields = type(options).model_fields
    for name in classic:
        if getattr(options, name) != fields[name].default:
            raise ValueError(f"give either terms or {name}; terms have weights of their own")


def _check_stages(options: ObjectiveOptions) -> None:
    """Stages must follow each other up to the end, and be the whole objective.

    Raises:
        ValueError: If they overlap, leave a gap, or something else is given beside them.
    """
    assert options.stages is not None
    if not options.stages:
        raise ValueError("stages: at least one is needed")
    fields = ObjectiveOptions.model_fields
    for name in ("alpha", "temperature", "label_smoothing", "terms"):
        if getattr(options, name) != fields[name].default:
            raise ValueError(f"give either stages or {name}; a stage has terms of its own")
    before = 0.0
    for number, stage in enumerate(options.stages):
        if stage.until <= before:
            raise ValueError(
                f"stages: stage {number} ends at {stage.until:g}, but the one before it at "
                f"{before:g}: they overlap; let `until` rise from stage to stage"
            )
        before = stage.until
    if before != 1.0:
        raise ValueError(f"stages: the last ends at {before:g}; it must end at 1")
