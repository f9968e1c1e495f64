"""The stored attributes of a study: every one is listed, and nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest

from nasdistill.results import keys

OLD = Path(__file__).parents[1] / "regression" / "study_0.1"


def test_a_stored_study_has_no_attribute_that_is_not_listed(tmp_path: Path) -> None:
    database = shutil.copy(OLD / "study.db", tmp_path)
    study = optuna.load_study(study_name="old", storage=f"sqlite:///{database}")
    assert {"recipe", "limits", "race:1", "teacher_latency"} & set(study.user_attrs)
    assert keys.unlisted(study.user_attrs, keys.STUDY_KEYS) == []
    for trial in study.trials:
        assert keys.unlisted(trial.user_attrs, keys.TRIAL_KEYS) == []


def test_what_is_not_listed_is_found() -> None:
    names = ["recipe", "race:12", "race:", "seconds:finals:ab12", "seconds:finals", "colour"]
    assert keys.unlisted(names, keys.STUDY_KEYS) == ["race:", "seconds:finals", "colour"]


def test_a_key_of_several_tells_them_apart() -> None:
    attributes = {"race:3": {"rung": 3}, "race:14": None, "race": [3, 14], "raced_from": [4, 2]}
    assert keys.RACE_SCORE.among(attributes) == {("3",): {"rung": 3}, ("14",): None}
    assert keys.RACE_SCORE.of(3).get(attributes) == {"rung": 3}
    assert keys.CONTENDERS.get(attributes) == [3, 14]
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
