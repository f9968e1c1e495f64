"""The runtimes that run exported files: where pip gets them, and how each loads a file.

Imports none of them, nor torch: each is imported as it is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.common.streams import quiet_descriptors

Pictures = NDArray[Any]
"""Pictures, `[B, C, H, W]`: float32 in [0, 1], or uint8 for files that prepare them."""
Logits = NDArray[np.float32]
"""Logits, `[B, classes]`."""
Answer = Callable[[Pictures], Logits]
"""Runs a loaded file."""

PIP = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert_torch": "litert-torch",
    "ai_edge_litert": "ai-edge-litert",
}
"""What `pip install` takes, by the name that a package is imported by."""


def require(packages: Sequence[str], wanted_for: str) -> None:
    """Refuses what takes packages that are not installed.

    Args:
        packages: By the names they are imported by.
        wanted_for: What takes them, as the message begins.

    Raises:
        UserError: With the line for pip.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        verb, line = "is" if len(missing) == 1 else "are", " ".join(map(PIP.__getitem__, missing))
        raise UserError(
            f"{wanted_for}: {' and '.join(missing)} {verb} not installed; run `pip install {line}`"
        )


def open_onnx(path: Path, threads: int) -> Answer:
    """An ONNX file, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def answer(pictures: Pictures) -> Logits:
        logits: Logits = session.run(None, {name: pictures})[0]
        return logits

    return answer


def open_preparing_onnx(path: Path, threads: int) -> Answer:
    """An ONNX file that takes one picture as decoded, `[H, W, C]`, in ONNX Runtime."""
    answer_one = open_onnx(path, threads)

    def answer(pictures: Pictures) -> Logits:
        return answer_one(np.ascontiguousarray(pictures[0].transpose(1, 2, 0)))

    return answer


def open_program(path: Path, threads: int) -> Answer:
    """A program of `torch.export`, in torch."""
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def answer(pictures: Pictures) -> Logits:
        with torch.inference_mode():
            logits: Logits = module(torch.from_numpy(pictures)).numpy()
        return logits

    return answer


def open_openvino(path: Path, threads: int) -> Answer:
    """An OpenVINO model (`.xml`, its weights beside it), or an ONNX file, in OpenVINO on the CPU.

    It computes in fp32; by itself it takes bf16 on a CPU that has it.
    """
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = openvino.Core().compile_model(str(path), "CPU", options)
    request = model.create_infer_request()

    def answer(pictures: Pictures) -> Logits:
        logits: Logits = request.infer({0: pictures})[0]
        return logits

    return answer


def open_executorch(path: Path, threads: int) -> Answer:
    """An ExecuTorch program of one picture, in ExecuTorch with XNNPACK."""
    import torch

    with quiet_descriptors():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)  # the only way to say how many
    method = Runtime.get().load_program(path).load_method("forward")

    def answer(pictures: Pictures) -> Logits:
        logits: Logits = method.execute([torch.from_numpy(pictures)])[0].numpy()
        return logits.copy()  # the next call writes to the same memory

    return answer


def open_litert(path: Path, threads: int) -> Answer:
    """A LiteRT model of one picture, in LiteRT with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet_descriptors():
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    def answer(pictures: Pictures) -> Logits:
        interpreter.set_tensor(input_index, pictures)
        interpreter.invoke()
        logits: Logits = interpreter.get_tensor(output_index)
        return logits

    return answer
