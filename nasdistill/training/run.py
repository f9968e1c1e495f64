"""A training in progress."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nasdistill.common.files import write_whole
from nasdistill.common.seeds import seed_of
from nasdistill.data import Batch
from nasdistill.losses import Objective
from nasdistill.models import hooks
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.targets import TargetRequest, TeacherTargets
from nasdistill.training.precision import Precision, autocast, set_precision
from nasdistill.training.schedule import BatchStream, LRSchedule


class StepReplay(Protocol):
    """Replays the steps of a run, and of its branches: see `cuda_graph.GraphedSteps`."""

    failure: str | None

    def train(self, run: Run, inputs: Iterator[Any], until: int) -> Tensor:
        """Trains a run up to a step, or less far; gives the sum of the losses."""


class Run:
    """A training in progress.

    Args:
        students: The modules that learn, each from uint8 `[B, C, H, W]` to logits: one, or as many
            as teach each other.
        stream: Examples, order and views.
        objective: The loss that they lower; its layers are found in the first student.
        targets: Those of each teacher, by the teacher's name.
        horizon: Training examples at which the objective's progress is 1.
        lr_schedule: The learning rate.
        seed: Seeds auxiliaries and, together with the step, dropout; of the student, not of the
            study.
        precision: fp32, bf16 autocast, or bf16 with depthwise convolutions in fp32.
        size: `(height, width)` in pixels at which the students see the views.
        weight_decay: AdamW's decoupled weight decay (Loshchilov and Hutter, 2019).
        micro_batch: Most examples that the students see at once; None for the whole batch. The
            gradient of a step is the same, but batch norm sees each micro-batch by itself. Only of
            objectives that don't couple the examples of a batch.

    Attributes:
        auxiliaries: What learns with each student and is thrown away: projectors and the like.
        teacher_copies: Copies of each student that teach it, by the teacher's name: averages.
        graphed: Replays its steps, and those of its branches; None where each is done anew.
        compiled: Whether what the students do was fused by `compile`.

    Raises:
        LayerError: If the objective reads layers that are not there, or do not fit.
    """

    def __init__(
        self,
        students: Sequence[nn.Module],
        stream: BatchStream,
        objective: Objective,
        *,
        horizon: int,
        lr_schedule: LRSchedule,
        seed: int,
        precision: Precision = "fp32",
        targets: Mapping[str, TeacherTargets] | None = None,
        size: tuple[int, int] | None = None,
        weight_decay: float = 0.01,
        micro_batch: int | None = None,
    ) -> None:
        assert micro_batch is None or not objective.coupled
        self.stream = stream
        self.horizon = horizon
        self.lr_schedule = lr_schedule
        self.seed = seed
        self.precision: Precision = precision
        self.size = size or stream.dataset.input.size
        self.device = stream.dataset.train.labels.device
        self.weight_decay = weight_decay
        self.micro_batch = micro_batch
        named = targets or {}
        self.targets = {name: named[name] for name in objective.teachers}
        self.students = nn.ModuleList(students)
        self.students.to(self.device).to(memory_format=torch.channels_last)
        set_precision(self.students, precision)
        self.objective = self._bound(objective)
        self.auxiliaries = self._each(lambda student: self.objective.auxiliaries())
        self.teacher_copies = self._each(self._copies)
        self.optimizer = self._optimizer()
        self.step = 0
        self.graphed: StepReplay | None = None
        self.compiled = False

    @property
    def student(self) -> nn.Module:
        """The student, where it is one."""
        assert len(self.students) == 1
        return self.students[0]

    @property
    def examples(self) -> int:
        """Training examples seen so far."""
        return self.step * self.stream.batch_size

    @property
    def progress(self) -> float:
        """Share of the horizon that is done, in [0, 1]."""
        return min(1.0, self.examples / self.horizon)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Further sizes at which teachers that are asked live must see the views."""
        live = {i.teacher for i in self.objective.terms if i.term.teacher_layers}
        wanted = (answers.size for name, answers in self.targets.items() if name in live)
        return tuple({size for size in wanted if size is not None} - {self.size})

    def branch(self, lr_schedule: LRSchedule) -> Run:
        """A copy that goes on by itself, at another lr_schedule: for a cool-down."""
        twin = copy.copy(self)
        twin.students = copy.deepcopy(self.students)
        twin.auxiliaries = copy.deepcopy(self.auxiliaries)
        twin.teacher_copies = copy.deepcopy(self.teacher_copies)
        twin.lr_schedule = lr_schedule
        twin.optimizer = twin._optimizer()
        # load_state_dict would share the moments with the trunk.
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        if self.compiled:  # copies of modules are not
            twin.compile()
        return twin

    def compile(self) -> None:
        """Has torch.compile fuse what the students do; their names and weights stay the same."""
        for student in self.students:
            student.compile()
        self.compiled = True

    def save(self, path: Path) -> None:
        """Writes all that learns, the optimiser and the step, atomically."""
        modules = {key: module.state_dict() for key, module in self._modules().items()}
        state = {**modules, "optimizer": self.optimizer.state_dict(), "step": self.step}
        save_state(state, path)

    def restore(self, path: Path) -> None:
        """Reads what `save` wrote, into a run made with the same arguments."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for key, module in self._modules().items():
            module.load_state_dict(state[key])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, now."""

        def ask(
            name: str, number: int, layers: tuple[str, ...], outputs: Sequence[Outputs]
        ) -> Outputs:
            copies = dict(self.teacher_copies[number].named_children())
            request = TargetRequest(batch, layers, outputs, number)
            return self.targets[name](request, copies.get(name))

        auxiliaries = [dict(each.named_children()) for each in self.auxiliaries]
        return self.objective(list(self.students), auxiliaries, ask, batch, self.progress)

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser step; gives the loss, detached and not yet synchronised."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in batch.parts(self.micro_batch):
            with autocast(self.device, self.precision):
                loss = self.loss(part) * (len(part.ids_host) / len(batch.ids_host))
            if loss.requires_grad:  # else all weights are 0 now
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.optimizer.step()
        return total

    def update_targets(self) -> None:
        """Lets teachers that are made of the students keep up, after a step."""
        for student, copies in zip(self.students, self.teacher_copies, strict=True):
            for name, module in copies.named_children():
                self.targets[name].update(module, student, self.step)

    def _bound(self, objective: Objective) -> Objective:
        if not objective.reads_layers:
            return objective
        shape = self.stream.dataset.input
        own = hooks.summarise(self.students[0], "student", replace(shape, **self._side()))
        return objective.bind(
            own, {name: targets.summary(own) for name, targets in self.targets.items()}
        )

    def _side(self) -> dict[str, int]:
        return {"height": self.size[0], "width": self.size[1]}

    def _copies(self, student: nn.Module) -> nn.ModuleDict:
        copies = {name: a.copy_of(student) for name, a in self.targets.items()}
        return nn.ModuleDict({k: module for k, module in copies.items() if module is not None})

    def _each(self, make: Callable[[nn.Module], nn.ModuleDict]) -> nn.ModuleList:
        """Something for each student, with weights of its own."""
        made = []
        for number, student in enumerate(self.students):
            torch.manual_seed(seed_of(self.seed, "auxiliaries", number))
            made.append(make(student).to(self.device))
        return nn.ModuleList(made)

    def _modules(self) -> dict[str, nn.ModuleList]:
        """All that is saved, by its name in a checkpoint."""
        return {
            "students": self.students,
            "auxiliaries": self.auxiliaries,
            "kept": self.teacher_copies,
        }

    def _optimizer(self) -> torch.optim.AdamW:
        learning = [*_groups(self.students, self.weight_decay)]
        learning += _groups(self.auxiliaries, self.weight_decay)
        return torch.optim.AdamW(learning, lr=self.lr_schedule.peak, fused=True)


def save_state(state: dict[str, Any], path: Path) -> None:
    """Writes tensors and plain values so that the file is either old or new, never half."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms and biases don't."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
