"""Timed steps: they show what suits this machine and this kind of student."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.inference import SMALL
from nasdistill.training.cuda_graph import GraphedSteps, capturable
from nasdistill.training.loop import train
from nasdistill.training.precision import Precision, emulates_bf16, set_precision
from nasdistill.training.run import Run

WARM_UP, ROUNDS = 2, 3
"""At each precision: steps before the timed ones, and rounds."""
WINDOW_STEPS = 50
"""Steps of a timed window."""
WINDOW_WARM_UP = 10
"""Steps of a window that `graph_speedup` does not time."""
QUICK_SECONDS = 0.2
"""Least time of the steps that `quick_seconds_per_step` times."""
COMPILED_WARM_UP, COMPILED_STEPS = 5, 20
"""Steps that show whether compiling pays: before the timed ones, and timed."""


def precision_steps(run: Run) -> int:
    """The number of steps that `fastest_precision` trains at each precision."""
    return WARM_UP + ROUNDS * _round_steps(run)


def fastest_precision(run: Run) -> Precision:
    """Times a few steps at each precision, in turn; gives the precision of the shortest round.

    Steps that can be captured are replayed: one by one, small students wait for launches on a card,
    of which autocast has more, so that bf16 would always lose.

    Args:
        run: A fresh run; branches of it are trained for `precision_steps` and thrown away.
    """
    precisions = _worth_timing(run.students)
    if len(precisions) == 1:
        return precisions[0]
    replayed, steps = capturable(run) is None, _round_steps(run)
    branches: dict[Precision, Run] = {}
    for precision in precisions:
        branch = run.branch(run.lr_schedule)
        branch.precision = precision
        branch.graphed = GraphedSteps() if replayed else None
        set_precision(branch.students, precision)
        _seconds(branch, 0, WARM_UP)
        branches[precision] = branch
    rounds = [{p: _seconds(branches[p], 0, steps) for p in precisions} for _ in range(ROUNDS)]
    return min(precisions, key=lambda precision: min(seconds[precision] for seconds in rounds))


def _worth_timing(students: nn.Module) -> list[Precision]:
    """fp32, and the others that this machine does not emulate."""
    precisions: list[Precision] = ["fp32"]
    if not emulates_bf16(students):
        precisions.append("bf16")
    has_depthwise = any(isinstance(m, DepthwiseConv2d) for m in students.modules())
    if has_depthwise and not emulates_bf16(students, but_depthwise=True):
        precisions.append("bf16-mixed")
    return precisions


def graph_speedup(run: Run) -> float:
    """Times single steps and replayed ones.

    Args:
        run: A fresh run whose steps can be captured; branches of it are trained and thrown away.

    Returns:
        Seconds of single steps ÷ seconds of replayed ones; 0 if capturing fails.
    """
    single, replayed = run.branch(run.lr_schedule), run.branch(run.lr_schedule)
    single.graphed, replayed.graphed = None, GraphedSteps()
    steps = WINDOW_STEPS - WINDOW_WARM_UP
    seconds = _seconds(single, WINDOW_WARM_UP, steps)
    ratio = seconds / _seconds(replayed, WINDOW_WARM_UP, steps)
    return 0.0 if replayed.graphed.failure is not None else ratio


def seconds_per_window(run: Run) -> float:
    """Trains the first `WINDOW_STEPS` steps of a run once more; gives the seconds they take."""
    start, run.step = time.perf_counter(), 0
    for _ in train(run, WINDOW_STEPS * run.stream.batch_size):
        pass
    return time.perf_counter() - start


def steps_per_second(run: Run, begin: float, end: float) -> float:
    """Trains a run between two points in time, window by window.

    Args:
        run: See `seconds_per_window`.
        begin: `time.monotonic()`, which processes of a machine share.
        end: The same.

    Returns:
        Steps a second; 0 if the run was not ready by `begin`.
    """
    seconds_per_window(run)  # the first chooses kernels and captures a step
    if time.monotonic() > begin:
        return 0.0
    time.sleep(begin - time.monotonic())
    windows = 0
    while time.monotonic() < end:
        seconds_per_window(run)
        windows += 1
    return windows * WINDOW_STEPS / (time.monotonic() - begin)


def seconds_per_step(run: Run) -> float:
    """Times a step of a branch, which is trained and thrown away."""
    branch = run.branch(run.lr_schedule)
    branch.graphed = None if run.graphed is None else GraphedSteps()
    return _seconds(branch, COMPILED_WARM_UP, COMPILED_STEPS) / COMPILED_STEPS


def quick_seconds_per_step(run: Run) -> float:
    """Times a few steps of a branch, which is thrown away, after one that chooses kernels.

    Their mean counts. On a busy machine the shortest is one that no other process came between:
    a tenth of the mean, of steps of 30 ms on two cores with four processes.
    """
    branch = run.branch(replace(run.lr_schedule, peak=0.0))
    branch.graphed = None
    seconds, steps = _seconds(branch, 1, 1), 1
    while seconds < QUICK_SECONDS:
        seconds, steps = seconds + _seconds(branch, 0, 1), steps + 1
    return seconds / steps


class CompiledTiming(NamedTuple):
    """The times of a compiled run, in seconds.

    Attributes:
        step: Of a step.
        compilation: Of compiling, the steps before the timed ones included.
    """

    step: float
    compilation: float


def time_compilation(run: Run) -> CompiledTiming:
    """Compiles a branch of a run and times its steps.

    Args:
        run: A run of one student; the branch is trained and thrown away.

    Raises:
        Exception: Any error of the compiler: there may be none on this machine.
    """
    start = time.perf_counter()
    branch = run.branch(run.lr_schedule)
    branch.graphed = None if run.graphed is None else GraphedSteps()
    branch.compile()
    seconds = _seconds(branch, COMPILED_WARM_UP, COMPILED_STEPS)
    return CompiledTiming(seconds / COMPILED_STEPS, time.perf_counter() - start - seconds)


def _round_steps(run: Run) -> int:
    """Steps of a round: on a card they are so short that starting a stretch of them shows.

    On a CPU a step of large pictures takes long enough to be timed alone.
    """
    if run.device.type == "cuda":
        return 20
    return 3 if max(run.size) <= SMALL else 1


def _seconds(run: Run, warm_up: int, steps: int) -> float:
    """Trains some steps that are not timed and some that are; gives the seconds of the latter."""
    before = run.examples
    for _ in train(run, before + warm_up * run.stream.batch_size):
        pass
    start = time.perf_counter()
    for _ in train(run, before + (warm_up + steps) * run.stream.batch_size):
        pass
    return time.perf_counter() - start
