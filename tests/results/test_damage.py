"""Studies with a damaged file: named, shown with what can be read, and hiding no other study."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasdistill import api
from nasdistill.analysis.audit import full_runs
from nasdistill.cli.display import damage_lines, finals_table, studies_table, study_summary
from nasdistill.common.errors import UserError
from nasdistill.report import write_report
from nasdistill.report.page import render
from nasdistill.results import DamagedStudy, StudyRecord, load_finals, load_study

OLD = Path(__file__).parents[1] / "regression" / "study_0.1"
METRICS, QUALITY = "finals/1/metrics.json", "finals/1/quality.json"
RECOMMENDED, AUDIT = "finals/recommended.json", "audit.json"
JSON_FILES = (METRICS, QUALITY, RECOMMENDED, AUDIT)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two studies, `old` and `sound`, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasdistill.report.document.get_plotlyjs", str)
    shutil.copytree(OLD, tmp_path / "studies" / "old")
    shutil.copytree(OLD, tmp_path / "studies" / "sound")
    with sqlite3.connect(tmp_path / "studies" / "sound" / "study.db") as database:
        database.execute("UPDATE studies SET study_name = 'sound'")
    return tmp_path


def listed() -> dict[str, StudyRecord | DamagedStudy]:
    """All studies by name, shown in the terminal's table as well."""
    records = api.studies()
    assert studies_table(records).row_count == 2
    json.dumps([study_summary(record) for record in records])
    return {record.name: record for record in records}


