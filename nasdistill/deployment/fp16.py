"""ONNX files with weights and arithmetic of 16 bits."""

from __future__ import annotations

from pathlib import Path

from nasdistill.deployment.compact import compact
from nasdistill.deployment.formats import Remarks
from nasdistill.deployment.source import Source


def write_fp16(source: Source, path: Path) -> Remarks:
    """Writes a final with fp16 weights; pictures and logits stay fp32.

    Args:
        source: The final.
        path: The file.

    Returns:
        Nothing that was decided.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load_from_string(source.onnx_with_metadata())
    converted = convert_float_to_float16(model, keep_io_types=True)
    path.write_bytes(compact(converted))
    return {}
