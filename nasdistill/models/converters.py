"""Conversion of a module, or its ONNX file, for runtimes that are extras: each in its own library.

`common.runtimes` loads what is written here.
"""

from __future__ import annotations

import copy
import inspect
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from nasdistill.common.streams import quiet_descriptors
from nasdistill.common.types import Input
from nasdistill.models.export import ExportError, silence

_LACKING = re.compile(
    r"Operator torch\._ops\.(\S+) is not in Core ATen"  # ExecuTorch's edge dialect
    r"|Missing out variants: \{'(\S+?)'"  # ExecuTorch's runtime
    r"|Lowering not found: (\S+)"  # LiteRT
    r"|No conversion rule found for operations: (\S+?)(?:-\d+)?(?:,|\s|$)"  # OpenVINO
)
"""The converters' complaints of operators that their runtimes lack."""


def write_openvino(onnx: Path, metadata: Mapping[str, str], path: Path) -> None:
    """Converts an ONNX file, of any batch, to OpenVINO's: `.xml` and, beside it, `.bin`.

    Weights stay fp32; by itself OpenVINO would store them as fp16.

    Args:
        onnx: The ONNX file.
        metadata: What the `.xml` says of itself, under `rt_info`, `nasdistill`.
        path: The `.xml`.

    Raises:
        ExportError: If OpenVINO lacks an operator.
    """
    import openvino

    try:
        model = openvino.convert_model(onnx)
    except Exception as error:
        raise _explained(error, "openvino", _onnx_nodes(onnx)) from error
    for key, value in metadata.items():
        model.set_rt_info(value, ["nasdistill", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def executorch_program(module: nn.Module, input: Input, batch: int = 1) -> bytes:
    """Converts a module to an ExecuTorch program that has XNNPACK run what it can.

    Args:
        module: Takes float images `[B, C, H, W]` in [0, 1]; gives logits.
        input: The image.
        batch: Images in a call. It is fixed: memory is planned for so many.

    Returns:
        The content of a `.pte` file.

    Raises:
        ExportError: If ExecuTorch lacks an operator.
    """
    with silence():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        module, images = _prepared(module, input, batch)
        program = torch.export.export(module, (images,))
        try:
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            content: bytes = lowered.to_executorch().buffer
        except Exception as error:
            raise _explained(error, "executorch", _program_nodes(program)) from error
    return content


def litert_model(module: nn.Module, input: Input, batch: int = 1) -> bytes:
    """Converts a module to a LiteRT model.

    Args:
        module: As of `executorch_program`; the file's input is named as its argument.
        input: The image.
        batch: Images in a call. It is fixed: the converter knows no other.

    Returns:
        The content of a `.tflite` file.

    Raises:
        ExportError: If LiteRT lacks an operator.
    """
    with silence(), tempfile.TemporaryDirectory() as folder:
        with quiet_descriptors():
            import litert_torch

        module, images = _prepared(module, input, batch)
        name = next(iter(inspect.signature(module.forward).parameters))
        try:
            converted = litert_torch.convert(module, sample_kwargs={name: images})
        except Exception as error:
            program = torch.export.export(module, (images,))
            raise _explained(error, "litert", _program_nodes(program)) from error
        path = Path(folder) / "model.tflite"
        with quiet_descriptors():
            converted.export(str(path))
        return path.read_bytes()


def _prepared(module: nn.Module, input: Input, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """A copy on the CPU in eval mode, in plain layout, and images for it."""
    copied = copy.deepcopy(module).cpu().eval().to(memory_format=torch.contiguous_format)
    return copied, torch.full((batch, input.channels, *input.size), 0.5)


def _explained(error: Exception, runtime: str, nodes: Iterable[tuple[str, str]]) -> Exception:
    """An error that names the operator and its layers where a runtime lacks one; else the error.

    Args:
        error: The converter's.
        runtime: Its name.
        nodes: Operator and layer of each node.
    """
    match = _LACKING.search(str(error))
    if match is None:
        return error
    operator = next(filter(None, match.groups())).replace("::", ".")
    layers = dict.fromkeys(layer for name, layer in nodes if _same_operator(name, operator))
    place = f", which is used in {', '.join(layers)}" if layers else ""
    return ExportError(
        f"{runtime} lacks the operator {operator}{place}. Choose nets without it, or another "
        "format: what torch can export runs as onnx or torch-export"
    )


def _same_operator(name: str, operator: str) -> bool:
    """Whether names mean the same one, whatever its overload (`aten.add` is `aten.add.Tensor`)."""
    return name == operator or name.rpartition(".")[0] == operator.removesuffix(".out")


def _program_nodes(program: ExportedProgram) -> list[tuple[str, str]]:
    nodes = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
            layer, _ = list(stack.values())[-1] if stack else ("", None)
            nodes.append((str(node.target), layer or node.name))
    return nodes


def _onnx_nodes(path: Path) -> list[tuple[str, str]]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return [
        (f"{node.domain}.{node.op_type}".lstrip("."), node.name or node.output[0])
        for node in graph.node
    ]
