"""Full runs that are kept from study to study."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasdistill.results.experience import (
    EarlierRun,
    Untrained,
    experience_file,
    keep_runs,
    lines_of,
    read_runs,
    shipped_runs,
)

SPACE = "0123456789abcdef"
RUN = EarlierRun(
    Untrained({"width": 8, "block": {"type": "ghost"}}, 100, 10, 3, {"synflow": 1.5}),
    0.75,
    "here",
    "small (1), trial 3",
)


def test_full_runs_are_kept_and_read(tmp_path: Path) -> None:
    other = replace(RUN, source="small (1), trial 4", of=replace(RUN.of, zero_cost=None))
    messages: list[str] = []
    keep_runs(tmp_path, SPACE, [RUN, other], messages.append)
    keep_runs(tmp_path, SPACE, [replace(RUN, accuracy=0.8)], messages.append)  # measured again
    path = experience_file(tmp_path, SPACE)
    assert read_runs(path, SPACE, messages.append) == [other, replace(RUN, accuracy=0.8)]
    assert read_runs(path.with_name("none.jsonl"), SPACE, messages.append) == []
    assert messages == []
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".jsonl", ".lock"]


def test_a_space_without_a_file_in_the_package() -> None:
    assert shipped_runs(SPACE) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "line 2: empty"),
        ('{"accuracy": 0.5', "line 2: not JSON, or cut off"),
        (lines_of([RUN], "another")[0], "line 2: of another search space"),
        (json.dumps({**json.loads(lines_of([RUN], SPACE)[0]), "accuracy": 7}), "line 2: accuracy"),
        (lines_of([RUN], SPACE)[0].replace("100", "1" * 5000), "a whole number of 5,000 digits"),
        ('{"of": ' + "[" * 3000 + "]" * 3000 + "}", "line 2: nested more than 64 deep"),
        (lines_of([RUN], SPACE)[0].replace("0.75", "NaN"), "not finite"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_kept(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = experience_file(tmp_path, SPACE)
    path.parent.mkdir()
    path.write_text("\n".join([*lines_of([RUN], SPACE), line, ""]))
    messages: list[str] = []
    assert read_runs(path, SPACE, messages.append) == [RUN]
    [text] = messages
    assert str(path) in text and "1 of 2 lines are left out" in text and reason in text
    keep_runs(tmp_path, SPACE, [replace(RUN, source="new")], messages.append)
    assert len(read_runs(path, SPACE, messages.append)) == 2
    assert line in path.read_text().splitlines()


def test_a_file_that_is_no_text_teaches_nothing_and_is_not_overwritten(tmp_path: Path) -> None:
    path = experience_file(tmp_path, SPACE)
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    messages: list[str] = []
    assert read_runs(path, SPACE, messages.append) == []
    keep_runs(tmp_path, SPACE, [RUN], messages.append)
    assert ["not a text file in UTF-8" in text for text in messages] == [True, True]
    assert path.read_bytes() == b"\xff\xfe\x00"


def test_a_folder_that_cannot_be_written_loses_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".experience").write_text("a file in the folder's place")
    messages: list[str] = []
    keep_runs(tmp_path, SPACE, [RUN], messages.append)
    [text] = messages
    assert "is not kept for later studies" in text and os.fspath(tmp_path) in text


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.binary(max_size=8))
def test_cut_or_overwritten_anywhere(tmp_path: Path, place: int, content: bytes) -> None:
    path = experience_file(tmp_path, SPACE)
    path.parent.mkdir(exist_ok=True)
    whole = "\n".join(lines_of([RUN, replace(RUN, source="other")], SPACE)).encode()
    path.write_bytes(whole[:place] + content)
    messages: list[str] = []
    runs = read_runs(path, SPACE, messages.append)
    assert len(runs) <= 2 and all(isinstance(run, EarlierRun) for run in runs)
    assert all(str(path) in text for text in messages)
