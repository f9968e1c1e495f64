"""Recorded logits: each form by hand, and files that do not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasdistill.common.errors import UserError
from nasdistill.teachers.table import LEAST, Table, read_table, write_table

NAMES = ("a.png", "b.png", "c.png")
CLASSES = ("cat", "dog", "owl", "fox")
P = [[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]]


def write(folder: Path, **arrays: Any) -> Path:
    path = folder / "answers.npz"
    np.savez(path, **{"ids": np.array(NAMES), **arrays})
    return path


def read(path: Path, missing: str = "error", names: tuple[str, ...] = NAMES) -> Table:
    return read_table(path, names, CLASSES, missing)


def refused(path: Path, missing: str = "error", names: tuple[str, ...] = NAMES) -> str:
    with pytest.raises(UserError) as caught:
        read(path, missing, names)
    message = str(caught.value)
    assert message.startswith(f"table {path}: ")
    return message


def test_logits_stay_as_they_are(tmp_path: Path) -> None:
    logits = np.arange(12).reshape(3, 4) - 5.5
    table = read(write(tmp_path, logits=logits))
    assert table.logits.dtype == np.float32 and table.logits.tolist() == logits.tolist()
    assert table.known.tolist() == [True] * 3


def test_probabilities_become_finite_logarithms(tmp_path: Path) -> None:
    table = read(write(tmp_path, probabilities=np.array(P)))
    assert table.logits[0].tolist() == pytest.approx([math.log(0.7)] + [math.log(0.1)] * 3)
    assert table.logits[2].tolist() == pytest.approx(
        [math.log(LEAST), math.log(LEAST), 0.0, math.log(LEAST)]
    )


def test_the_rest_of_the_likeliest_is_spread(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        top_indices=np.array([[2, 0], [1, 3], [0, 1]]),
        top_values=np.array([[0.6, 0.2], [0.5, 0.5], [0.9, 0.04]]),
    )
    p = np.exp(read(path).logits)
    assert p[0].tolist() == pytest.approx([0.2, 0.1, 0.6, 0.1], rel=1e-5)
    assert p[1].tolist() == pytest.approx([LEAST, 0.5, LEAST, 0.5], rel=1e-5)
    assert p[2].tolist() == pytest.approx([0.9, 0.04, 0.03, 0.03], rel=1e-4)


@pytest.mark.parametrize("labels", [[2, 0, 3], ["owl", "cat", "fox"]])
def test_labels_by_name_and_by_number(tmp_path: Path, labels: list[Any]) -> None:
    table = read(write(tmp_path, labels=np.array(labels)))
    assert table.logits.argmax(axis=1).tolist() == [2, 0, 3]
    assert np.exp(table.logits).sum(axis=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_rows_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    path = write(
        tmp_path, ids=np.array(["x.png", "c.png", "a.png", "b.png"]), labels=np.array([0, 1, 2, 3])
    )
    assert read(path).logits.argmax(axis=1).tolist() == [2, 3, 1]
    numbered = write(tmp_path, ids=np.array([7, 2, 5]), labels=np.array([0, 1, 2]))
    table = read(numbered, names=("2", "5", "7"))
    assert table.logits.argmax(axis=1).tolist() == [1, 2, 0]


def test_missing_examples_are_an_error_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, ids=np.array(["b.png"]), logits=np.array([[1.0, 2.0, 3.0, 4.0]]))
    message = refused(path)
    assert "2 of 3 training examples have no answer, such as 'a.png', 'c.png'" in message
    assert "missing: skip" in message
    table = read(path, "skip")
    assert table.known.tolist() == [False, True, False]
    assert table.logits.tolist() == [[0.0] * 4, [1.0, 2.0, 3.0, 4.0], [0.0] * 4]
    none = write(tmp_path, ids=np.array(["z"]), logits=np.zeros((1, 4)))
    for missing in ("error", "skip"):
        assert "none of its 1 ids is a training example's; examples are called 'a.png'" in refused(
            none, missing
        )


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"ids": np.array(["a.png", "b.png", "a.png"]), "labels": np.array([0, 1, 2])},
            "the id 'a.png' stands there more than once",
        ),
        ({"logits": np.zeros((3, 5))}, "logits of shape (3, 5), but there are 3 ids and 4 classes"),
        ({"logits": np.zeros((2, 4))}, "logits of shape (2, 4), but there are 3 ids and 4 classes"),
        ({"logits": np.full((3, 4), np.nan)}, "logits that are no finite numbers"),
        ({"logits": np.full((3, 4), np.inf)}, "logits that are no finite numbers"),
        ({"probabilities": np.full((3, 4), np.nan)}, "no finite numbers"),
        (
            {"probabilities": np.array([P[0], P[1], [0.5, 0.1, 0.1, 0.1]])},
            "probabilities of row 2 sum to 0.800",
        ),
        ({"probabilities": np.array([P[0], P[1], [1.2, -0.2, 0, 0]])}, "or are negative"),
        ({"labels": np.array([0, 1, 4])}, "classes are numbered 0 to 3, found 4"),
        ({"labels": np.array(["cat", "dog", "cow"])}, "labels: invalid literal"),
        (
            {"top_indices": np.array([[4], [0], [1]]), "top_values": np.full((3, 1), 0.5)},
            "classes are numbered 0 to 3, found 4",
        ),
        ({"top_indices": np.array([[0], [0], [1]])}, "top_indices: 'top_values'"),
        (
            {"top_indices": np.array([[0], [0], [1]]), "top_values": np.full((3, 2), 0.5)},
            "indices of shape (3, 1), values of shape (3, 2)",
        ),
        (
            {"top_indices": np.array([[0], [0], [1]]), "top_values": np.full((3, 1), 1.5)},
            "sum to 1.500",
        ),
        (
            {"logits": np.zeros((3, 4)), "labels": np.zeros(3, int)},
            "must have one of logits, probabilities, top_indices, labels; found logits, labels",
        ),
        ({"scores": np.zeros((3, 4))}, "found scores"),
        ({"logits": np.array([["x"] * 4] * 3)}, "logits: could not convert string"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    assert words in refused(write(tmp_path, **arrays))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "none.npz")
    path = tmp_path / "answers.csv"
    path.write_text("id,label\n")
    assert "its name must end in .parquet or .npz" in refused(path)
    broken = tmp_path / "broken.npz"
    whole = write(tmp_path, logits=np.zeros((3, 4))).read_bytes()
    for content in (b"", b"id,label\n", whole[:40], whole[: len(whole) // 2], b"PK\x03\x04"):
        broken.write_bytes(content)
        assert "cannot be read" in refused(broken)
    np.savez(broken, logits=np.zeros((3, 4)))
    assert "it has no ids, only logits" in refused(broken)


class Boom:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, logits=np.array([Boom()], dtype=object))
    assert "cannot be read (Object arrays cannot be loaded when allow_pickle=False)" in refused(
        path
    )
    assert "unpickled" not in capsys.readouterr().out


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "answers.parquet"
    for columns in (
        {"probabilities": P},
        {"label": ["cat", "dog", "owl"]},
        {"label": [0, 1, 2]},
        {"top_indices": [[0], [1], [2]], "top_values": [[0.7], [0.4], [1.0]]},
    ):
        parquet.write_table(pyarrow.table({"id": list(NAMES), **columns}), path)
        table = read(path)
        assert table.known.all() and table.logits.argmax(axis=1)[2] == 2
    path.write_bytes(b"PAR1")
    assert "cannot be read" in refused(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        path = tmp_path / "answers.parquet"
        path.write_bytes(b"PAR1")
        assert "needs pyarrow: pip install 'nasdistill[parquet]'" in refused(path)
    else:
        pytest.skip("pyarrow is installed")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_columns_are_put_in_the_datas_order_by_their_names(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path, own = tmp_path / f"answers{suffix}", ("Owl", "fox", "cat", "dog")
    write_table(path, NAMES, np.array(P), own)
    expected = np.log(np.array(P).clip(LEAST))[:, [2, 3, 0, 1]]
    np.testing.assert_allclose(read(path).logits, expected, rtol=1e-6)
    write_table(path, NAMES, np.array(P), ("owl", "fox", "cat", "wolf"))
    assert "the table alone has 'wolf', the data alone 'dog'" in refused(path)
    write_table(path, NAMES, np.array(P), ("0", "1", "2", "3"))
    np.testing.assert_allclose(read(path).logits, np.log(np.array(P).clip(LEAST)), rtol=1e-6)


def test_numbers_are_those_of_the_tables_own_classes(tmp_path: Path) -> None:
    own = np.array(CLASSES[::-1])
    for labels in (np.array([1, 0, 3]), np.array(["owl", "fox", "cat"])):
        table = read(write(tmp_path, labels=labels, classes=own))
        assert table.logits.argmax(axis=1).tolist() == [2, 3, 0]
