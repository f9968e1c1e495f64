"""Latency of one call of a model: measured, never predicted."""

from __future__ import annotations

import copy
import math
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from nasdistill.common import runtimes
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.export import fix_batch, quick_onnx

WARM_UP = 10
LEAST_REPEATS = 20
COMMAND_TIMEOUT = 300.0

Call = Callable[[], None]


@dataclass(frozen=True)
class Latency:
    """The duration of one call of a model.

    Attributes:
        engine: The engine that ran the model.
        batch: Images in a call.
        threads: Threads the engine was given.
        median_ms: Median, in milliseconds.
        q1_ms: Lower quartile.
        q3_ms: Upper quartile.
        repeats: Calls measured.
        least_ms: The shortest call, which other work on the machine disturbs least.
    """

    engine: str
    batch: int
    threads: int
    median_ms: float
    q1_ms: float
    q3_ms: float
    repeats: int
    least_ms: float


def measure_latencies(
    models: Mapping[str, nn.Module | Path],
    inputs: Mapping[str, Input],
    *,
    engine: str,
    batch: int = 1,
    threads: int = 1,
    seconds: float = 0.3,
) -> dict[str, Latency]:
    """Measures one or several models, call by call in turn, so that all see the same minute.

    Args:
        models: Modules (float images in [0, 1] in, logits out), or ONNX files, by name.
        inputs: Their inputs.
        engine: One of `ENGINES`, or `command:PROGRAM`, which gets the path of the ONNX file, of a
            fixed batch, as its last argument and prints milliseconds, one number a line. ONNX files
            are for those that `runs_onnx` names.
        batch: Images in a call.
        threads: Threads of the engine.
        seconds: Time to spend on each model, after the warm-up.

    Returns:
        Latencies by the models' names.

    Raises:
        UserError: If the engine is unknown, is not installed, or fails.
    """
    if engine.startswith("command:"):
        return {
            name: _by_command(engine, model, inputs[name], batch) for name, model in models.items()
        }
    if engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise UserError(f"latency engine {engine!r}: allowed are {known}, command:PROGRAM")
    check_engine(engine)
    calls = {}
    generator = torch.Generator().manual_seed(0)
    for name, model in models.items():
        shape = (batch, inputs[name].channels, *inputs[name].size)
        image = torch.rand(shape, generator=generator)
        calls[name] = ENGINES[engine](model, inputs[name], image, threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        times = time_in_turn(calls, seconds)
    finally:
        torch.set_num_threads(before)
    return {name: timed(engine, batch, threads, ms) for name, ms in times.items()}


def time_in_turn(calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    """Times of each call in milliseconds, by name.

    Args:
        calls: What is timed, in turn, after a warm-up.
        seconds: For each.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    until = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < until or len(next(iter(times.values()))) < LEAST_REPEATS:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def timed(engine: str, batch: int, threads: int, times: list[float]) -> Latency:
    """The latency that times in milliseconds come to."""
    q1, median, q3 = times * 3 if len(times) == 1 else statistics.quantiles(times, n=4)
    return Latency(engine, batch, threads, median, q1, q3, len(times), min(times))


def runs_onnx(engine: str) -> bool:
    """Whether an engine runs ONNX files; the others take modules."""
    return engine in ("onnxruntime", "openvino") or engine.startswith("command:")


def check_engine(engine: str) -> None:
    """Refuses an engine whose packages are not installed.

    Raises:
        UserError: With the line for pip.
    """
    runtimes.require(_PACKAGES.get(engine, ()), f"latency engine {engine!r}")


_PACKAGES = {
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
}


def _onnxruntime(model: nn.Module | Path, input: Input, image: torch.Tensor, threads: int) -> Call:
    return _call_of_file(_onnx_content(model, input), ".onnx", runtimes.open_onnx, image, threads)


def _openvino(model: nn.Module | Path, input: Input, image: torch.Tensor, threads: int) -> Call:
    content = _onnx_content(model, input)
    return _call_of_file(content, ".onnx", runtimes.open_openvino, image, threads)


def _onnx_content(model: nn.Module | Path, input: Input) -> bytes:
    return model.read_bytes() if isinstance(model, Path) else quick_onnx(model, input)


def _executorch(model: nn.Module | Path, input: Input, image: torch.Tensor, threads: int) -> Call:
    content = _converted("executorch", _module(model), input, len(image))
    return _call_of_file(content, ".pte", runtimes.open_executorch, image, threads)


def _litert(model: nn.Module | Path, input: Input, image: torch.Tensor, threads: int) -> Call:
    content = _converted("litert", _module(model), input, len(image))
    return _call_of_file(content, ".tflite", runtimes.open_litert, image, threads)


_known_files: WeakKeyDictionary[nn.Module, dict[tuple[str, Input, int], bytes]]
_known_files = WeakKeyDictionary()
"""What converters of several seconds made of modules that are alive, such as the teacher that is
timed beside every student: latency depends on no weight."""


def _converted(engine: str, module: nn.Module, input: Input, batch: int) -> bytes:
    from nasdistill.models.converters import executorch_program, litert_model

    known, key = _known_files.setdefault(module, {}), (engine, input, batch)
    if key not in known:
        convert = {"executorch": executorch_program, "litert": litert_model}[engine]
        known[key] = convert(module, input, batch)
    return known[key]


def _call_of_file(
    content: bytes,
    suffix: str,
    open: Callable[[Path, int], runtimes.Answer],
    image: torch.Tensor,
    threads: int,
) -> Call:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        path.write_bytes(content)
        answer = open(path, threads)
    pictures = image.numpy()

    def call() -> None:
        answer(pictures)

    return call


def _torch(model: nn.Module | Path, input: Input, image: torch.Tensor, threads: int) -> Call:
    module = copy.deepcopy(_module(model)).cpu().eval().to(memory_format=torch.channels_last)
    images = image.to(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            module(images)

    return call


def _cuda(model: nn.Module | Path, input: Input, image: torch.Tensor, threads: int) -> Call:
    if not torch.cuda.is_available():
        raise UserError("latency engine 'cuda': this machine has no usable CUDA device")
    module = copy.deepcopy(_module(model)).cuda().eval().to(memory_format=torch.channels_last)
    images = image.cuda().to(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            module(images)
        torch.cuda.synchronize()

    return call


def _module(model: nn.Module | Path) -> nn.Module:
    assert isinstance(model, nn.Module), "this engine runs modules"
    return model


ENGINES: dict[str, Callable[[Any, Input, torch.Tensor, int], Call]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "executorch": _executorch,
    "litert": _litert,
    "torch": _torch,
    "cuda": _cuda,
}


def _by_command(engine: str, model: nn.Module | Path, input: Input, batch: int) -> Latency:
    """Runs the user's program on a file whose batch is fixed, as many devices need it."""
    content = model.read_bytes() if isinstance(model, Path) else quick_onnx(model, input)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(fix_batch(content, batch))
        try:
            program = shlex.split(engine.removeprefix("command:"))
            done = subprocess.run(
                [*program, str(path)],
                capture_output=True,
                text=True,
                check=True,
                timeout=COMMAND_TIMEOUT,
            )
            times = [float(line) for line in done.stdout.split()]
        except subprocess.CalledProcessError as error:
            detail = error.stderr.strip() or f"it ended with status {error.returncode}"
            raise UserError(f"latency engine {engine!r} failed: {detail}") from None
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise UserError(f"latency engine {engine!r} failed: {error}") from None
    if not times or not all(0 < time_ms < math.inf for time_ms in times):
        raise UserError(f"latency engine {engine!r} printed no milliseconds")
    return timed(engine, batch, 0, times)
