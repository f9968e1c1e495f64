"""The formats of a final's files: how each is written, and run by the runtime that it is made for.

A process that only runs a file (`runtime`) imports this module, and none of torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nasdistill.common import runtimes
from nasdistill.common.errors import UserError
from nasdistill.common.runtimes import Answer
from nasdistill.common.types import FormatName, nearest

if TYPE_CHECKING:
    from nasdistill.deployment.source import Source

Remarks = dict[str, Any]
"""What was decided while a file was written, in JSON values; see `Format.write`."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        file: Its name in the folder of a final.
        packages: The packages that write and run it, by the names they are imported by.
        engine: The package that runs it, as pip knows it.
        needs_pictures: Whether it cannot be written without pictures of the final's data.
        write: Writes the file to a path in an empty folder, where further files may lie beside it;
            gives remarks for the file's record: `text` holds sentences for the user.
        open: Loads the file for so many threads.
        one_at_a_time: Whether the file takes one picture in a call, and no other number.
        around: The format whose file this one holds, with the preparation of pictures before it:
            it takes pictures as decoded, uint8 of any size. None for those that do not prepare.
    """

    file: str
    packages: tuple[str, ...]
    engine: str
    needs_pictures: bool
    write: Callable[[Source, Path], Remarks]
    open: Callable[[Path, int], Answer]
    one_at_a_time: bool = False
    around: FormatName | None = None


# -- writing ------------------------------------------------------------------------------------


def _write_onnx(source: Source, path: Path) -> Remarks:
    path.write_bytes(source.onnx_with_metadata())
    return {}


def _write_int8(source: Source, path: Path) -> Remarks:
    from nasdistill.deployment.int8 import write_int8

    return write_int8(source, path)


def _write_fp16(source: Source, path: Path) -> Remarks:
    from nasdistill.deployment.fp16 import write_fp16

    return write_fp16(source, path)


def _write_program(source: Source, path: Path) -> Remarks:
    from nasdistill.models.export import export_program

    export_program(source.module, source.input, path)
    return {}


def _write_openvino(source: Source, path: Path) -> Remarks:
    from nasdistill.models.converters import write_openvino

    write_openvino(source.onnx, source.metadata, path)
    return {}


def _write_executorch(source: Source, path: Path) -> Remarks:
    from nasdistill.models.converters import executorch_program

    path.write_bytes(executorch_program(source.module, source.input))
    source.write_metadata_beside(path)
    return {"text": [_ONE]}


def _write_litert(source: Source, path: Path) -> Remarks:
    from nasdistill.models.converters import litert_model

    path.write_bytes(litert_model(source.module, source.input))
    source.write_metadata_beside(path)
    return {"text": [_ONE]}


_ONE = "takes one picture at a time: timed at batch 1 alone"

_ONNX = Format(
    file="model.onnx",
    packages=("onnx", "onnxruntime"),
    engine="onnxruntime",
    needs_pictures=False,
    write=_write_onnx,
    open=runtimes.open_onnx,
)
_PLAIN: Mapping[FormatName, Format] = {
    "onnx": _ONNX,
    "onnx-int8": replace(_ONNX, file="model-int8.onnx", needs_pictures=True, write=_write_int8),
    "onnx-fp16": replace(_ONNX, file="model-fp16.onnx", write=_write_fp16),
    "torch-export": Format(
        file="model.pt2",
        packages=("torch",),
        engine="torch",
        needs_pictures=False,
        write=_write_program,
        open=runtimes.open_program,
    ),
    "openvino": Format(
        file="model.xml",
        packages=("openvino",),
        engine="openvino",
        needs_pictures=False,
        write=_write_openvino,
        open=runtimes.open_openvino,
    ),
    "executorch": Format(
        file="model.pte",
        packages=("executorch",),
        engine="executorch",
        needs_pictures=False,
        write=_write_executorch,
        open=runtimes.open_executorch,
        one_at_a_time=True,
    ),
    "litert": Format(
        file="model.tflite",
        packages=("litert_torch", "ai_edge_litert"),
        engine="ai-edge-litert",
        needs_pictures=False,
        write=_write_litert,
        open=runtimes.open_litert,
        one_at_a_time=True,
    ),
}

WITH_PREPROCESSING = "-with-preprocessing"


def _preparing(name: FormatName) -> Format:
    """The format that holds another one's ONNX file with the preparation of pictures before it."""

    def write(source: Source, path: Path) -> Remarks:
        from nasdistill.deployment.preprocessing import write_with_preprocessing

        return write_with_preprocessing(source, source.onnx.with_name(inner.file), path)

    inner = _PLAIN[name]
    return replace(
        inner,
        file=inner.file.replace(".", f"{WITH_PREPROCESSING}."),
        write=write,
        open=runtimes.open_preparing_onnx,
        one_at_a_time=True,
        around=name,
    )


FORMATS: Mapping[FormatName, Format] = {
    **_PLAIN,
    "onnx-with-preprocessing": _preparing("onnx"),
    "onnx-int8-with-preprocessing": _preparing("onnx-int8"),
    "onnx-fp16-with-preprocessing": _preparing("onnx-fp16"),
}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        UserError: If there is none, or a package that it takes is not installed.
    """
    by_name = {str(key): format for key, format in FORMATS.items()}
    if name not in by_name:
        known = [*by_name, "web"]
        raise UserError(f"--format {name!r}{nearest(name, known)}: allowed are {', '.join(known)}")
    format = by_name[name]
    runtimes.require(format.packages, f"--format {name}")
    return format


def with_preprocessing(name: str) -> FormatName:
    """The name of the format that prepares pictures itself and then does what another one does.

    Raises:
        UserError: If there is none.
    """
    format_of(name)
    full_name = name if name.endswith(WITH_PREPROCESSING) else name + WITH_PREPROCESSING
    if full_name not in FORMATS:
        allowed = ", ".join(str(format.around) for format in FORMATS.values() if format.around)
        raise UserError(
            f"--with-preprocessing: a file of --format {name} takes prepared pictures; allowed is "
            f"{allowed}"
        )
    return cast("FormatName", full_name)


def check_formats(names: Iterable[FormatName]) -> None:
    """Refuses formats that cannot be written here, before the work that leads to them.

    Raises:
        UserError: As of `format_of`.
    """
    for name in names:
        format_of(name)


def engine_version(format: Format) -> str:
    """The runtime of a format with its version, such as `onnxruntime 1.31.1`."""
    return f"{format.engine} {importlib.metadata.version(format.engine)}"