def test_sound_studies_have_no_damage(here: Path) -> None:
    for record in listed().values():
        assert isinstance(record, StudyRecord) and not record.damage
        assert study_summary(record)["damage"] == []
    events: list[Any] = []
    assert "What could not be read" not in api.report("old", on_event=events.append).read_text()
    assert events == []


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b'{"trial": 1', "not JSON, or cut off"),
        (b"\xff\xfe{}", "not a text file in UTF-8"),
        (b"{}", "is missing"),
        (b"[" * 5000, "nested more than 64 deep"),
        (b'{"trial": ' + b"1" * 5000 + b"}", "a whole number of 5,000 digits"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(
    here: Path, name: str, content: bytes, reason: str
) -> None:
    path = here / "studies" / "old" / name
    (here / "studies" / "old" / AUDIT).unlink()  # to analyse it takes long
    path.write_bytes(content)
    record = listed()["old"]
    assert isinstance(record, StudyRecord) and len(record.candidates) == 7
    events: list[Any] = []
    page = api.report("old", on_event=events.append).read_text()
    [event] = events
    assert f"studies/old/{name}: " in event.text and reason in event.text
    assert "What could not be read" in page and f"studies/old/{name}" in page
    if name in (METRICS, RECOMMENDED):
        [line] = damage_lines([record])
        assert line.startswith(f"old: studies/old/{name}: ") and reason in line
    assert len(record.finals) == (name != METRICS)
    full_runs(path.parent)  # which a search asks for at each rung


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("study.db", b"", "study.db: empty"),
        ("study.db", b"SQLite for", "study.db is not an SQLite database"),
        ("study.db", b"\0" * 4096, "study.db is not an SQLite database"),
        ("study.db", None, "there is no file .*study.db, which held the study's trials"),
        ("storage.txt", b"", "storage.txt: empty"),
        ("storage.txt", b"\xff\xfe", "storage.txt: not a text file in UTF-8"),
        ("storage.txt", b"no URL", "cannot open the storage 'no URL'"),
    ],
)
def test_a_study_whose_storage_is_damaged_hides_no_other(
    here: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = here / "studies" / "old" / name
    path.write_bytes(content) if content is not None else path.unlink()
    studies = listed()
    assert isinstance(studies["sound"], StudyRecord)
    assert isinstance(studies["old"], DamagedStudy)
    assert re.search(reason, studies["old"].reason)
    assert study_summary(studies["old"])["state"] == "damaged"
    with pytest.raises(UserError, match=reason):
        api.report("old")
    if content is not None:
        assert path.read_bytes() == content


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_a_database_cut_anywhere(here: Path, share: float) -> None:
    path = here / "studies" / "old" / "study.db"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    studies = listed()
    assert isinstance(studies["sound"], StudyRecord)
    assert isinstance(studies["old"], DamagedStudy) and "study.db" in studies["old"].reason


@pytest.mark.parametrize(
    ("table", "key", "value", "reason"),
    [
        ("trial", "rung_0", '{"rung": 0}', "rung 0: the key 'budget' is missing"),
        ("trial", "rung_1", '"x"', "rung 1: "),
        ("trial", "architecture", '"{"', "architecture: not JSON"),
        ("trial", "params", '"many"', "params: input should be a valid integer, found 'many'"),
        ("trial", "latency", '"x"', "latency: input should be a valid number"),
        ("trial", "fingerprint", None, "the key 'fingerprint' is missing"),
    ],
)
def test_a_damaged_trial_is_left_out_and_named(
    here: Path, table: str, key: str, value: str | None, reason: str
) -> None:
    before = load_study("old", Path("studies"))
    with sqlite3.connect("studies/old/study.db") as database:
        where = "WHERE key = ? AND trial_id = 2"
        if value is None:
            database.execute(f"DELETE FROM trial_user_attributes {where}", (key,))
        else:
            statement = f"UPDATE trial_user_attributes SET value_json = ? {where}"
            if not database.execute(statement, (value, key)).rowcount:
                statement = (
                    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (2, ?, ?)"
                )
                database.execute(statement, (key, value))
    record = load_study("old", Path("studies"))
    assert [c.number for c in before.candidates if c.number != 1] == [
        c.number for c in record.candidates
    ]
    [sentence] = record.damage
    assert sentence.startswith("trial 1 in the study's storage") and reason in sentence
    write_report(record, here / "r.html")


@pytest.mark.parametrize(
    ("key", "value"), [("rungs", '["x"]'), ("stage", '"lost"'), ("teacher", "[]"), ("limits", "3")]
)
def test_a_damaged_attribute_of_a_study(here: Path, key: str, value: str) -> None:
    with sqlite3.connect("studies/old/study.db") as database:
        statement = "UPDATE study_user_attributes SET value_json = ? WHERE key = ?"
        assert database.execute(statement, (value, key)).rowcount == 1
    damaged = listed()["old"]
    assert isinstance(damaged, DamagedStudy)
    assert f"study 'old' in its storage: {key}" in damaged.reason


def places(tree: Any) -> list[tuple[Any, ...]]:
    """The places of all values, nested ones and what holds them."""
    if not isinstance(tree, (dict, list)):
        return [()]
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    return [()] + [(key, *below) for key, value in items for below in places(value)]


def spoiled(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested values with one of them replaced, or taken away where `value` is `...`."""
    if not place:
        return {} if value is ... else value
    key, *rest = place
    items = list(enumerate(tree)) if isinstance(tree, list) else list(tree.items())
    gone = value is ... and not rest
    copied = {
        k: spoiled(v, tuple(rest), value) if k == key else v
        for k, v in items
        if not (gone and k == key)
    }
    return list(copied.values()) if isinstance(tree, list) else copied


VALUES = st.just(...) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """A study whose files examples spoil and put right again."""
    folder = shutil.copytree(OLD, tmp_path_factory.mktemp("any") / "studies" / "old")
    return load_study("old", folder.parent)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("name", JSON_FILES)
def test_any_damage_to_a_file_leaves_a_list_and_a_report(
    study: StudyRecord, name: str, data: st.DataObject
) -> None:
    path, whole = study.folder / name, (OLD / name).read_bytes()
    (study.folder / AUDIT).unlink(missing_ok=True)  # to analyse it takes long
    if data.draw(st.booleans()):
        content = json.loads(whole)
        place = data.draw(st.sampled_from(places(content)))
        path.write_text(json.dumps(spoiled(content, place, data.draw(VALUES))))
    else:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    damage: list[str] = []
    try:
        record = replace(study, finals=load_finals(study.folder, damage), damage=damage)
        studies_table([record])
        finals_table(record.finals)
        full_runs(study.folder)
        for sentence in render(record).damage:
            assert str(path) in sentence
    finally:
        path.write_bytes(whole)
