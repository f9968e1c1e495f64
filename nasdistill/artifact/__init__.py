"""The folder of a final: written whole, loaded without anybody's code, exported and verified."""

from nasdistill.artifact.export import (
    ExportError,
    Verification,
    export_onnx,
    export_program,
    fix_batch,
    quick_onnx,
    verify_onnx,
)
from nasdistill.artifact.folder import classify, input_of, load, read_input, write_final
from nasdistill.artifact.weights import load_weights, read_weights

__all__ = [
    "ExportError",
    "Verification",
    "classify",
    "export_onnx",
    "export_program",
    "fix_batch",
    "input_of",
    "load",
    "load_weights",
    "quick_onnx",
    "read_input",
    "read_weights",
    "verify_onnx",
    "write_final",
]
