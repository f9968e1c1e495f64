from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from nasdistill.common.errors import UserError
from nasdistill.recipe import load_recipe
from nasdistill.results import load_study, study_names
from nasdistill.study import Study
from nasdistill.study.place import locate_storage

COSTS = {"params": 1000, "macs": 1000, "bytes": 4000}
STUDIES = Path("studies")
ELSEWHERE = ["sqlite:///all.db", "journal:all.log"]


def opened(**options: Any) -> Study:
    return Study.open(load_recipe("recipe.yaml", options), STUDIES, "nasdistill search")


def numbers(name: str) -> list[int]:
    return [candidate.number for candidate in load_study(name, STUDIES).candidates]


def claim(study: Study) -> int | None:
    return study.claim(study.proposer().propose(0), COSTS)


@pytest.mark.parametrize("storage", [None, *ELSEWHERE])
def test_a_renamed_folder_goes_on_under_its_new_name(here: Path, storage: str | None) -> None:
    claim(opened(storage=storage))
    (STUDIES / "small").rename(STUDIES / "other")
    assert numbers("other") == [0] and study_names(STUDIES) == ["other"]
    study = opened(study="other", storage=storage)
    assert not study.created and claim(study) == 1
    assert numbers("other") == [0, 1]
    fresh = opened(storage=storage and storage.replace("all", "fresh"))  # the old name is free
    assert fresh.created and numbers("small") == []


@pytest.mark.parametrize("storage", [None, *ELSEWHERE])
def test_a_copy_goes_on_by_itself(here: Path, storage: str | None) -> None:
    claim(opened(storage=storage))
    shutil.copytree(STUDIES / "small", STUDIES / "copy")
    assert numbers("copy") == [0]
    copy = opened(study="copy", storage=storage)
    claim(copy)
    assert (numbers("small"), numbers("copy")) == ([0], [0, 1])
    assert opened(study="copy", storage=storage).trials() == copy.trials()
    assert numbers("small") == [0]


def test_a_copy_whose_name_another_study_has_is_refused(here: Path) -> None:
    opened(storage="sqlite:///all.db")
    shutil.copytree(STUDIES / "small", STUDIES / "copy")
    optuna.create_study(study_name="copy", storage="sqlite:///all.db")
    with pytest.raises(UserError, match="another study 'copy' already"):
        opened(study="copy", storage="sqlite:///all.db")


def test_a_trial_that_runs_in_the_original_is_taken_up_in_the_copy(here: Path) -> None:
    original = opened()
    assert claim(original) == 0
    shutil.copytree(STUDIES / "small", STUDIES / "copy")
    assert opened().take_up() is None  # this process lives, and is at it
    assert opened(study="copy").take_up() == 0


def test_a_renamed_study_is_still_the_same_to_who_works_on_it(here: Path) -> None:
    claim(opened())
    (STUDIES / "small").rename(STUDIES / "other")
    assert opened(study="other").take_up() is None


def test_the_whole_project_moves(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{here}/studies/small/mine.db"
    (STUDIES / "small").mkdir(parents=True)
    claim(opened(storage=storage))
    (here / "new").mkdir()
    for name in ("studies", "recipe.yaml", "tiny.yaml"):
        (here / name).rename(here / "new" / name)
    monkeypatch.chdir(here / "new")
    assert numbers("small") == [0]
    study = opened(storage=storage)  # the same command again, with the old place in it
    assert not study.created and study.url == f"sqlite:///{here}/new/studies/small/mine.db"
    assert not (here / "studies").exists()
    assert (STUDIES / "small/storage.txt").read_text() == f"{study.url}\nsmall\n"
    assert os.stat(STUDIES / "small/storage.txt").st_mode & 0o077 == 0


def test_a_study_is_not_begun_anew_in_another_storage(here: Path) -> None:
    claim(opened())
    with pytest.raises(UserError, match="is stored in sqlite:.*study.db, not in journal:x.log"):
        opened(storage="journal:x.log")
    assert not Path("x.log").exists() and numbers("small") == [0]
    opened(study="far", storage="journal:x.log")
    with pytest.raises(UserError, match="give the command with --storage journal:x.log"):
        opened(study="far")


def test_a_password_may_change(here: Path) -> None:
    folder = STUDIES / "far"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").touch()
    (folder / "storage.txt").write_text("mysql://me:old@host/a\nfar\n")
    assert locate_storage(folder, "mysql://me:new@host/a") == "mysql://me:new@host/a"


def test_a_study_whose_storage_is_gone_is_not_begun_anew(here: Path) -> None:
    opened()
    (STUDIES / "small/study.db").rename(here / "kept.db")
    for read in (lambda: load_study("small", STUDIES), opened):
        with pytest.raises(UserError, match=r"there is no file .*small/study\.db"):
            read()
    assert not (STUDIES / "small/study.db").exists()
    optuna.create_study(study_name="x", storage="sqlite:///other.db")
    (STUDIES / "small/storage.txt").write_text("sqlite:///other.db\nsmall")
    with pytest.raises(UserError, match=r"holds no study of that name \(there: 'x'\)"):
        load_study("small", STUDIES)


def test_a_change_of_the_space_is_named(here: Path) -> None:
    opened()
    text = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(text.replace("[0.0, 0.1]", "[0.0, 0.2]"))
    with pytest.raises(UserError, match=r"dropout\S*: was 0\.1, now 0\.2"):
        opened()


def test_a_moved_file_in_a_search_names_the_command_that_takes_it(here: Path) -> None:
    opened()
    with pytest.raises(UserError, match=r"resume small --data npz:b\.npz --import 'own 2\.py'"):
        opened(data="npz:b.npz", import_file="own 2.py")
    with pytest.raises(UserError) as caught:
        opened(data="npz:b.npz", seed=3)
    assert "resume" not in str(caught.value)
