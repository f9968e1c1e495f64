"""The stored attributes of a study: every one is listed, and nothing else is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import optuna
import pytest

from nasdistill.results import keys

OLD = Path(__file__).parents[1] / "regression" / "study_0.1"


def test_a_stored_study_has_no_attribute_that_is_not_listed(tmp_path: Path) -> None:
    database = shutil.copy(OLD / "study.db", tmp_path)
    study = optuna.load_study(study_name="old", storage=f"sqlite:///{database}")
    assert {"recipe", "limits"} <= set(study.user_attrs)
    former = keys.unlisted(study.user_attrs, keys.STUDY_KEYS)
    assert {name.partition(":")[0] for name in former} <= {"race", "raced_from"}, "of its race"
    for trial in study.trials:
        assert keys.unlisted(trial.user_attrs, keys.TRIAL_KEYS) == []


def test_what_is_not_listed_is_found() -> None:
    names = ["recipe", "table:cat", "table:", "seconds:finals:ab12", "seconds:finals", "colour"]
    assert keys.unlisted(names, keys.STUDY_KEYS) == ["table:", "seconds:finals", "colour"]


def test_a_key_of_several_tells_them_apart() -> None:
    attributes = {"teacher:3": {"kind": 3}, "teacher:14": None, "teacher": {"name": "bars"}}
    assert keys.FURTHER_TEACHER.among(attributes) == {("3",): {"kind": 3}, ("14",): None}
    assert keys.FURTHER_TEACHER.of(3).get(attributes) == {"kind": 3}
    assert keys.TEACHER.get(attributes) == {"name": "bars"}
    assert keys.MICRO_BATCH.of(".work-3/final").name == "micro_batch:.work-3/final"


@pytest.mark.parametrize("listed", [keys.STUDY_KEYS, keys.TRIAL_KEYS])
def test_each_key_is_listed_once_and_told_apart_from_the_others(
    listed: tuple[keys.Key[object], ...],
) -> None:
    names = [key.name for key in listed]
    assert len(set(names)) == len(names)
    declared = [value for value in vars(keys).values() if isinstance(value, keys.Key)]
    assert len(declared) == len(keys.STUDY_KEYS) + len(keys.TRIAL_KEYS)
    for key in listed:
        example = key.name.format("a", "b")
        matching = [other.name for other in listed if other.among({example: 1})]
        # `assistants:architectures` and the like are whole names, and no other key's kind.
        assert matching == [key.name]
        assert key.content and key.writer and key.readers


def test_who_writes_and_reads_each_key_is_what_the_code_does() -> None:
    package = Path(keys.__file__).parents[1]
    names = {name: value for name, value in vars(keys).items() if isinstance(value, keys.Key)}
    users: dict[str, set[str]] = {name: set() for name in names}
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        for name in re.findall(r"\bkeys\.([A-Z_]+)\b", path.read_text()):
            if name in users:
                users[name].add(module)
    for name, key in names.items():
        modules = {part.strip() for part in f"{key.writer}, {key.readers}".split(",")}
        # Figures of an architecture are written by their names: params, macs, …
        if name in ("PARAMS", "MACS", "BYTES", "DEPTH", "ACTIVATIONS"):
            modules -= {"study.study"}
        assert modules - {"nobody"} == users[name], name
