"""The formats of a final's files: how each is written, and run by the runtime that it is made for.

A process that only runs a file (`runtime`) imports this module, and none of torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.common.types import FormatName, nearest

if TYPE_CHECKING:
    from nasdistill.deployment.source import Source

Pictures = NDArray[np.float32]
"""Pictures in [0, 1], `[B, C, H, W]`."""
Logits = NDArray[np.float32]
"""Logits, `[B, classes]`."""
Answer = Callable[[Pictures], Logits]
"""Runs a loaded file."""
Remarks = dict[str, Any]
"""What was decided while a file was written, in JSON values; see `Format.write`."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        file: Its name in the folder of a final.
        packages: The packages that write and run it, by the names they are imported by.
        pip: What `pip install` takes where one of them is not installed.
        engine: The package that runs it, as pip knows it.
        needs_pictures: Whether it cannot be written without pictures of the final's data.
        write: Writes the file to a path in an empty folder, where further files may lie beside it;
            gives remarks for the file's record: `text` holds sentences for the user.
        open: Loads the file for so many threads.
    """

    file: str
    packages: tuple[str, ...]
    pip: str
    engine: str
    needs_pictures: bool
    write: Callable[[Source, Path], Remarks]
    open: Callable[[Path, int], Answer]


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


# -- running ------------------------------------------------------------------------------------


def _open_onnx(path: Path, threads: int) -> Answer:
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


def _open_program(path: Path, threads: int) -> Answer:
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def answer(pictures: Pictures) -> Logits:
        with torch.inference_mode():
            logits: Logits = module(torch.from_numpy(pictures)).numpy()
        return logits

    return answer


FORMATS: Mapping[FormatName, Format] = {
    "onnx": Format(
        file="model.onnx",
        packages=("onnx", "onnxruntime"),
        pip="onnx onnxruntime",
        engine="onnxruntime",
        needs_pictures=False,
        write=_write_onnx,
        open=_open_onnx,
    ),
    "onnx-int8": Format(
        file="model-int8.onnx",
        packages=("onnx", "onnxruntime"),
        pip="onnx onnxruntime",
        engine="onnxruntime",
        needs_pictures=True,
        write=_write_int8,
        open=_open_onnx,
    ),
    "onnx-fp16": Format(
        file="model-fp16.onnx",
        packages=("onnx", "onnxruntime"),
        pip="onnx onnxruntime",
        engine="onnxruntime",
        needs_pictures=False,
        write=_write_fp16,
        open=_open_onnx,
    ),
    "torch-export": Format(
        file="model.pt2",
        packages=("torch",),
        pip="torch",
        engine="torch",
        needs_pictures=False,
        write=_write_program,
        open=_open_program,
    ),
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
    missing = [package for package in format.packages if not _is_installed(package)]
    if missing:
        raise UserError(
            f"--format {name}: {', '.join(missing)} is not installed; run `pip install "
            f"{format.pip}`"
        )
    return format


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


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
