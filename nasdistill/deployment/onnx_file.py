"""Any ONNX file: its size, its parameters, its latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.models.latency import time_in_turn, timed

_KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_NOT_PARAMETERS = ("QuantizeLinear", "DequantizeLinear")
"""Operators whose inputs after the first are scales and zero points."""


def profile_onnx(path: Path, batch: int, threads: int) -> dict[str, Any]:
    """Counts and times an ONNX file in ONNX Runtime, whoever made it.

    Args:
        path: The file.
        batch: What takes the place of a first dimension without a size.
        threads: Threads of ONNX Runtime.

    Returns:
        `params` (numbers stored in the file but for shapes, scales and zero points), `bytes`,
        `inputs` (shapes by name) and `latency`.

    Raises:
        UserError: If the file cannot be loaded, or an input has a size that it does not say.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        params = _params(path)
    except Exception as error:  # ONNX Runtime raises nearly anything for broken bytes.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: ONNX Runtime cannot load it ({reason})") from None
    feed = {item.name: _random_input(path, item, batch) for item in session.get_inputs()}
    sizes = {len(array) for array in feed.values() if array.ndim}

    def call() -> None:
        session.run(None, feed)

    times = time_in_turn({"file": call}, 0.3)["file"]
    latency = timed("onnxruntime", max(sizes, default=batch), threads, times)
    return {
        "params": params,
        "bytes": path.stat().st_size,
        "inputs": {name: list(array.shape) for name, array in feed.items()},
        "latency": asdict(latency),
    }


def _random_input(path: Path, item: Any, batch: int) -> NDArray[Any]:
    """Random numbers for one input: in [0, 1), or 0 and 1 where it takes whole ones."""
    sizes = [batch if n == 0 and not isinstance(d, int) else d for n, d in enumerate(item.shape)]
    if not all(isinstance(size, int) for size in sizes) or item.type not in _KINDS:
        raise UserError(
            f"{path}: its input {item.name!r} is {item.type} {item.shape}; allowed is a size for "
            f"every dimension but the first, and one of {', '.join(_KINDS)}"
        )
    kind, drawn = _KINDS[item.type], np.random.default_rng(0).random(sizes)
    if np.issubdtype(kind, np.floating):
        return np.asarray(drawn, kind)
    return np.asarray(drawn > 0.5, kind)


def _params(path: Path) -> int:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    others = {
        name
        for node in graph.node
        if node.op_type in _NOT_PARAMETERS
        for name in list(node.input)[1:]
    }
    return sum(
        int(np.prod(value.dims, dtype=np.int64))
        for value in _stored(graph)
        if value.name not in others and value.data_type != onnx.TensorProto.INT64
    )


def _stored(graph: Any) -> Iterator[Any]:
    """Tensors of a graph: initialisers, and the values of constants."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield attribute.t
