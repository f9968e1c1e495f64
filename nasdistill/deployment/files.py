"""Files of a final: each written whole beside the others, proven, and recorded in metrics.json."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nasdistill.common import locks
from nasdistill.common.errors import UserError, disk_problem
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import write_whole
from nasdistill.common.types import FormatName, ScoreName
from nasdistill.data import Dataset
from nasdistill.deployment.calibration import calibration_of
from nasdistill.deployment.card import list_files
from nasdistill.deployment.formats import FORMATS, Remarks, format_of
from nasdistill.deployment.metadata import metadata_of
from nasdistill.deployment.proof import Proving
from nasdistill.deployment.source import Source
from nasdistill.models import Classifier, artifact
from nasdistill.models.export import ExportError
from nasdistill.results import read_final
from nasdistill.results.files import problems_of


@dataclass(frozen=True)
class Setting:
    """What the files of all finals of a study have in common.

    Attributes:
        study: The study's name.
        dataset: Its data; None where they are not at hand, and why is told.
        licence: Credits and licence of the data; empty where they are not known.
        score: The study's score.
        max_loss: Points that a file may lose against fp32.
        threads: Threads that latency is measured with.
        latency_lock: The study's; None where nobody else is at work.
        emit: Told what happens.
        distil_quantised: Distils a final, whose folder it is given, on with fake quantisation; see
            `Source`. None where nothing can be trained.
    """

    study: str
    dataset: Dataset | None
    licence: str
    score: ScoreName
    max_loss: float
    threads: int
    latency_lock: Path | None
    emit: Emit
    distil_quantised: Callable[[Path], Classifier | None] | None = None


def missing_files(
    folder: Path, metrics: Mapping[str, Any], names: Sequence[FormatName]
) -> list[FormatName]:
    """Those formats of which a final has no file yet, and that have not failed for it.

    Args:
        folder: The final's.
        metrics: The content of its metrics.json.
        names: The formats wanted.
    """
    records = metrics.get("files", {})
    return [
        name
        for name in names
        if name not in records
        or not ("failed" in records[name] or (folder / FORMATS[name].file).is_file())
    ]


def make_files(folder: Path, names: Sequence[FormatName], setting: Setting) -> None:
    """Makes what a final lacks of these formats; what cannot be made is told and recorded.

    Args:
        folder: The final's.
        names: The formats wanted.
        setting: See there.
    """
    for name in missing_files(folder, read_final(folder).metrics, names):
        try:
            make_file(folder, name, setting)
        except UserError as error:
            _record(folder, name, {"failed": str(error)})
            text = f"final {folder.name}: no {name} file: {error}"
            setting.emit(Event("warning", text, stage="files"))


def make_file(folder: Path, name: FormatName, setting: Setting) -> dict[str, Any]:
    """Makes one file of a final, or finds that it is there and whole.

    Args:
        folder: The final's.
        name: The format.
        setting: See there.

    Returns:
        Its record, which is in metrics.json: see `Proving.prove`, and `file`, `seconds`, `remarks`.

    Raises:
        UserError: If it cannot be written, or its runtime cannot run it.
    """
    format = format_of(name)
    if format.around is not None:
        make_file(folder, format.around, setting)
    with locks.alone(folder.parent / f".files-{folder.name}.lock"):
        known = read_final(folder).metrics.get("files", {}).get(name)
        if known is not None and _is_proven(folder, known, setting):
            return {**known, "problems": problems_of(known, setting.max_loss)}
        start = time.perf_counter()
        setting.emit(Event("note", f"final {folder.name}: {name}: writing", stage="files"))
        source = _source(folder, name, setting)
        with _written(folder, name, source) as (temporary, remarks):
            setting.emit(Event("note", f"final {folder.name}: {name}: proving", stage="files"))
            proving = _proving(folder, source, setting)
            parts = sorted(path.name for path in temporary.iterdir())
            size = sum((temporary / part).stat().st_size for part in parts)
            record = proving.prove(temporary / format.file, name, size)
            _put_in_place(temporary, folder, format.file)
        seconds = time.perf_counter() - start
        named = {"file": format.file, "parts": parts}
        record = {**named, **record, "remarks": remarks, "seconds": seconds}
        _record(folder, name, record)
    _tell(folder, name, record, setting.emit)
    return record


def _is_proven(folder: Path, record: Mapping[str, Any], setting: Setting) -> bool:
    """Whether a file is there, as large as it was, and tested, if it can be now."""
    if "failed" in record or record["bytes"] != _size(folder, record["parts"]):
        return False
    return setting.dataset is None or record.get("test_accuracy") is not None


def _size(folder: Path, parts: Sequence[str]) -> int | None:
    """Bytes of a file and of those beside it that belong to it; None where one is missing."""
    paths = [folder / part for part in parts]
    complete = all(path.is_file() for path in paths)
    return sum(path.stat().st_size for path in paths) if complete else None


def _source(folder: Path, name: FormatName, setting: Setting) -> Source:
    metrics, dataset = read_final(folder).metrics, setting.dataset
    calibration = None
    if FORMATS[name].needs_pictures:
        if dataset is None:
            raise UserError(
                f"--format {name}: pictures of the study's data are needed to write it, and they "
                "are not at hand (see above)"
            )
        synthetic = metrics.get("synthetic_images") is not None
        calibration = calibration_of(dataset, setting.score, synthetic)
    return Source(
        artifact.load(folder),
        artifact.input_of(folder),
        folder / "model.onnx",
        metadata_of(
            artifact.read_input(folder), setting.study, metrics["fingerprint"], setting.licence
        ),
        calibration,
        setting.max_loss,
        setting.emit,
        None if setting.distil_quantised is None else partial(setting.distil_quantised, folder),
    )


def _proving(folder: Path, source: Source, setting: Setting) -> Proving:
    metrics = read_final(folder).metrics
    limits, engines = dict(metrics["limits"]), {row["engine"] for row in metrics["latency"]}
    if engines != {"onnxruntime"}:  # a limit that was held elsewhere says nothing of this machine
        limits.pop("latency", None)
    return Proving(
        source.module,
        source.input,
        folder / "model.onnx",
        setting.dataset,
        setting.score,
        limits,
        setting.max_loss,
        setting.threads,
        setting.latency_lock,
        setting.emit,
    )


@contextmanager
def _written(folder: Path, name: FormatName, source: Source) -> Iterator[tuple[Path, Remarks]]:
    """A folder beside the final's files with the file in it, removed afterwards.

    Raises:
        UserError: If the file cannot be written.
        OSError: If the disk is full; nothing is left of it.
    """
    temporary = folder.with_name(f".{folder.name}-{name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        try:
            remarks = FORMATS[name].write(source, temporary / FORMATS[name].file)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # Converters raise nearly anything.
            if disk_problem(error) is not None:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise ExportError(f"{name}: the model cannot be written ({reason})") from error
        yield temporary, remarks
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, file: str) -> None:
    """Moves a file into the final's folder, after those that it needs beside it."""
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == file):
        with open(path, "rb") as content:
            os.fsync(content.fileno())
        path.replace(folder / path.name)


def _record(folder: Path, name: FormatName, record: Mapping[str, Any]) -> None:
    metrics = dict(read_final(folder).metrics)
    metrics["files"] = {**metrics.get("files", {}), name: record}
    list_files(folder, metrics["files"])
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1))


def _tell(folder: Path, name: FormatName, record: Mapping[str, Any], emit: Emit) -> None:
    title = f"final {folder.name}: {name}"
    for text in record["remarks"].get("text", ()):
        emit(Event("note", f"{title}: {text}", stage="files"))
    for problem in record["problems"]:
        emit(Event("warning", f"{title}: {problem}", stage="files"))
