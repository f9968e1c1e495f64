"""A training in progress."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nasdistill.common.errors import DamagedFileError
from nasdistill.common.seeds import seed_of
from nasdistill.data import Batch
from nasdistill.losses import Objective
from nasdistill.models import hooks
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.targets import TargetRequest, TeacherTargets
from nasdistill.training.checkpoint import (
    modules_problem,
    optimizer_problem,
    read_checkpoint,
    write_checkpoint,
)
from nasdistill.training.data_parallel import DataParallel
from nasdistill.training.precision import Precision, autocast, set_precision
from nasdistill.training.schedule import BatchStream, LRSchedule
from nasdistill.training.synced_batch_norm import SyncedBatchNorm


class StepReplay(Protocol):
    """An engine that replays the steps of a run instead of computing them anew.

    Attributes:
        failure: The reason why nothing can be replayed any more; None while it can.
    """

    failure: str | None

    def start(self, run: Run, last: int) -> Callable[[int], Tensor]:
        """Starts a stretch of steps.

        Args:
            run: The run to train, from the step it is at.
            last: Number of the stretch's last step.

        Returns:
            A function that trains the run up to a step and returns the sum of the losses, a float32
            scalar on the device. Where replaying fails, the run is trained less far.
        """


class Run:
    """A training in progress.

    Args:
        students: The modules that learn, each from uint8 `[B, C, H, W]` to logits: one, or as many
            as teach each other.
        stream: Examples, order and views.
        objective: The loss; its layers are found in the first student.
        horizon: Training examples at which the objective's progress is 1.
        lr_schedule: The learning rate.
        seed: Seeds auxiliaries and, together with the step, dropout; of the student, not of the
            study.
        precision: fp32, bf16 autocast, or bf16 with depthwise convolutions in fp32.
        targets: Those of each teacher, by the teacher's name.
        size: `(height, width)` in pixels at which the students see the views.
        weight_decay: AdamW's decoupled weight decay (Loshchilov and Hutter, 2019).
        micro_batch: Most examples that the students see at once; None for the whole batch. The
            gradient of a step is the same, but batch norm sees each micro-batch by itself. Only of
            objectives that don't couple the examples of a batch.
        described: The options that its parts were made of, as text; enters its `identity`.

    Attributes:
        auxiliaries: The modules that learn with each student and are thrown away: projectors and
            the like.
        teacher_copies: The copies of each student that teach it, by the teacher's name: moving
            averages and the like.
        graphed: Replays its steps, and those of its branches; None where each is computed anew.
        compiled: Whether the students' operations were fused by `compile`.
        data_parallel: The part of this process, where several train the run; see `divide_over`.

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
        described: str = "",
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
        self.described = described
        by_name = targets or {}
        self.targets = {name: by_name[name] for name in objective.teachers}
        self.students = nn.ModuleList(students)
        self.students.to(self.device).to(memory_format=torch.channels_last)
        set_precision(self.students, precision)
        self.objective = self._bind(objective)
        self.auxiliaries = self._for_each_student(lambda student: self.objective.auxiliaries())
        self.teacher_copies = self._for_each_student(self._copies_of)
        self.optimizer = self._optimizer()
        self.step = 0
        self.graphed: StepReplay | None = None
        self.compiled = False
        self.data_parallel: DataParallel | None = None

    @property
    def student(self) -> nn.Module:
        """The student, of a run that has one."""
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
        """Further sizes at which teachers that are run live must see the views."""
        live = {i.teacher for i in self.objective.terms if i.term.teacher_layers}
        sizes = (targets.size for name, targets in self.targets.items() if name in live)
        return tuple({size for size in sizes if size is not None} - {self.size})

    def branch(self, lr_schedule: LRSchedule) -> Run:
        """A copy that goes on by itself, at another lr_schedule: for a cool-down."""
        branch = copy.copy(self)
        branch.students = copy.deepcopy(self.students)
        branch.auxiliaries = copy.deepcopy(self.auxiliaries)
        branch.teacher_copies = copy.deepcopy(self.teacher_copies)
        branch.lr_schedule = lr_schedule
        branch.optimizer = branch._optimizer()
        # load_state_dict would share the moments with the trunk.
        branch.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        if self.compiled:  # copies of modules are not
            branch.compile()
        return branch

    def compile(self) -> None:
        """Has torch.compile fuse the students' operations; names and weights stay the same."""
        for student in self.students:
            student.compile()
        self.compiled = True

    def divide_over(self, processes: DataParallel) -> None:
        """Has several processes train this run: each computes a slice of every batch.

        All begin with the first one's weights: computed on another card, what a student begins with
        may differ in the last bit.

        Args:
            processes: Those that made the same run, and call this at the same time.
        """
        self.data_parallel = processes
        for module in self._modules().values():
            for values in module.state_dict().values():
                processes.copy_from_first(values)

    def save(self, path: Path) -> None:
        """Writes all modules that learn, the optimiser, the step and the identity, atomically."""
        modules = {key: module.state_dict() for key, module in self._modules().items()}
        progress = {"optimizer": self.optimizer.state_dict(), "step": self.step}
        write_checkpoint({**modules, **progress, "identity": self.identity}, path)

    def restore(self, path: Path) -> None:
        """Reads a file that `save` wrote, into a run made with the same arguments.

        Raises:
            DamagedFileError: If it cannot be read, or is that of another run; this one is then as
                it was.
        """
        state = read_checkpoint(path)
        problem = self._problem_of(state)
        if problem:
            raise DamagedFileError(str(path), problem)
        for key, module in self._modules().items():
            module.load_state_dict(state[key])
        groups = self.optimizer.state_dict()["param_groups"]
        moments = {"state": state["optimizer"]["state"], "param_groups": groups}
        self.optimizer.load_state_dict(moments)
        self.step = state["step"]

    @property
    def identity(self) -> str:
        """Hash of what tells this run from others, but not from its own later progress.

        Precision and micro-batches are left out: they may change where memory runs out.
        """
        teachers = [(name, targets.identity) for name, targets in self.targets.items()]
        stream = (self.stream.batch_size, self.stream.views, self.stream.seed)
        parts = (self.seed, self.horizon, self.lr_schedule, self.weight_decay, stream, teachers)
        content = repr((*parts, self.described, self.stream.dataset.fingerprint))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def _problem_of(self, state: dict[str, Any]) -> str:
        """What keeps this run from going on from a checkpoint, in words; empty if nothing does."""
        # Those of earlier releases have no identity; shapes tell the coarsest mistakes.
        if state.get("identity", self.identity) != self.identity:
            return "the checkpoint of another run: its seed, budget, data, teacher or loss differs"
        step, last = state.get("step"), self.stream.steps(self.horizon)
        if type(step) is not int or not 0 <= step <= last:
            return f"its step is {str(step)[:40]}, in a run of {last} steps"
        return modules_problem(self._modules(), state) or optimizer_problem(
            self.optimizer, state.get("optimizer")
        )

    def loss(self, batch: Batch) -> Tensor:
        """The objective's loss on a batch, at the progress of now."""

        def ask(
            name: str, student: int, layers: tuple[str, ...], outputs: Sequence[Outputs]
        ) -> Outputs:
            copies = dict(self.teacher_copies[student].named_children())
            request = TargetRequest(batch, layers, outputs, student)
            return self.targets[name](request, copies.get(name))

        auxiliaries = [dict(modules.named_children()) for modules in self.auxiliaries]
        return self.objective(list(self.students), auxiliaries, ask, batch, self.progress)

    def train_step(self, batch: Batch) -> Tensor:
        """Makes one optimiser step; returns the loss, detached and not yet synchronised.

        Args:
            batch: The step's examples; where several processes train, this one's slice of them.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts, examples = self._parts(batch)
        for part in parts:
            with autocast(self.device, self.precision), self._synced_batch_norm():
                loss = self.loss(part) * (len(part.ids_host) / examples)
            if loss.requires_grad:  # else all weights are 0 now
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.data_parallel is not None:
            total = self.data_parallel.sum_gradients(self._gradients(), total)
        self.optimizer.step()
        return total

    def _parts(self, batch: Batch) -> tuple[list[Batch], int]:
        """The micro-batches of a step, as far as this process computes them; examples in all."""
        if self.data_parallel is None:
            return batch.parts(self.micro_batch), len(batch.ids_host)
        examples = self.stream.batch_size
        rows = self.data_parallel.own_rows(examples, self.micro_batch)
        return batch.split([len(part) for part in rows]), examples

    def _synced_batch_norm(self) -> AbstractContextManager[object]:
        return nullcontext() if self.data_parallel is None else SyncedBatchNorm(self.data_parallel)

    def _gradients(self) -> list[Tensor]:
        parameters = (p for group in self.optimizer.param_groups for p in group["params"])
        return [p.grad for p in parameters if p.grad is not None]

    def update_targets(self) -> None:
        """Updates the teachers that are copies of the students, after a step."""
        for student, copies in zip(self.students, self.teacher_copies, strict=True):
            for name, module in copies.named_children():
                self.targets[name].update(module, student, self.step)

    def _bind(self, objective: Objective) -> Objective:
        if not objective.reads_layers:
            return objective
        height, width = self.size
        shape = replace(self.stream.dataset.input, height=height, width=width)
        student = hooks.summarise(self.students[0], "student", shape)
        teachers = {name: targets.summary(student) for name, targets in self.targets.items()}
        return objective.bind(student, teachers)

    def _copies_of(self, student: nn.Module) -> nn.ModuleDict:
        copies = {name: targets.copy_of(student) for name, targets in self.targets.items()}
        return nn.ModuleDict({k: module for k, module in copies.items() if module is not None})

    def _for_each_student(self, make: Callable[[nn.Module], nn.ModuleDict]) -> nn.ModuleList:
        """Makes modules for each student, with weights of their own."""
        modules = []
        for number, student in enumerate(self.students):
            torch.manual_seed(seed_of(self.seed, "auxiliaries", number))
            modules.append(make(student).to(self.device))
        return nn.ModuleList(modules)

    def _modules(self) -> dict[str, nn.ModuleList]:
        """The modules that are saved, by their name in a checkpoint."""
        return {
            "students": self.students,
            "auxiliaries": self.auxiliaries,
            "kept": self.teacher_copies,
        }

    def _optimizer(self) -> torch.optim.AdamW:
        groups = _groups(self.students, self.weight_decay)
        groups += _groups(self.auxiliaries, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr_schedule.peak, fused=True)


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels decay; norms and biases don't."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
