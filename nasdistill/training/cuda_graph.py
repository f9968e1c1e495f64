"""Steps replayed from a CUDA graph: small students wait for launches, not for arithmetic.

What a step needs is brought together outside of the graph and for many steps at once: views, the
teachers' answers, learning rate, weights and temperatures. The graph holds forward, loss, backward
and optimiser.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from nasdistill.common.seeds import seed_of
from nasdistill.losses import Objective, Schedule
from nasdistill.losses.schedules import constant
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.targets import TargetRequest, TeacherTargets
from nasdistill.training.run import Run
from nasdistill.training.step_inputs import StepInputs, values_of

WARM_UP = 3
"""Steps before a capture, in which libraries choose kernels and allocate their workspaces."""


def capturable(run: Run) -> str | None:
    """Why a run's steps cannot be captured; None where they can.

    A replay does the same work on the same tensors each time, and nothing on the host.
    """
    if len(run.students) > 1:
        return "its students teach each other"
    if any(list(copies.children()) for copies in run.teacher_copies):
        return "a teacher is made of the student, and follows it after each step"
    if run.micro_batch is not None:
        return "its batches are divided for want of memory"
    if run.objective.balance is not None:
        return "its terms are balanced by what is counted on the host"
    for item in run.objective.terms:
        name = type(item.term).__name__
        if item.term.capture_obstacle is not None:
            return f"{name} {item.term.capture_obstacle}"
        if item.term.teacher_layers:
            return f"{name} reads layers of a teacher, who is asked live"
    if run.device.type != "cuda":
        return "it is not on a CUDA device"
    return None


class GraphedSteps:
    """The steps of a run and of its branches, replayed from one graph.

    The graph works on a student and an optimiser of its own. A run's state is copied in before a
    stretch of steps, and back after it, so that a trunk and its cool-downs take turns: a few
    launches in a hundred steps, whereas a capture for each branch would cost warm-up steps, a
    synchronisation and the allocator's cache.

    Attributes:
        failure: Why capturing failed; None while it has not. Nothing is replayed after that.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._static: _StaticTensors | None = None

    def train(self, run: Run, inputs: Iterator[StepInputs], until: int) -> Tensor:
        """Trains a run up to a step; or less far, where capturing fails.

        Args:
            run: The run that was trained first, or a branch of it; changed in place.
            inputs: Those of the steps from where it stands, for this stretch and those to come.
            until: Number of the step.

        Returns:
            The sum of the losses, a float32 scalar on the device.
        """
        total = torch.zeros((), device=run.device)
        if self.failure is not None:
            return total
        loaded = False
        for values_K in values_of(run, until):
            step_inputs = next(inputs)
            active = run.objective.active(run.progress)
            static = self._static
            if static is None or active not in static.replays:
                if static is not None and loaded:
                    static.store(run)  # warm-up changes the static tensors
                    loaded = False
                static = self._captured(run, step_inputs, active)
                if static is None:
                    return total
            if not loaded:
                static.load(run)
                loaded = True
            torch.manual_seed(seed_of(run.seed, "step", run.step))  # replays draw from it, too
            total += static.step(active, step_inputs, values_K)
            run.step += 1
        if self._static is not None and loaded:
            self._static.store(run)
        return total

    def _captured(
        self, run: Run, step_inputs: StepInputs, active: tuple[int, ...]
    ) -> _StaticTensors | None:
        """The static, with a graph for these terms; None if that fails."""
        try:
            static = self._static or _StaticTensors(run, step_inputs)
            static.capture(active)
        except Exception as error:  # what lies with the student, single steps will tell
            self.failure, self._static = " ".join(str(error).split())[:300], None
            warnings.warn(
                f"steps could not be captured in a CUDA graph and run one by one: {self.failure}",
                stacklevel=2,
            )
            return None
        self._static = static
        return static


