"""A black box: recorded logits of a model that cannot be run here, by example."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.class_names import are_numbers, differences, few, match_classes
from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole

FORMS = ("logits", "probabilities", "top_indices", "labels")
LEAST = 1e-6
"""The probability that stands for 0: its logarithm is finite."""


@dataclass(frozen=True)
class Table:
    """Recorded logits, in the order of the training split.

    Attributes:
        logits: float32 `[N, C]`, or log-probabilities; 0 in rows that are missing.
        known: bool `[N]`, False in rows that are missing.
    """

    logits: NDArray[np.float32]
    known: NDArray[np.bool_]


def read_table(path: Path, names: Sequence[str], classes: Sequence[str], missing: str) -> Table:
    """Reads recorded logits, probabilities or labels.

    A Parquet file has a column `id` (the example's name) and an npz file an array `ids`; beside it
    stands one of: `logits`; `probabilities`; `top_indices` and `top_values` (the probabilities of
    the likeliest classes; the rest is spread evenly over the others); `labels` (a class's name or
    number). Names of the classes, in the order of its columns and numbers, may stand there too: as
    an array `classes`, or as JSON under `classes` in the metadata of a Parquet file.

    Args:
        path: `.parquet` or `.npz`.
        names: Of the training examples, see `Dataset.names`.
        classes: Names of the data's classes.
        missing: `error` or `skip`.

    Raises:
        UserError: If the file cannot be read, does not fit the data, or lacks examples.
    """
    columns = _columns(path)
    ids = [str(value) for value in columns.pop("ids")]
    own = [str(name) for name in np.atleast_1d(columns.pop("classes", classes))]
    order = _order(path, own, classes)
    logits = _logits(path, columns, len(ids), own)[:, order]
    row_of = {name: row for row, name in enumerate(ids)}
    if len(row_of) != len(ids):
        repeated = next(name for row, name in enumerate(ids) if row_of[name] != row)
        raise UserError(f"table {path}: the id {repeated!r} stands there more than once")
    rows = np.array([row_of.get(name, -1) for name in names])
    known = rows >= 0
    if not known.any():
        first_names, first_ids = (", ".join(map(repr, part[:3])) for part in (names, ids))
        raise UserError(
            f"table {path}: none of its {len(ids)} ids is a training example's; examples are "
            f"called {first_names}, …, the table's {first_ids}, …"
        )
    if not known.all() and missing == "error":
        absent = [name for name, is_known in zip(names, known, strict=True) if not is_known]
        raise UserError(
            f"table {path}: {len(absent)} of {len(names)} training examples have no answer, such "
            f"as {', '.join(map(repr, absent[:3]))}. Record them too, or set missing: skip"
        )
    return Table(np.where(known[:, None], logits[rows], np.float32(0)), known)


def check_form(path: Path) -> None:
    """Refuses a file that could not be written.

    Raises:
        UserError: If its ending is another than `.npz` or `.parquet`, or a package is missing.
    """
    if path.suffix == ".parquet":
        _pyarrow(path)
    elif path.suffix != ".npz":
        raise UserError(f"table {path}: its name must end in .parquet or .npz")


def write_table(
    path: Path,
    names: Sequence[str],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> None:
    """Writes probabilities in the form that `read_table` reads.

    Args:
        path: `.parquet` or `.npz`.
        names: Of the examples.
        probabilities: `[N, C]`, rows sum to 1.
        classes: Names of its columns.

    Raises:
        UserError: If its ending is another than `.npz` or `.parquet`, or a package is missing.
    """
    check_form(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(
            buffer,
            ids=np.array(names),
            classes=np.array(classes),
            probabilities=probabilities.astype(np.float32),
        )
    else:
        arrow, parquet = _pyarrow(path)
        rows = {"id": list(names), "probabilities": probabilities.astype(np.float32).tolist()}
        table = arrow.table(rows).replace_schema_metadata({"classes": json.dumps(list(classes))})
        parquet.write_table(table, buffer)
    write_whole(path, buffer.getvalue())


def _order(path: Path, own: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The column of each of the data's classes.

    Raises:
        UserError: If the table's classes are others.
    """
    lacking, extra = differences(own, classes)
    if len(own) == len(classes) and (are_numbers(own) or are_numbers(classes)) and lacking:
        return list(range(len(classes)))
    if lacking or extra:
        raise UserError(
            f"table {path}: its classes are not the data's: the table alone has "
            f"{few(lacking) or 'none'}, the data alone {few(extra) or 'none'}. Write the data's "
            "names into its `classes`, in the order of its columns"
        )
    return [column for column in match_classes(own, classes) if column is not None]


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
    except UserError:
        raise
    except Exception as error:  # Broken bytes make NumPy, zlib and Arrow raise nearly anything.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"table {path}: cannot be read ({reason})") from None
    columns = {{"id": "ids", "label": "labels"}.get(k, k): v for k, v in columns.items()}
    if "ids" not in columns:
        raise UserError(f"table {path}: it has no ids, only {', '.join(columns) or 'nothing'}")
    return columns


def _parquet(path: Path) -> dict[str, Any]:
    _, parquet = _pyarrow(path)
    table = parquet.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    stored = (table.schema.metadata or {}).get(b"classes")
    return columns if stored is None else {**columns, "classes": json.loads(stored)}


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"table {path}: Parquet needs pyarrow: pip install 'nasdistill[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _logits(
    path: Path, columns: Mapping[str, Any], rows: int, classes: Sequence[str]
) -> NDArray[np.float32]:
    """Logits or log-probabilities, float32 `[rows, C]`, from whichever form the file has."""
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
    """All the probability on one class, whose name or number the label is."""
    by_name = {name: index for index, name in enumerate(classes)}
    numbers = np.asarray([by_name.get(str(label), label) for label in labels], dtype=np.int64)
    if ((numbers < 0) | (numbers >= len(classes))).any():
        raise ValueError(f"classes are numbered 0 to {len(classes) - 1}, found {numbers.max()}")
    return np.eye(len(classes))[numbers]


def _of_top(indices: Any, values: Any, classes: int) -> NDArray[np.float64]:
    """The likeliest classes as recorded, the rest of the probability spread over the others."""
    top = np.asarray(indices, dtype=np.int64)
    top_p = np.asarray(values, dtype=np.float64)
    if top.ndim != 2 or top.shape != top_p.shape:
        raise ValueError(f"indices of shape {top.shape}, values of shape {top_p.shape}")
    if ((top < 0) | (top >= classes)).any():
        raise ValueError(f"classes are numbered 0 to {classes - 1}, found {top.max()}")
    others = classes - top.shape[1]
    rest = (1 - top_p.sum(axis=1)).clip(0) / max(1, others)
    probabilities = np.repeat(rest[:, None], classes, axis=1)
    np.put_along_axis(probabilities, top, top_p, axis=1)
    return probabilities
