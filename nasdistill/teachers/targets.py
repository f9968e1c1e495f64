"""The targets that teachers give for the batches of a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.data.splits import Plan
from nasdistill.models import hooks
from nasdistill.models.hooks import LayerError, ModelSummary, Outputs
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.table import Table
from nasdistill.teachers.teacher import Teacher


@dataclass(frozen=True)
class TargetRequest:
    """A request for the targets of one batch.

    Attributes:
        batch: The examples.
        layers: Names of the teacher's layers whose outputs are needed.
        student_outputs: Those of each student of the run, for the batch.
        student: Index of the student that the targets are for.
    """

    batch: Batch
    layers: tuple[str, ...]
    student_outputs: Sequence[Outputs]
    student: int


class TeacherTargets(ABC):
    """The targets that one teacher gives for the batches of a run.

    Attributes:
        students: Number of students that a run needs for it.
        size: `(height, width)` in pixels at which it sees the views, where that is not the
            student's size.
        identity: What tells its targets from those of others of its kind: of a frozen teacher the
            hash of its weights.
    """

    students: ClassVar[int] = 1
    size: tuple[int, int] | None = None
    identity: str = ""

    def prepare(self, plan: Plan) -> None:  # noqa: B027 - most have nothing to prepare
        """Gets ready for the batches to come.

        Args:
            plan: `(ids int64 CPU tensor, view)` of each.
        """

    def summary(self, student: ModelSummary | None) -> ModelSummary | None:
        """The layers of the teacher; None if none can be read.

        Args:
            student: The student's; of use to teachers that are copies of it.
        """
        return None

    def copy_of(self, student: nn.Module) -> nn.Module | None:
        """A copy of the student that the run holds, saves and branches; None for most."""
        return None

    def update(self, copy: nn.Module, student: nn.Module, step: int) -> None:  # noqa: B027
        """Updates the copy after an optimiser step.

        Args:
            copy: The module that `copy_of` gave.
            student: The student, as it is now.
            step: Number of steps done.
        """

    @abstractmethod
    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """Gives the targets of a batch, without gradients.

        Args:
            request: The batch, and the layers that are needed.
            teacher_copy: The module that `copy_of` gave for the student, updated so far.
        """


class CachedTargets(TeacherTargets):
    """A frozen teacher: from the cache where logits are enough, live where layers are needed.

    Args:
        teacher: The teacher.
        cache: Its cached logits; shared by all runs of a study.
    """

    def __init__(self, teacher: Teacher, cache: LogitCache) -> None:
        self.teacher = teacher
        self.cache = cache
        self.size = teacher.input.size
        self.identity = teacher.weights_hash
        self._summary: ModelSummary | None = None

    def prepare(self, plan: Plan) -> None:
        """See `TeacherTargets`."""
        self.cache.prepare(plan)

    def summary(self, student: ModelSummary | None) -> ModelSummary:
        """See `TeacherTargets`."""
        if self._summary is None:
            summary = hooks.summarise(self.teacher.module, "teacher", self.teacher.input)
            self._summary = replace(summary, weights=self.identity)
        return self._summary

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        if not request.layers:
            return Outputs(self.cache.logits(request.batch))
        images = request.batch.images_at(self.teacher.input.size)
        return self.teacher.outputs(images, request.layers)


class TableTargets(TeacherTargets):
    """A black box: recorded logits, the same for every view of an example.

    Args:
        table: The logits, in the order of the training split.
        device: The device of the batches.
    """

    def __init__(self, table: Table, device: torch.device) -> None:
        self._logits_NC = torch.from_numpy(table.logits).to(device)
        self._known_N = torch.from_numpy(table.known).to(device)
        self.complete = bool(table.known.all())

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        if request.layers:
            raise LayerError("a table of recorded answers has no layers")
        ids = request.batch.ids
        known = None if self.complete else self._known_N[ids]
        return Outputs(self._logits_NC[ids], known=known)


Combination = Literal["shares", "certainty", "correct"]


@dataclass(frozen=True)
class EnsembleTargets(TeacherTargets):
    """Several teachers as one: the mean of their distributions, as log-probabilities.

    Attributes:
        members: The teachers.
        shares: Of each in the mean; they sum to 1.
        by: `shares` weighs as stated; `certainty` multiplies each example's shares by one minus the
            entropy of the teacher's distribution (as a share of the largest); `correct` keeps only
            those that are right, all where none is.
    """

    members: Sequence[TeacherTargets]
    shares: Sequence[float]
    by: Combination = "shares"

    def prepare(self, plan: Plan) -> None:
        """See `TeacherTargets`."""
        items = list(plan)
        for member in self.members:
            member.prepare(items)

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        if request.layers:
            raise LayerError("a mean of teachers has no layers: name one of them for this term")
        outputs = [member(request, None) for member in self.members]
        log_p_TBC = torch.stack([o.logits.float().log_softmax(dim=1) for o in outputs])
        shares = zip(log_p_TBC[:, :, 0], self.shares, strict=True)
        weight_TB = torch.stack([torch.full_like(like_B, share) for like_B, share in shares])
        known = None
        if any(o.known is not None for o in outputs):
            all_B = torch.ones_like(request.batch.labels, dtype=torch.bool)
            known_TB = torch.stack([all_B if o.known is None else o.known for o in outputs])
            weight_TB, known = weight_TB * known_TB, known_TB.any(dim=0)
        if self.by != "shares":
            weighed_TB = weight_TB * BY[self.by](log_p_TBC, request.batch.labels)
            # The only teachers that are left may not know the example: then the known ones count
            # by their shares.
            weight_TB = torch.where(weighed_TB.sum(dim=0) > 0, weighed_TB, weight_TB)
        weight_TB = weight_TB / weight_TB.sum(dim=0).clamp_min(1e-12)
        mean_BC = torch.logsumexp(log_p_TBC + weight_TB.clamp_min(1e-30).log()[..., None], dim=0)
        return Outputs(mean_BC, known=known)


def certainty(log_p_TBC: Tensor, labels_B: Tensor) -> Tensor:
    """One minus entropy ÷ largest entropy, `[T, B]`."""
    entropy_TB = -(log_p_TBC.exp() * log_p_TBC).sum(dim=2)
    largest = math.log(log_p_TBC.shape[2])
    return (1.0 - entropy_TB / largest).clamp_min(1e-6)


def correct(log_p_TBC: Tensor, labels_B: Tensor) -> Tensor:
    """1 for the teachers that are right, `[T, B]`; 1 for all where none is."""
    right_TB = (log_p_TBC.argmax(dim=2) == labels_B).float()
    return torch.where(right_TB.sum(dim=0) > 0, right_TB, torch.ones_like(right_TB))


BY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"certainty": certainty, "correct": correct}


class _CopyTargets(TeacherTargets):
    """A copy of the student, which the run holds.

    Attributes:
        copy_name: Its name in messages.
    """

    copy_name: ClassVar[str]

    def summary(self, student: ModelSummary | None) -> ModelSummary | None:
        """See `TeacherTargets`."""
        return None if student is None else replace(student, name=self.copy_name)

    def copy_of(self, student: nn.Module) -> nn.Module:
        """See `TeacherTargets`."""
        return deepcopy(student).requires_grad_(False).eval()

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        assert teacher_copy is not None
        with torch.no_grad():
            return hooks.forward(teacher_copy, request.batch.images, request.layers)


@dataclass(frozen=True)
class EMATargets(_CopyTargets):
    """The exponential moving average of the student (Tarvainen and Valpola, "Mean teachers", 2017).

    Attributes:
        decay: Share of the average that a step leaves; at first (1 + step) ÷ (10 + step), if that
            is smaller, so that it soon forgets the initial weights.
    """

    decay: float
    copy_name: ClassVar[str] = "moving average"

    @torch.no_grad()
    def update(self, copy: nn.Module, student: nn.Module, step: int) -> None:
        """See `TeacherTargets`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, value in zip(_state(copy), _state(student), strict=True):
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), 1.0 - decay)
            else:
                average.copy_(value)


