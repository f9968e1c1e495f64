"""A few steps that are timed, to see what suits this machine and this kind of student."""

from __future__ import annotations

import time

import torch

from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.training.cuda_graph import GraphedSteps, capturable
from nasdistill.training.loop import train
from nasdistill.training.precision import Precision, set_precision
from nasdistill.training.run import Run

WARM_UP, ROUNDS = 2, 3
"""At each precision: steps before they are timed, and rounds."""
PROBE_STEPS = 50
"""Steps of a probe of capturing, and of a window."""
COMPILED_STEPS = 20
"""Steps timed to see whether compiling pays."""


def precision_steps(device: torch.device) -> int:
    """Steps that `probe_precision` trains at each precision."""
    return WARM_UP + ROUNDS * _round(device)


def probe_precision(run: Run) -> Precision:
    """Times a few steps at each precision, in turn, and names the one of the shortest round.

    Steps that can be captured are: one by one, small students wait for launches on a card, of which
    autocast has more, so that bf16 would always lose.

    Args:
        run: A fresh run; branches of it are trained for `precision_steps` and thrown away.
    """
    kinds: list[Precision] = ["fp32", "bf16"]
    if any(isinstance(m, DepthwiseConv2d) for m in run.students.modules()):
        kinds.append("bf16-mixed")
    captured, steps = capturable(run) is None, _round(run.device)
    branches: dict[Precision, Run] = {}
    for kind in kinds:
        branches[kind] = run.branch(run.lr_schedule)
        branches[kind].precision = kind
        branches[kind].graphed = GraphedSteps() if captured else None
        set_precision(branches[kind].students, kind)
        _timed(branches[kind], 0, WARM_UP)
    rounds = [{kind: _timed(branches[kind], 0, steps) for kind in kinds} for _ in range(ROUNDS)]
    return min(kinds, key=lambda kind: min(seconds[kind] for seconds in rounds))


def probe_capture(run: Run) -> float:
    """The gain of captured steps: times as fast as single ones; 0 if capturing fails.

    Args:
        run: A fresh run whose steps can be captured; branches of it are trained and thrown away.
    """
    single, captured = run.branch(run.lr_schedule), run.branch(run.lr_schedule)
    single.graphed, captured.graphed = None, GraphedSteps()
    warm_up = 10
    seconds = _timed(single, warm_up, PROBE_STEPS - warm_up)
    ratio = seconds / _timed(captured, warm_up, PROBE_STEPS - warm_up)
    return 0.0 if captured.graphed.failure is not None else ratio


def seconds_per_window(run: Run) -> float:
    """Seconds of the first `PROBE_STEPS` steps of a run, trained once more."""
    start, run.step = time.perf_counter(), 0
    for _ in train(run, PROBE_STEPS * run.stream.batch_size):
        pass
    return time.perf_counter() - start


def steps_per_second(run: Run, begin: float, end: float) -> float:
    """Steps a second of a run between two points in time, window by window.

    Args:
        run: See `seconds_per_window`.
        begin: `time.monotonic()`, which processes of a machine share.
        end: The same.

    Returns:
        Steps a second; 0 if the run was not ready by `begin`.
    """
    seconds_per_window(run)  # what is done once: kernels chosen, a step captured
    if time.monotonic() > begin:
        return 0.0
    time.sleep(begin - time.monotonic())
    windows = 0
    while time.monotonic() < end:
        seconds_per_window(run)
        windows += 1
    return windows * PROBE_STEPS / (time.monotonic() - begin)


def seconds_per_step(run: Run) -> float:
    """Seconds of a step, of a branch that is trained and thrown away."""
    branch = run.branch(run.lr_schedule)
    branch.graphed = None if run.graphed is None else GraphedSteps()
    return _timed(branch, 5, COMPILED_STEPS) / COMPILED_STEPS


def probe_compilation(run: Run) -> tuple[float, float]:
    """Seconds of a step once a run is compiled, and of compiling.

    Args:
        run: A run of one student; a branch of it is compiled, trained and thrown away.

    Raises:
        Exception: Whatever the compiler raises: there may be none on this machine.
    """
    start = time.perf_counter()
    branch = run.branch(run.lr_schedule)
    branch.graphed = None if run.graphed is None else GraphedSteps()
    branch.compile()
    steps = _timed(branch, 5, COMPILED_STEPS)
    return steps / COMPILED_STEPS, time.perf_counter() - start - steps


def _round(device: torch.device) -> int:
    """Steps of a round: on a card they are so short that starting a stretch of them shows."""
    return 20 if device.type == "cuda" else 3


def _timed(run: Run, warm_up: int, steps: int) -> float:
    """Seconds of some steps after some that are not timed."""
    before = run.examples
    for _ in train(run, before + warm_up * run.stream.batch_size):
        pass
    start = time.perf_counter()
    for _ in train(run, before + (warm_up + steps) * run.stream.batch_size):
        pass
    return time.perf_counter() - start
