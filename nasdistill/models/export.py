"""Export of a module to ONNX or a torch.export program, and verification of the result."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole
from nasdistill.common.types import Input

TOLERANCE = 1e-4
LARGEST_BATCH = 65536
Exporter = Callable[[nn.Module, Input], bytes]


class ExportError(UserError, RuntimeError):
    """No exporter can write this model."""


@dataclass(frozen=True)
class Verification:
    """The result of comparing an exported file with its module.

    Attributes:
        max_abs_difference: Largest difference between any two logits; infinite where the shapes
            differ or a logit is no number.
        allowed: 1e-4, times the largest logit where that is above 1: rounding grows with it, as on
            pictures of little contrast, which normalisation magnifies.
    """

    max_abs_difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within what is allowed."""
        return self.max_abs_difference <= self.allowed


def quick_onnx(module: nn.Module, input: Input) -> bytes:
    """Exports for a measurement: a tenth of a second, by tracing.

    What cannot be traced takes the slower way of `export_onnx`.

    Args:
        module: Takes float images `[B, C, H, W]` in [0, 1], named `images`; gives `logits`.
        input: The image.

    Returns:
        An ONNX file with a dynamic batch.

    Raises:
        ExportError: If no exporter can write the module.
    """
    return _first_of([_traced, _captured], module, input)


def export_onnx(module: nn.Module, input: Input, path: Path) -> None:
    """Exports for shipping: one ONNX file with a dynamic batch, written atomically.

    The exporter that torch recommends is tried first; where it cannot export a module, or its file
    disagrees with the module, tracing is, and its file must agree as well.

    Args:
        module: See `quick_onnx`.
        input: The image.
        path: The file.

    Raises:
        ExportError: If no exporter writes a file that agrees with the module.
    """
    exporters = [partial(_agreeing, exporter) for exporter in (_captured, _traced)]
    write_whole(path, _first_of(exporters, module, input))


def export_program(module: nn.Module, input: Input, path: Path) -> None:
    """Exports with `torch.export`, dynamic batch, written atomically (`.pt2`).

    Args:
        module: See `quick_onnx`.
        input: The image.
        path: The file.

    Raises:
        ExportError: If torch cannot export the module.
    """

    def exported(module: nn.Module, input: Input) -> bytes:
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        example = (_example(module, input, 2),)
        program = torch.export.export(module, example, dynamic_shapes=({0: batch},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return buffer.getvalue()

    write_whole(path, _first_of([exported], module, input))


def verify_onnx(
    module: nn.Module, input: Input, onnx: Path | bytes, *, batches: Sequence[int] = (1, 7)
) -> Verification:
    """Runs an ONNX file in ONNX Runtime beside its module, on random images.

    Args:
        module: The exported module.
        input: The image.
        onnx: The file, or its content.
        batches: Batch sizes to try.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(onnx) if isinstance(onnx, Path) else onnx
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    generator = torch.Generator().manual_seed(0)
    worst, largest = 0.0, 1.0
    with _evaluated(module), torch.inference_mode():
        for batch in batches:
            images = torch.rand(batch, input.channels, *input.size, generator=generator)
            expected = module(images.to(_device_of(module))).float().cpu().numpy()
            (exported,) = session.run(None, {name: images.numpy()})
            worst = max(worst, _max_abs_difference(expected, exported))
            largest = max(largest, float(np.abs(expected).max(initial=0.0)))
    return Verification(worst, TOLERANCE * largest if np.isfinite(largest) else 0.0)


def _max_abs_difference(expected: Any, exported: Any) -> float:
    if expected.shape != exported.shape:
        return float("inf")
    if not np.isfinite(expected).all() or not np.isfinite(exported).all():
        return float("inf")
    return float(np.abs(expected - exported).max())


def fix_batch(content: bytes, batch: int) -> bytes:
    """Gives an ONNX model with a dynamic batch a fixed one.

    Args:
        content: The ONNX file.
        batch: Images in a call.

    Returns:
        The same model; an input whose first dimension is fixed already is left alone.
    """
    import onnx

    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and dimensions[0].dim_param:
            dimensions[0].dim_value = batch
    model.graph.ClearField("value_info")
    fixed: bytes = model.SerializeToString()
    return fixed


# -- exporters ----------------------------------------------------------------------------------


def _first_of(exporters: Sequence[Exporter], module: nn.Module, input: Input) -> bytes:
    errors: list[Exception] = []
    for exporter in exporters:
        try:
            with _evaluated(module), silence():
                return exporter(module, input)
        except Exception as error:  # Exporters raise nearly anything.
            errors.append(error)
    lines = ((str(e).strip().splitlines() or [type(e).__name__])[0][:200] for e in errors)
    raise ExportError(f"the model cannot be exported ({'; '.join(lines)})") from errors[0]


def _agreeing(exporter: Exporter, module: nn.Module, input: Input) -> bytes:
    content = exporter(module, input)
    verification = verify_onnx(module, input, content)
    if not verification.ok:
        apart = (
            f"{verification.max_abs_difference:.2g} apart; allowed is {verification.allowed:.2g}"
        )
        raise RuntimeError(f"the file's logits and the module's are up to {apart}")
    return content


def _traced(module: nn.Module, input: Input) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (_example(module, input, 1),),
        buffer,  # type: ignore[arg-type]
        dynamo=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    return buffer.getvalue()


def _captured(module: nn.Module, input: Input) -> bytes:
    """Exports through torch.export, without the stack traces that it notes at every node."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with _pools_as_means(module):
        program = torch.onnx.export(
            module,
            (_example(module, input, 2),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
        )
    assert program is not None
    proto: Any = program.model_proto
    graph = proto.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.ClearField("metadata_props")
    _means_as_pools(graph)
    graph.ClearField("value_info")
    content: bytes = proto.SerializeToString()
    return content


@contextlib.contextmanager
def _pools_as_means(module: nn.Module) -> Iterator[None]:
    """Has global average pools be means: else the exporter writes half a dozen operators for each.

    Of a small net these take as long as its convolutions.
    """
    pools = [
        part
        for part in module.modules()
        if type(part) is nn.AdaptiveAvgPool2d and part.output_size in (1, (1, 1))
    ]
    for pool in pools:
        pool.forward = _mean_of_planes  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for pool in pools:
            del pool.forward


def _mean_of_planes(images: Tensor) -> Tensor:
    return images.mean((-2, -1), keepdim=True)


def _means_as_pools(graph: Any) -> None:
    """Turns means over the last two of four dimensions into pools, which can be quantised."""
    from onnx import helper, numpy_helper

    stored = {value.name: value for value in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in stored:
            continue
        axes = sorted(numpy_helper.to_array(stored[node.input[1]]).tolist())
        kept = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if ranks.get(node.input[0]) == 4 and axes in ([-2, -1], [2, 3]) and kept.get("keepdims", 1):
            pool = helper.make_node(
                "GlobalAveragePool", [node.input[0]], list(node.output), name=node.name
            )
            node.CopyFrom(pool)
    used_names = {name for node in graph.node for name in node.input}
    for value in [value for value in graph.initializer if value.name not in used_names]:
        graph.initializer.remove(value)


def _example(module: nn.Module, input: Input, batch: int) -> Tensor:
    """Grey images: nothing is drawn, so that an export leaves random states as they were."""
    return torch.full((batch, input.channels, *input.size), 0.5, device=_device_of(module))


def _device_of(module: nn.Module) -> torch.device:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextlib.contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppresses the exporters' logs, warnings and prints."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