@dataclass(frozen=True)
class SnapshotTargets(_CopyTargets):
    """The student as it was some steps ago (Yang et al., "Snapshot Distillation", 2019).

    Attributes:
        every: Steps after which the student of now takes the place of the earlier one.
    """

    every: int
    copy_name: ClassVar[str] = "earlier student"

    def update(self, copy: nn.Module, student: nn.Module, step: int) -> None:
        """See `TeacherTargets`."""
        if step % self.every == 0:
            copy.load_state_dict(student.state_dict())


class PeerTargets(TeacherTargets):
    """The other students of the run (Zhang et al., "Deep Mutual Learning", 2018).

    Args:
        students: Number of students that learn together.
    """

    def __init__(self, students: int) -> None:
        self.students = students  # type: ignore[misc]

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        if request.layers:
            raise LayerError("peers teach by their logits alone")
        others = [o.logits for i, o in enumerate(request.student_outputs) if i != request.student]
        log_p_SBC = torch.stack([logits.detach().float().log_softmax(dim=1) for logits in others])
        return Outputs(torch.logsumexp(log_p_SBC, dim=0) - math.log(len(others)))


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def needed_students(targets: Mapping[str, TeacherTargets]) -> int:
    """The number of students that a run with these targets needs."""
    return max((each.students for each in targets.values()), default=1)
