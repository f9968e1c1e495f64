"""A weighted sum of terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.balance import Balance, BalanceKind
from nasdistill.losses.example_weights import ByExample
from nasdistill.losses.logits import KL, Labels
from nasdistill.losses.schedules import Schedule
from nasdistill.losses.term import Term
from nasdistill.models import hooks
from nasdistill.models.hooks import ModelSummary, Outputs

MAIN = "teacher"
"""The name of the teacher that is asked where a term names none."""

Ask = Callable[[str, int, tuple[str, ...], Sequence[Outputs]], Outputs]
"""`ask(teacher, student, layers, outputs)`: a teacher's outputs for the student of that number."""

AuxiliaryLookup = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Weighted:
    """A term, its weight over progress, and the name of the teacher that it asks."""

    term: Term
    weight: Schedule
    teacher: str = MAIN


@dataclass(frozen=True)
class Objective:
    """An objective: a weighted sum of terms.

    Attributes:
        terms: Terms with their weights.
        by_example: How far the teacher is followed on each example; None for on all alike.
        balance: The measure by which the sizes of the terms are evened out; None for not at all.
    """

    terms: Sequence[Weighted]
    by_example: ByExample | None = None
    balance: BalanceKind | None = None

    @classmethod
    def classic(
        cls,
        alpha: Schedule,
        temperature: Schedule,
        by_example: ByExample | None = None,
    ) -> Objective:
        """α·labels + (1 − α)·T²·KL (Hinton et al., 2015)."""
        return cls(
            [
                Weighted(Labels(), alpha),
                Weighted(KL(temperature), lambda progress: 1.0 - alpha(progress)),
            ],
            by_example,
        )

    @classmethod
    def labels(cls) -> Objective:
        """Cross-entropy against the labels alone: no teacher."""
        return cls([Weighted(Labels(), lambda progress: 1.0)])

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that are asked."""
        names = [item.teacher for item in self.terms if item.term.asks_teacher]
        if self.by_example is not None:
            names.append(self.by_example.teacher)
        return tuple(dict.fromkeys(names))

    @property
    def coupled(self) -> tuple[str, ...]:
        """Names of all that makes a batch's examples depend on each other: terms, `balance`."""
        names = [type(item.term).__name__.lower() for item in self.terms if item.term.coupled]
        if self.balance is not None:  # The size of a term is that of its mean over the batch.
            names.append("balance")
        return tuple(dict.fromkeys(names))

    @property
    def reads_layers(self) -> bool:
        """Whether any term needs more than logits."""
        return any(item.term.reads_layers for item in self.terms)

    @property
    def matched_layers(self) -> tuple[str, ...]:
        """Those of all its terms, once bound; see `Term`."""
        return _union(item.term.matched_layers for item in self.terms)

    @property
    def schedules(self) -> list[Schedule]:
        """All weights, temperatures and the like, in the order of `with_schedules`."""
        schedules: list[Schedule] = []

        def note(schedule: Schedule) -> Schedule:
            schedules.append(schedule)
            return schedule

        self.with_schedules(note)
        return schedules

    def with_schedules(self, change: Callable[[Schedule], Schedule]) -> Objective:
        """The same objective with each of its schedules changed."""
        terms = []
        for item in self.terms:
            own = {field.name: getattr(item.term, field.name) for field in fields(item.term)}  # type: ignore[arg-type]
            schedules = {name: change(value) for name, value in own.items() if callable(value)}
            term = replace(item.term, **schedules)  # type: ignore[type-var]
            terms.append(replace(item, term=term, weight=change(item.weight)))
        return replace(self, terms=terms)

    def with_class_weights(self, weights_C: Tensor | None) -> Objective:
        """The same objective, whose terms on labels weigh each example by its class.

        Args:
            weights_C: float32, on the device of the batches; None to weigh all alike.
        """
        terms = [
            replace(item, term=replace(item.term, class_weights=weights_C))  # type: ignore[type-var]
            if hasattr(item.term, "class_weights")
            else item
            for item in self.terms
        ]
        return replace(self, terms=terms)

    def active(self, progress: float) -> tuple[int, ...]:
        """Numbers of the terms that count: a weight on the device always does."""
        weights = ((i, item.weight(progress)) for i, item in enumerate(self.terms))
        return tuple(i for i, weight in weights if isinstance(weight, Tensor) or weight != 0.0)

    def bind(self, student: ModelSummary, teachers: Mapping[str, ModelSummary | None]) -> Objective:
        """The same objective with the layers of its terms found.

        Args:
            student: Layers and size of the student.
            teachers: Those of the teachers, by name; None for a teacher without layers.

        Raises:
            LayerError: If a layer does not exist, or two do not fit.
        """
        bound = [
            replace(item, term=item.term.bind(student, teachers.get(item.teacher)))
            for item in self.terms
        ]
        return replace(self, terms=bound)

    def auxiliaries(self) -> nn.ModuleDict:
        """The modules that learn with one student, by the number of their term; once bound."""
        made = {str(i): item.term.auxiliary() for i, item in enumerate(self.terms)}
        modules = {key: module for key, module in made.items() if module is not None}
        auxiliaries = nn.ModuleDict(modules)
        if self.balance is not None:
            auxiliaries["balance"] = Balance(self.balance, len(self.terms))
        return auxiliaries

    def __call__(
        self,
        students: Sequence[nn.Module],
        auxiliaries: Sequence[AuxiliaryLookup],
        ask: Ask | None,
        batch: Batch,
        progress: float,
    ) -> Tensor:
        """The loss of one batch.

        Args:
            students: The modules that learn; each takes `batch.images`. One, or some that teach
                each other.
            auxiliaries: The modules that `auxiliaries` made, for each of them.
            ask: Asks a teacher; needed if any term asks.
            batch: The examples.
            progress: Share of the run that is done, in [0, 1].

        Returns:
            A float32 scalar with gradients: the sum over students.
        """
        active = self.active(progress)
        layers = _union(self.terms[i].term.student_layers for i in active)
        outputs = [hooks.forward(student, batch.images, layers) for student in students]
        total = torch.zeros((), device=batch.labels.device)
        for number, student in enumerate(students):
            targets = self._targets(active, ask, number, outputs)
            own = auxiliaries[number]
            losses = self._losses(active, outputs[number], targets, batch, progress, own)
            if self.balance is not None:
                balance = own["balance"]
                assert isinstance(balance, Balance)
                losses = balance(losses, list(student.parameters()))
            for index, loss in losses.items():
                total = total + loss * self.terms[index].weight(progress)
        return total

    def _targets(
        self, active: Sequence[int], ask: Ask | None, number: int, outputs: Sequence[Outputs]
    ) -> dict[str, Outputs]:
        """The outputs of each teacher, for one student."""
        layers_of: dict[str, list[tuple[str, ...]]] = {}
        for index in active:
            item = self.terms[index]
            if item.term.asks_teacher:
                layers_of.setdefault(item.teacher, []).append(item.term.teacher_layers)
        if self.by_example is not None:
            layers_of.setdefault(self.by_example.teacher, [])
        if not layers_of:
            return {}
        assert ask is not None, "a term asks a teacher"
        return {
            name: ask(name, number, _union(layers), outputs) for name, layers in layers_of.items()
        }

    def _losses(
        self,
        active: Sequence[int],
        outputs: Outputs,
        targets: Mapping[str, Outputs],
        batch: Batch,
        progress: float,
        auxiliaries: AuxiliaryLookup,
    ) -> dict[int, Tensor]:
        """The mean loss of each active term, before its weight."""
        teacher_weight: Tensor | float = 1.0
        labels_weight: Tensor | float = 1.0
        if self.by_example is not None:
            logits = targets[self.by_example.teacher].logits
            teacher_weight, labels_weight = self.by_example.weights(logits, batch.labels)
        losses = {}
        for index in active:
            item = self.terms[index]
            auxiliary = auxiliaries.get(str(index))
            teacher = targets.get(item.teacher) if item.term.asks_teacher else None
            loss = item.term(outputs, teacher, batch, progress, auxiliary)
            weight = teacher_weight if item.term.asks_teacher else labels_weight
            if teacher is not None and teacher.known is not None:
                weight = weight * teacher.known
            losses[index] = (weight * loss).mean()
        return losses


def _union(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))
