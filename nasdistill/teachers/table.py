"""A black box: recorded answers of a model that cannot be run here, by example."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole

FORMS = ("logits", "probabilities", "top_indices", "labels")
LEAST = 1e-6
"""The probability that stands for 0: its logarithm is finite."""


@dataclass(frozen=True)
class Table:
    """Recorded answers, in the order of the training split.

    Attributes:
        answers: float32 `[N, C]`, log-probabilities or logits; 0 in rows that are missing.
        known: bool `[N]`.
    """

    answers: NDArray[np.float32]
    known: NDArray[np.bool_]


def read_table(path: Path, names: Sequence[str], classes: Sequence[str], missing: str) -> Table:
    """Reads recorded answers.

    A Parquet file has a column `id` (the example's name) and an npz file an array `ids`; beside it
    stands one of: `logits`; `probabilities`; `top_indices` and `top_values` (the probabilities of
    the likeliest classes; the rest is spread evenly over the others); `labels` (a class's name or
    number).

    Args:
        path: `.parquet` or `.npz`.
        names: Of the training examples, see `Dataset.names`.
        classes: Names of the data's classes.
        missing: `error` or `skip`.

    Raises:
        UserError: If the file cannot be read, does not fit the data, or lacks examples.
    """
    columns = _columns(path)
    ids = [str(one) for one in columns.pop("ids")]
    answers = _log_probabilities(path, columns, len(ids), classes)
    place = {name: row for row, name in enumerate(ids)}
    if len(place) != len(ids):
        twice = next(name for row, name in enumerate(ids) if place[name] != row)
        raise UserError(f"table {path}: the id {twice!r} stands there more than once")
    rows = np.array([place.get(name, -1) for name in names])
    known = rows >= 0
    if not known.any():
        examples, recorded = (", ".join(map(repr, some[:3])) for some in (names, ids))
        raise UserError(
            f"table {path}: none of its {len(ids)} ids is a training example's; examples are "
            f"called {examples}, …, the table's {recorded}, …"
        )
    if not known.all() and missing == "error":
        lacking = [name for name, there in zip(names, known, strict=True) if not there]
        raise UserError(
            f"table {path}: {len(lacking)} of {len(names)} training examples have no answer, such "
            f"as {', '.join(map(repr, lacking[:3]))}. Record them too, or set missing: skip"
        )
    return Table(np.where(known[:, None], answers[rows], np.float32(0)), known)


def check_form(path: Path) -> None:
    """Refuses a file that could not be written.

    Raises:
        UserError: If its ending is another than `.npz` or `.parquet`, or a package is missing.
    """
    if path.suffix == ".parquet":
        _pyarrow(path)
    elif path.suffix != ".npz":
        raise UserError(f"table {path}: its name must end in .parquet or .npz")


def write_table(path: Path, names: Sequence[str], probabilities: NDArray[np.float64]) -> None:
    """Writes answers in the form that `read_table` reads.

    Args:
        path: `.parquet` or `.npz`.
        names: Of the examples.
        probabilities: `[N, C]`, rows sum to 1.

    Raises:
        UserError: If the ending is another, or a package is missing.
    """
    check_form(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(buffer, ids=np.array(names), probabilities=probabilities.astype(np.float32))
    else:
        arrow, parquet = _pyarrow(path)
        rows = {"id": list(names), "probabilities": probabilities.astype(np.float32).tolist()}
        parquet.write_table(arrow.table(rows), buffer)
    write_whole(path, buffer.getvalue())


def _columns(path: Path) -> dict[str, Any]:
    """The arrays of a file, the ids under `ids`."""
    if not path.is_file():
        raise UserError(f"table {path}: there is no such file")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        elif path.suffix == ".parquet":
            columns = _parquet(path)
        else:
            raise UserError(f"table {path}: its name must end in .parquet or .npz")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"table {path}: cannot be read ({error})") from None
    columns = {{"id": "ids", "label": "labels"}.get(k, k): v for k, v in columns.items()}
    if "ids" not in columns:
        raise UserError(f"table {path}: it has no ids, only {', '.join(columns) or 'nothing'}")
    return columns


def _parquet(path: Path) -> dict[str, Any]:
    _, parquet = _pyarrow(path)
    table = parquet.read_table(path)
    return {name: table[name].to_pylist() for name in table.column_names}


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"table {path}: Parquet needs pyarrow: pip install 'nasdistill[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _log_probabilities(
    path: Path, columns: Mapping[str, Any], rows: int, classes: Sequence[str]
) -> NDArray[np.float32]:
    """float32 `[rows, C]` from whichever form the file has."""
    forms = [form for form in FORMS if form in columns]
    if len(forms) != 1:
        raise UserError(
            f"table {path}: it must have one of {', '.join(FORMS)}; found "
            f"{', '.join(forms) or ', '.join(columns) or 'nothing'}"
        )
    try:
        if forms == ["labels"]:
            probabilities = _of_labels(columns["labels"], classes)
        elif forms == ["top_indices"]:
            probabilities = _of_top(columns["top_indices"], columns["top_values"], len(classes))
        else:
            probabilities = np.asarray(columns[forms[0]], dtype=np.float64)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"table {path}: {forms[0]}: {error}") from None
    if probabilities.shape != (rows, len(classes)):
        raise UserError(
            f"table {path}: {forms[0]} of shape {probabilities.shape}, but there are {rows} ids "
            f"and {len(classes)} classes"
        )
    if not np.isfinite(probabilities).all():
        raise UserError(f"table {path}: {forms[0]} that are no finite numbers")
    if forms == ["logits"]:
        return np.asarray(probabilities, dtype=np.float32)
    sums = np.asarray(probabilities.sum(axis=1))
    if (probabilities < 0).any() or not np.allclose(sums, 1, atol=1e-2):
        worst = int(np.abs(sums - 1).argmax())
        raise UserError(
            f"table {path}: probabilities of row {worst} sum to {sums[worst]:.3f}, or are negative"
        )
    return np.asarray(np.log(probabilities.clip(LEAST)), dtype=np.float32)


def _of_labels(labels: Any, classes: Sequence[str]) -> NDArray[np.float64]:
    """All the probability on one class, given by name or number."""
    by_name = {name: index for index, name in enumerate(classes)}
    numbers = [by_name.get(str(one), one) for one in labels]
    indices = np.asarray(numbers, dtype=np.int64)
    if ((indices < 0) | (indices >= len(classes))).any():
        raise ValueError(f"classes are numbered 0 to {len(classes) - 1}, found {indices.max()}")
    return np.eye(len(classes))[indices]


def _of_top(indices: Any, values: Any, classes: int) -> NDArray[np.float64]:
    """The likeliest classes as top_values, the rest of the probability spread over the others."""
    top = np.asarray(indices, dtype=np.int64)
    top_values = np.asarray(values, dtype=np.float64)
    if top.ndim != 2 or top.shape != top_values.shape:
        raise ValueError(f"indices of shape {top.shape}, values of shape {top_values.shape}")
    if ((top < 0) | (top >= classes)).any():
        raise ValueError(f"classes are numbered 0 to {classes - 1}, found {top.max()}")
    others = classes - top.shape[1]
    rest = (1 - top_values.sum(axis=1)).clip(0) / max(1, others)
    spread = np.repeat(rest[:, None], classes, axis=1)
    np.put_along_axis(spread, top, top_values, axis=1)
    return spread
