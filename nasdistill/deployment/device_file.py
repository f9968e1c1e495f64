"""Any file for OpenVINO, ExecuTorch or LiteRT: its size, its input, its latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nasdistill.common import runtimes
from nasdistill.common.errors import UserError
from nasdistill.common.streams import quiet_descriptors
from nasdistill.models.latency import time_in_turn, timed

Shape = list[int | None]
"""The input's, with None for a first dimension of any size."""


class _Kind(NamedTuple):
    """A kind of file: what runs it, and how its input's shape and its parameters are read."""

    engine: str
    package: str
    describe: Callable[[Path], tuple[Shape, int | None]]
    open: Callable[[Path, int], runtimes.Answer]


def profile_device_file(path: Path, batch: int, threads: int) -> dict[str, Any]:
    """Counts and times a file in the runtime that its ending names.

    Args:
        path: The file, with one input of floats: `.xml`, `.pte` or `.tflite`.
        batch: What takes the place of a first dimension without a size.
        threads: Threads of the runtime.

    Returns:
        `params` (None where the file does not tell), `bytes`, `inputs` and `latency`.

    Raises:
        UserError: If the runtime is not installed or cannot load the file, or the file takes
            another batch.
    """
    kind = KINDS[path.suffix]
    runtimes.require((kind.package,), f"profile {path}")
    try:
        shape, params = kind.describe(path)
    except UserError:
        raise
    except Exception as error:  # Runtimes raise nearly anything for broken bytes.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: {kind.engine} cannot load it ({reason})") from None
    first, rest = shape[0], [size for size in shape[1:] if size is not None]
    if first not in (None, batch):
        raise UserError(f"--batch: found {batch}; {path} takes {first} at once")
    pictures = np.random.default_rng(0).random((batch, *rest)).astype(np.float32)
    answer = kind.open(path, threads)

    def call() -> None:
        answer(pictures)

    times = time_in_turn({"file": call}, 0.3)["file"]
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return {
        "params": params,
        "bytes": sum(file.stat().st_size for file in files if file.exists()),
        "inputs": {"images": list(pictures.shape)},
        "latency": asdict(timed(kind.engine, batch, threads, times)),
    }


def _openvino(path: Path) -> tuple[Shape, int | None]:
    import openvino

    model = openvino.Core().read_model(str(path))
    inputs = [(each.partial_shape, each.element_type == openvino.Type.f32) for each in model.inputs]
    shape = [None if each.is_dynamic else each.get_length() for each in inputs[0][0]]
    _check(path, len(inputs), inputs[0][1], shape)
    stored = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    params = sum(op.get_output_size() and int(np.prod(op.shape)) for op in stored if _real(op))
    return shape, params


def _real(constant: Any) -> bool:
    return bool(constant.get_element_type().is_real())


def _executorch(path: Path) -> tuple[Shape, int | None]:
    with quiet_descriptors():
        from executorch.runtime import Runtime

        about = Runtime.get().load_program(path).load_method("forward").metadata
    tensor = about.input_tensor_meta(0)
    shape: Shape = list(tensor.sizes())
    _check(path, about.num_inputs(), tensor.dtype() == _EXECUTORCH_FLOAT, shape)
    return shape, None


_EXECUTORCH_FLOAT = 6
"""Of its `ScalarType`."""


def _litert(path: Path) -> tuple[Shape, int | None]:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_descriptors():
        inputs = Interpreter(str(path)).get_input_details()
    shape: Shape = [int(size) for size in inputs[0]["shape"]]
    _check(path, len(inputs), inputs[0]["dtype"] == np.float32, shape)
    return shape, None


def _check(path: Path, inputs: int, floats: bool, shape: Shape) -> None:
    """Refuses a file that random pictures cannot be given to."""
    if inputs != 1 or not floats or None in shape[1:]:
        raise UserError(
            f"{path}: found {inputs} input(s), the first {shape}; allowed is one of float32 with a "
            "size for every dimension but the first"
        )


KINDS = {
    ".xml": _Kind("openvino", "openvino", _openvino, runtimes.open_openvino),
    ".pte": _Kind("executorch", "executorch", _executorch, runtimes.open_executorch),
    ".tflite": _Kind("litert", "ai_edge_litert", _litert, runtimes.open_litert),
}