class _StaticTensors:
    """The tensors that graphs work on, and the graphs.

    Args:
        run: Of the kind that will be replayed.
        step_inputs: Those of one step.

    Attributes:
        replays: What replays a step, by the numbers of the terms that count in it.
    """

    def __init__(self, run: Run, step_inputs: StepInputs) -> None:
        self.replays: dict[tuple[int, ...], Callable[[], object]] = {}
        self._inputs = step_inputs.each(torch.clone)
        self._values_K = torch.ones(1 + len(run.objective.schedules), device=run.device)
        self._loss = torch.zeros((), device=run.device)
        self._branch = run.branch(run.lr_schedule)
        self._branch.graphed = None
        self._branch.targets = {
            name: _StaticTargets(outputs) for name, outputs in self._inputs.targets.items()
        }
        self._state = _state(self._branch)
        rate, *slots = self._values_K.unbind()
        for group in self._branch.optimizer.param_groups:
            group.update(lr=rate, capturable=True)
        places = iter(slots)
        self._objective = run.objective.with_schedules(lambda _: _lying_at(next(places)))

    def load(self, run: Run) -> None:
        """Copies a run's state in."""
        _copy(_state(run), self._state)

    def store(self, run: Run) -> None:
        """Copies the state back to a run."""
        _copy(self._state, _state(run))

    def capture(self, active: tuple[int, ...]) -> None:
        """Captures a step in which these terms count; spoils the state."""
        terms = [
            item if index in active else replace(item, weight=constant(0.0))
            for index, item in enumerate(self._objective.terms)
        ]
        objective = replace(self._objective, terms=terms)
        self.replays[active] = record(lambda: self._learn(objective), self._branch.device)

    def step(self, active: tuple[int, ...], step_inputs: StepInputs, values_K: Tensor) -> Tensor:
        """One step; gives its loss, to be read before the next one."""
        for target, source in zip(self._inputs.tensors(), step_inputs.tensors(), strict=True):
            target.copy_(source)
        self._values_K.copy_(values_K)
        self.replays[active]()
        return self._loss

    def _learn(self, objective: Objective) -> None:
        self._branch.objective = objective
        self._loss.copy_(self._branch.train_step(self._inputs.batch))


class _StaticTargets(TeacherTargets):
    """A teacher whose outputs lie in static tensors."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        return self._outputs


def record(step: Callable[[], None], device: torch.device) -> Callable[[], object]:
    """Captures what a step does in a CUDA graph.

    Args:
        step: Done a few times first; launches on one stream, and never waits for the device.
        device: Where.

    Returns:
        What does it again.

    Raises:
        RuntimeError: If something in the step cannot be captured, or memory is short.
    """
    graph, stream, before = torch.cuda.CUDAGraph(), _stream(device), torch.cuda.current_stream()
    with torch.cuda.stream(before):  # some versions leave a failed capture's stream current
        stream.wait_stream(before)
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an optimiser that says it could be captured
            for _ in range(WARM_UP):
                step()
        before.wait_stream(stream)
        try:
            # Other threads may go on using the device, pinning memory for data that are streamed.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        except Exception:
            _end_capture(stream)
            raise
    return graph.replay


def _end_capture(stream: torch.cuda.Stream) -> None:
    """Captures next to nothing: torch's generator believes in a broken capture until one ends."""
    with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        torch.zeros((), device=stream.device)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures: cuBLAS keeps a workspace for each stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _lying_at(value: Tensor) -> Schedule:
    """A schedule whose value lies in a tensor; arithmetic with it is that of a number."""
    return cast(Schedule, lambda progress: value)


def _state(run: Run) -> list[Tensor]:
    """All that a step changes, always in the same order."""
    modules = (run.students, run.auxiliaries)
    tensors = [x for module in modules for x in (*module.parameters(), *module.buffers())]
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            moments = run.optimizer.state[parameter]
            if not moments:  # what AdamW makes itself at its first step
                moments["step"] = torch.zeros((), device=parameter.device)
                moments["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
                moments["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
            tensors += [moments["step"], moments["exp_avg"], moments["exp_avg_sq"]]
    return tensors


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    """Copies tensors in as few launches as there are types."""
    for kind in {x.dtype for x in source}:
        pairs = [(a, b) for a, b in zip(target, source, strict=True) if a.dtype == kind]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
