"""Steps replayed from a CUDA graph: small students wait for launches, not for arithmetic.

The inputs of a step are computed outside of the graph and for many steps at once: views, the
teachers' logits, learning rate, weights and temperatures. They are copied into static tensors, at
the addresses that the graph reads. The graph holds forward, loss, backward and optimiser.
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
from nasdistill.training.run import Run, StepReplay
from nasdistill.training.step_inputs import StepInputs, scheduled_values, step_inputs

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


class GraphedSteps(StepReplay):
    """The steps of a run and of its branches, replayed from one graph.

    The graph works on a student and an optimiser of its own. A run's state is copied in before a
    stretch of steps, and back after it, so that a trunk and its cool-downs take turns: a few
    launches in a hundred steps, whereas a capture for each branch would cost warm-up steps, a
    synchronisation and the allocator's cache.

    Attributes:
        failure: The reason why capturing failed; None while it has not. Nothing is replayed after
            that.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._static: _StaticTensors | None = None

    def start(self, run: Run, last: int) -> Callable[[int], Tensor]:
        """Starts a stretch of steps; see `StepReplay`.

        Args:
            run: The run that was trained first, or a branch of it; changed in place.
            last: Number of the stretch's last step.
        """
        inputs = step_inputs(run, last)
        return lambda until: self._train(run, inputs, until)

    def _train(self, run: Run, inputs: Iterator[StepInputs], until: int) -> Tensor:
        """Trains a run up to a step, or less far where capturing fails; gives the summed loss."""
        total = torch.zeros((), device=run.device)
        if self.failure is not None:
            return total
        loaded = False
        for values_K in scheduled_values(run, until):
            step = next(inputs)
            active = run.objective.active(run.progress)
            static = self._static
            if static is None or active not in static.replays:
                if static is not None and loaded:
                    static.store(run)  # warm-up changes the state
                    loaded = False
                static = self._capture(run, step, active)
                if static is None:
                    return total
            if not loaded:
                static.load(run)
                loaded = True
            torch.manual_seed(seed_of(run.seed, "step", run.step))  # replays draw from it, too
            total += static.replay(active, step, values_K)
            run.step += 1
        if self._static is not None and loaded:
            self._static.store(run)
        return total

    def _capture(
        self, run: Run, inputs: StepInputs, active: tuple[int, ...]
    ) -> _StaticTensors | None:
        """The static tensors, with a graph for these terms; None if capturing fails."""
        try:
            static = self._static or _StaticTensors(run, inputs)
            static.capture(active)
        except Exception as error:  # an error of the student will come up in single steps, too
            self.failure, self._static = " ".join(str(error).split())[:300], None
            warnings.warn(
                f"steps could not be captured in a CUDA graph and run one by one: {self.failure}",
                stacklevel=2,
            )
            return None
        self._static = static
        return static


class _StaticTensors:
    """The tensors at fixed addresses that graphs read and write, and the graphs.

    Args:
        run: A run of the kind that will be replayed.
        inputs: Those of one step.

    Attributes:
        replays: Functions that replay a step, by the numbers of the terms that count in it.
    """

    def __init__(self, run: Run, inputs: StepInputs) -> None:
        self.replays: dict[tuple[int, ...], Callable[[], object]] = {}
        self._inputs = inputs.map(torch.clone)
        self._values_K = torch.ones(1 + len(run.objective.schedules), device=run.device)
        self._loss = torch.zeros((), device=run.device)
        self._run = run.branch(run.lr_schedule)
        self._run.graphed = None
        self._run.targets = {name: _StaticTargets(o) for name, o in self._inputs.targets.items()}
        self._state = _state(self._run)
        rate, *values = self._values_K.unbind()
        for group in self._run.optimizer.param_groups:
            group.update(lr=rate, capturable=True)
        remaining = iter(values)
        self._objective = run.objective.with_schedules(lambda _: _held_in(next(remaining)))

    def load(self, run: Run) -> None:
        """Copies a run's state in."""
        _copy(_state(run), self._state)

    def store(self, run: Run) -> None:
        """Copies the state back to a run."""
        _copy(self._state, _state(run))

    def capture(self, active: tuple[int, ...]) -> None:
        """Captures a step in which these terms count; the warm-up changes the state."""
        terms = [
            item if index in active else replace(item, weight=constant(0.0))
            for index, item in enumerate(self._objective.terms)
        ]
        objective = replace(self._objective, terms=terms)
        self.replays[active] = record(lambda: self._train_step(objective), self._run.device)

    def replay(self, active: tuple[int, ...], inputs: StepInputs, values_K: Tensor) -> Tensor:
        """Replays one step.

        Args:
            active: Numbers of the terms that count in it; captured before.
            inputs: Of the step.
            values_K: A row of `scheduled_values`.

        Returns:
            The loss, to be read before the next step.
        """
        for static, value in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
            static.copy_(value)
        self._values_K.copy_(values_K)
        self.replays[active]()
        return self._loss

    def _train_step(self, objective: Objective) -> None:
        self._run.objective = objective
        self._loss.copy_(self._run.train_step(self._inputs.batch))


class _StaticTargets(TeacherTargets):
    """Targets that were computed before the step."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        return self._outputs


def record(step: Callable[[], None], device: torch.device) -> Callable[[], object]:
    """Captures the work of a step in a CUDA graph.

    Args:
        step: Called a few times first; launches on one stream, and never waits for the device.
        device: The CUDA device.

    Returns:
        A function that replays the graph.

    Raises:
        RuntimeError: If something in the step cannot be captured, or memory is short.
    """
    graph, stream, current = torch.cuda.CUDAGraph(), _stream(device), torch.cuda.current_stream()
    with torch.cuda.stream(current):  # some versions leave a failed capture's stream current
        stream.wait_stream(current)
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the optimiser: that it could be captured
            for _ in range(WARM_UP):
                step()
        current.wait_stream(stream)
        try:
            # Other threads may go on using the device, pinning memory for data that are streamed.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        except Exception:
            _end_capture(stream)
            raise
    return graph.replay


def _end_capture(stream: torch.cuda.Stream) -> None:
    """Captures next to nothing: torch's generator takes a broken capture for one that goes on."""
    with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        torch.zeros((), device=stream.device)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures: cuBLAS keeps a workspace for each stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _held_in(value: Tensor) -> Schedule:
    """A schedule whose value is a tensor's; arithmetic with it is that of a number."""
    return cast(Schedule, lambda progress: value)


def _state(run: Run) -> list[Tensor]:
    """All tensors that a step changes, always in the same order."""
    modules = (run.students, run.auxiliaries)
    tensors = [x for module in modules for x in (*module.parameters(), *module.buffers())]
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            moments = run.optimizer.state[parameter]
            if not moments:  # AdamW would make them at its first step
                moments["step"] = torch.zeros((), device=parameter.device)
                moments["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
                moments["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
            tensors += [moments["step"], moments["exp_avg"], moments["exp_avg_sq"]]
    return tensors


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    """Copies tensors in as few launches as there are types."""
    for dtype in {x.dtype for x in source}:
        pairs = [(a, b) for a, b in zip(target, source, strict=True) if a.dtype == dtype]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
