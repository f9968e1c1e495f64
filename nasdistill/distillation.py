"""The only training loop: searching, final distillation and training a teacher all use it."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasdistill import taps
from nasdistill.answers import Answers, Question
from nasdistill.data import Batch, Dataset, Split
from nasdistill.files import write_whole
from nasdistill.models.layers import DepthwiseConv2d
from nasdistill.objective import Objective
from nasdistill.taps import Outputs

Precision = Literal["fp32", "bf16", "bf16-mixed"]
EVALUATION_BATCH = 500


class Diverged(Exception):  # noqa: N818 - says what happened
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Progress:
    """A sign of life from a run, given where the loop synchronises with the device.

    Attributes:
        examples: Training examples seen so far.
        loss: Mean loss since the last sign of life.
        images_per_second: Throughput since then.
    """

    examples: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class Pace:
    """The learning rate over the examples seen: warm up, hold, cool down to zero.

    Attributes:
        peak: Learning rate after the warm-up.
        warm_up: Examples over which it rises linearly from near zero.
        cool_down: Examples seen when it starts to fall, linearly; None for never.
        end: Examples seen when it reaches zero.
    """

    peak: float
    warm_up: int
    cool_down: int | None
    end: int

    def __call__(self, examples: int) -> float:
        """The learning rate for the next step, `examples` having been seen."""
        rate = self.peak * min(1.0, (examples + 1) / max(1, self.warm_up))
        if self.cool_down is not None and examples > self.cool_down:
            rate *= max(0.0, (self.end - examples) / max(1, self.end - self.cool_down))
        return rate


@dataclass(frozen=True)
class Feed:
    """What a run is fed: the same stream for every student of a study.

    Order and views depend on the seed and the step alone.

    Attributes:
        dataset: Where examples come from (its training split).
        batch_size: Examples in a step; constant over a study.
        views: Number of different views per example; epoch e shows view e mod `views`.
        seed: The study's seed.
    """

    dataset: Dataset
    batch_size: int
    views: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the training split."""
        return max(1, len(self.dataset.train) // self.batch_size)

    def steps(self, examples: int) -> int:
        """How many steps it takes to see at least `examples` training examples."""
        return math.ceil(examples / self.batch_size)

    def plan(self, first: int, last: int) -> Iterator[tuple[Tensor, int | None]]:
        """Ids (int64 CPU tensor) and view of each step of [`first`, `last`)."""
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(first, last):
            now, within = divmod(step, self.steps_per_epoch)
            if now != epoch:
                generator = torch.Generator().manual_seed(_seed(self.seed, "order", now))
                order = torch.randperm(len(self.dataset.train), generator=generator)
                epoch = now
            start = within * self.batch_size
            yield order[start : start + self.batch_size], epoch % self.views


class Run:
    """A training in progress.

    Args:
        students: The modules that learn, each from uint8 `[B, C, H, W]` to logits: one, or as many
            as teach each other.
        feed: Examples, order and views.
        objective: What they are trained on; its layers are found in the first student.
        teachers: Who can be asked, by name.
        horizon: Training examples at which the objective's progress is 1.
        pace: The learning rate.
        seed: Seeds auxiliaries and, together with the step, dropout; of the student, not of the
            study.
        precision: fp32, bf16 autocast, or bf16 with depthwise convolutions in fp32.
        size: `(height, width)` in pixels at which the students see the views.
        weight_decay: AdamW's decoupled weight decay (Loshchilov and Hutter, 2019).

    Attributes:
        auxiliaries: What learns with each student and is thrown away: projectors and the like.
        kept: What each student's teachers keep of it, by the teacher's name: moving averages.

    Raises:
        LayerError: If the objective reads layers that are not there, or do not fit.
    """

    def __init__(
        self,
        students: Sequence[nn.Module],
        feed: Feed,
        objective: Objective,
        *,
        horizon: int,
        pace: Pace,
        seed: int,
        precision: Precision = "fp32",
        teachers: Mapping[str, Answers] | None = None,
        size: tuple[int, int] | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        self.feed = feed
        self.horizon = horizon
        self.pace = pace
        self.seed = seed
        self.precision: Precision = precision
        self.size = size or feed.dataset.input.size
        self.device = feed.dataset.train.labels.device
        self.weight_decay = weight_decay
        named = teachers or {}
        self.teachers = {name: named[name] for name in objective.teachers}
        self.students = nn.ModuleList(students)
        self.students.to(self.device).to(memory_format=torch.channels_last)
        set_precision(self.students, precision)
        self.objective = self._bound(objective)
        self.auxiliaries = self._each(lambda student: self.objective.auxiliaries())
        self.kept = self._each(self._copies)
        self.optimizer = self._optimizer()
        self.step = 0

    @property
    def student(self) -> nn.Module:
        """The student, where it is one."""
        assert len(self.students) == 1
        return self.students[0]

    @property
    def examples(self) -> int:
        """Training examples seen so far."""
        return self.step * self.feed.batch_size

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Further sizes at which teachers that are asked live must see the views."""
        live = {i.teacher for i in self.objective.terms if i.term.teacher_layers}
        wanted = (answers.size for name, answers in self.teachers.items() if name in live)
        return tuple({size for size in wanted if size is not None} - {self.size})

    def branch(self, pace: Pace) -> Run:
        """A copy that goes on by itself, at another pace: for a cool-down."""
        twin = copy.copy(self)
        twin.students = copy.deepcopy(self.students)
        twin.auxiliaries = copy.deepcopy(self.auxiliaries)
        twin.kept = copy.deepcopy(self.kept)
        twin.pace = pace
        twin.optimizer = twin._optimizer()
        # load_state_dict would share the moments with the trunk.
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return twin

    def save(self, path: Path) -> None:
        """Writes all that learns, the optimiser and the step, atomically."""
        modules = {name: getattr(self, name).state_dict() for name in _MODULES}
        state = {**modules, "optimizer": self.optimizer.state_dict(), "step": self.step}
        save_state(state, path)

    def restore(self, path: Path) -> None:
        """Reads what `save` wrote, into a run made with the same arguments."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name in _MODULES:
            getattr(self, name).load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def loss(self, batch: Batch) -> Tensor:
        """What the students are to lower on a batch, now."""

        def ask(
            name: str, number: int, layers: tuple[str, ...], said: Sequence[Outputs]
        ) -> Outputs:
            kept = dict(self.kept[number].named_children())
            return self.teachers[name](Question(batch, layers, said, number), kept.get(name))

        progress = min(1.0, self.examples / self.horizon)
        auxiliaries = [dict(each.named_children()) for each in self.auxiliaries]
        return self.objective(list(self.students), auxiliaries, ask, batch, progress)

    def follow(self) -> None:
        """Lets teachers that are made of the students keep up, after a step."""
        for student, kept in zip(self.students, self.kept, strict=True):
            for name, module in kept.named_children():
                self.teachers[name].follow(module, student, self.step)

    def _bound(self, objective: Objective) -> Objective:
        if not objective.reads_layers:
            return objective
        shape = self.feed.dataset.input
        seen = taps.anatomy(self.students[0], "student", replace(shape, **self._side()))
        return objective.bind(
            seen, {name: answers.anatomy(seen) for name, answers in self.teachers.items()}
        )

    def _side(self) -> dict[str, int]:
        return {"height": self.size[0], "width": self.size[1]}

    def _copies(self, student: nn.Module) -> nn.ModuleDict:
        copies = {name: a.copy_of(student) for name, a in self.teachers.items()}
        return nn.ModuleDict({k: module for k, module in copies.items() if module is not None})

    def _each(self, make: Callable[[nn.Module], nn.ModuleDict]) -> nn.ModuleList:
        """Something for each student, with weights of its own."""
        made = []
        for number, student in enumerate(self.students):
            torch.manual_seed(_seed(self.seed, "auxiliaries", number))
            made.append(make(student).to(self.device))
        return nn.ModuleList(made)

    def _optimizer(self) -> torch.optim.AdamW:
        learning = [*_groups(self.students, self.weight_decay)]
        learning += _groups(self.auxiliaries, self.weight_decay)
        return torch.optim.AdamW(learning, lr=self.pace.peak, fused=True)


_MODULES = ("students", "auxiliaries", "kept")


def distill(run: Run, until: int, every: int | None = None) -> Iterator[Progress]:
    """Trains until the run has seen `until` examples.

    Leave the loop to stop; the run then stands after the last step whose progress was given.

    Args:
        run: The training; changed in place.
        until: Training examples seen at the end, rounded up to whole batches.
        every: Steps between two signs of life; by default an epoch, 100 at the most.

    Yields:
        Progress at each synchronisation with the device, the last one at the end.

    Raises:
        Diverged: If the loss stops being finite.
    """
    last = run.feed.steps(until)
    every = every or min(100, run.feed.steps_per_epoch)
    run.students.train()
    while run.step < last:
        chunk = min(last, (run.step // every + 1) * every)
        start, before = time.perf_counter(), run.step
        total = torch.zeros((), device=run.device)
        plan = run.feed.plan(run.step, chunk)
        for batch in run.feed.dataset.train.batches(plan, run.size, run.sizes):
            total += _train_step(run, batch)
            run.step += 1
            run.follow()
        loss = float(total) / (run.step - before)
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} after {run.examples} training examples")
        seconds = time.perf_counter() - start
        images = (run.step - before) * run.feed.batch_size
        yield Progress(run.examples, loss, images / max(seconds, 1e-9))


def _train_step(run: Run, batch: Batch) -> Tensor:
    """One optimiser step; gives the loss, detached and not yet synchronised."""
    for group in run.optimizer.param_groups:
        group["lr"] = run.pace(run.examples)
    torch.manual_seed(_seed(run.seed, "step", run.step))
    with autocast(run.device, run.precision):
        loss = run.loss(batch)
    run.optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:  # else all weights are 0 now
        loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    return loss.detach()


@torch.inference_mode()
def predict(module: nn.Module, split: Split, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Answers of a module to un-augmented images, in fp32.

    Args:
        module: Takes uint8 `[B, C, H, W]`; left in eval mode.
        split: The examples.
        size: `(height, width)` in pixels at which the module sees them.

    Returns:
        Logits float32 `[N, C]` and labels int64 `[N]`, both on the CPU.
    """
    module.eval()
    ids = torch.arange(len(split))
    plan = [(part, None) for part in torch.split(ids, EVALUATION_BATCH)]
    with depthwise_in(module, keep_fp32=False):
        logits = [module(batch.images).float() for batch in split.batches(plan, size)]
    return torch.cat(logits).cpu(), split.labels.cpu()


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of a precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision != "fp32")


def set_precision(module: nn.Module, precision: Precision) -> None:
    """Tells depthwise convolutions whether to stay in fp32 under autocast."""
    for layer in module.modules():
        if isinstance(layer, DepthwiseConv2d):
            layer.keep_fp32 = precision == "bf16-mixed"


class depthwise_in:  # noqa: N801 - reads as a statement
    """Sets `keep_fp32` of every depthwise convolution for the length of a `with` block."""

    def __init__(self, module: nn.Module, *, keep_fp32: bool) -> None:
        self._layers = [m for m in module.modules() if isinstance(m, DepthwiseConv2d)]
        self._before = [layer.keep_fp32 for layer in self._layers]
        self._during = keep_fp32

    def __enter__(self) -> None:
        for layer in self._layers:
            layer.keep_fp32 = self._during

    def __exit__(self, *exception: object) -> None:
        for layer, before in zip(self._layers, self._before, strict=True):
            layer.keep_fp32 = before


def probe_precision(run: Run, steps: int = 6) -> Precision:
    """Times a few steps at each precision and names the fastest.

    Args:
        run: A fresh run; a branch of it is trained and thrown away.
        steps: Timed steps at each precision, after two that warm up.
    """
    kinds: list[Precision] = ["fp32", "bf16"]
    if any(isinstance(m, DepthwiseConv2d) for m in run.students.modules()):
        kinds.append("bf16-mixed")
    seconds: dict[Precision, float] = {}
    for kind in kinds:
        twin = run.branch(run.pace)
        twin.precision = kind
        set_precision(twin.students, kind)
        for _ in distill(twin, 2 * run.feed.batch_size):
            pass
        start = time.perf_counter()
        for _ in distill(twin, (2 + steps) * run.feed.batch_size):
            pass
        seconds[kind] = time.perf_counter() - start
    return min(kinds, key=lambda kind: seconds[kind])


def seed_weights(seed: int, *parts: object) -> None:
    """Seeds torch's global generators before a student is built."""
    torch.manual_seed(_seed(seed, *parts))


def save_state(state: dict[str, Any], path: Path) -> None:
    """Writes tensors and plain values so that the file is either old or new, never half."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def _seed(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms and biases don't."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
