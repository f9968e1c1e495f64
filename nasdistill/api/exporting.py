"""A final's files in the formats that devices take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nasdistill.api.evaluating import locate, own_data
from nasdistill.api.paths import final_folder, recipe_of
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, warning_once
from nasdistill.common.files import STUDIES
from nasdistill.recipe import Recipe, from_stored
from nasdistill.results import load_study, read_final

if TYPE_CHECKING:
    from nasdistill.common.types import FormatName
    from nasdistill.data import Dataset
    from nasdistill.results import StudyRecord

WEB = "web"
"""The format that is a folder with a page, beside those of `deployment.formats`."""


def export(
    target: str,
    rank: int | None = None,
    format: str = "onnx",
    out: Path | None = None,
    *,
    max_loss: float | None = None,
    onnxruntime_web: Path | None = None,
    with_preprocessing: bool = False,
    on_event: Emit | None = None,
) -> dict[str, Any]:
    """Writes a final in a format, proves the file, and copies it; or a page that classifies.

    The file lies in the final's folder, too, and its record in metrics.json there; one that is
    there already and whole is not made again.

    Args:
        target: The study's name, `STUDY/RANK`, or a final's folder inside its study.
        rank: The final's rank, beside the study's name.
        format: One of `deployment.formats.FORMATS`, or `web`: a folder with a page.
        out: The file to write; by default it lies in the current folder.
        max_loss: Points that the file may lose against fp32; by default the recipe's.
        onnxruntime_web: For `web`, a folder with onnxruntime-web's files; by default npm fetches
            them once.
        with_preprocessing: Whether the file takes a picture as decoded and prepares it itself; for
            ONNX formats.
        on_event: Told what happens.

    Returns:
        The file's record (see `deployment.files.make_file`) and `path`; of `web` see
        `deployment.web.write_web`.

    Raises:
        UserError: If there is no such final, the format is unknown or its runtime is not installed,
            the file exists, has another format's ending, or cannot be written.
    """
    from nasdistill.common.machine import set_threads
    from nasdistill.deployment import formats
    from nasdistill.deployment.files import Setting, make_file
    from nasdistill.trials.plugins import load_plugins

    if format == WEB:
        if with_preprocessing:
            raise UserError(
                "--with-preprocessing: the page of --format web prepares pictures itself"
            )
        folder, record = _final_of(target, rank)
        return _export_page(folder, record, out, onnxruntime_web, warning_once(on_event or silent))
    if onnxruntime_web is not None:
        raise UserError(f"--onnxruntime-web {onnxruntime_web}: goes with --format web alone")
    if with_preprocessing:
        format = formats.with_preprocessing(format)
    kind = formats.format_of(format)
    folder, record = _final_of(target, rank)
    stem, suffix = kind.file.partition(".")[::2]
    name = f"{record.name}-{folder.name}{stem.removeprefix('model')}.{suffix}"
    path = out or Path(name)
    if path.suffix != f".{suffix}":
        raise UserError(f"--out {path}: a file of --format {format} ends in .{suffix}")
    _refuse_existing(path)
    emit, recipe = warning_once(on_event or silent), from_stored(record.recipe)
    load_plugins(recipe.import_file)
    set_threads(1)
    setting = Setting(
        record.name,
        _data(record, recipe, kind.needs_pictures, emit),
        str(record.data.get("attribution") or ""),
        recipe.score,
        recipe.max_loss if max_loss is None else max_loss,
        1,
        record.folder / "latency.lock",
        emit,
    )
    made = make_file(folder, cast("FormatName", format), setting)
    places = {part: _place(part, kind.file, path) for part in made["parts"]}
    for place in places.values():
        _refuse_existing(place)
    for part, place in places.items():
        _copy(folder / part, place)
    return {**made, "format": format, "path": str(path)}


def _final_of(target: str, rank: int | None) -> tuple[Path, StudyRecord]:
    if rank is None:
        return locate(target, "export")
    return final_folder(target, str(rank)), load_study(target, STUDIES)


def _export_page(
    folder: Path, record: StudyRecord, out: Path | None, runtime: Path | None, emit: Emit
) -> dict[str, Any]:
    """Writes the folder of a page that classifies pictures; see `deployment.web`."""
    from nasdistill.deployment.web import find_runtime, write_web

    place = out or Path(f"{record.name}-{folder.name}-web")
    if place.exists():
        raise UserError(f"{place} exists already; give another --out")
    title = f"{record.name}, final {folder.name}"
    made = write_web(read_final(folder), title, place, find_runtime(runtime, emit))
    return {**made, "format": WEB}


def _data(record: StudyRecord, recipe: Recipe, needed: bool, emit: Emit) -> Dataset | None:
    """The study's data; None, and told why, where they cannot be had and need not be.

    Raises:
        UserError: If they are needed.
    """
    from nasdistill.common.machine import pick_device

    emit(Event("stage", f"data {recipe.data}", stage="files"))
    try:
        return own_data(record, recipe_of(record), pick_device("cpu"), emit)
    except UserError as error:
        if needed:
            raise UserError(f"{error}. Pictures of the study's data are needed for this") from None
        emit(Event("warning", f"{error}; accuracy is not measured", stage="files"))
        return None


def _place(part: str, file: str, path: Path) -> Path:
    """Where a part of a format's file goes, beside the file itself."""
    if part.startswith(file):  # the file, or what is named after it
        return path.with_name(path.name + part.removeprefix(file))
    return path.with_suffix(Path(part).suffix)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists already; give another --out")


def _copy(source: Path, path: Path) -> None:
    """Copies a file: whole, or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
