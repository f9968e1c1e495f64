from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_study import prepare, write_blobs

from nasdistill import api
from nasdistill.api import stages
from nasdistill.api.moving import missing_files, relocate, teachers_at
from nasdistill.api.paths import recipe_of
from nasdistill.common.errors import UserError
from nasdistill.common.events import silent
from nasdistill.common.types import Input
from nasdistill.data import Dataset, load_data
from nasdistill.recipe import load_recipe
from nasdistill.results import StudyRecord, keys, load_study, storage
from nasdistill.study import Study
from nasdistill.trials import context as trials_context
from nasdistill.trials.context import open_context
from nasdistill.trials.plugins import check_plugins, load_plugins

STUDIES = Path("studies")
SHORT = {"trials": 3, "top_k": 1, "final_budget": "2 epochs", "stopping": False}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a complete small study."""
    folder = prepare(tmp_path_factory.mktemp("searched"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        api.search(load_recipe("recipe.yaml", SHORT))
    yield folder


@pytest.fixture
def there(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, moved elsewhere, as the current one."""
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record() -> StudyRecord:
    return load_study("small", STUDIES)


def refused(name: str = "small", **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        api.resume(name, **more)
    return str(caught.value)


def test_a_renamed_study_is_reported_resumed_and_distilled(there: Path) -> None:
    (STUDIES / "small").rename(STUDIES / "-a copy")
    assert api.report("-a copy").is_file()
    command = "mv 'studies/-a copy' studies/a-copy"
    assert refused("-a copy").endswith(f"rename it: {command}")
    (STUDIES / "-a copy").rename(STUDIES / "renamed")
    assert api.resume("renamed").already_complete
    outcome = api.resume("renamed", overrides={"trials": 4})
    assert outcome.record.name == "renamed" and len(outcome.record.candidates) >= 4
    assert len(api.distill("renamed", top_k=2).record.finals) == 2


def test_a_file_managers_copy_is_gone_on_with_by_several_workers(there: Path) -> None:
    """Its name needs quotes in a shell."""
    name = "größe #2 (copy)"
    shutil.copytree(STUDIES / "small", STUDIES / name)
    outcome = api.resume(name, overrides={"trials": 5, "workers": 2})
    assert outcome.record.name == name and len(outcome.record.candidates) >= 5
    assert len(record().candidates) < 5, "the original was gone on with"
    assert len(api.distill(name, top_k=2).record.finals) >= 2
    assert api.report(name).parent.name == name
    Path("blobs.npz").rename("moved.npz")
    assert f"nasdistill resume '{name}' --data npz:NEW" in refused(name)
    with pytest.raises(UserError, match="study: found .*allowed: letters, digits"):
        load_recipe(None, {"study": name})


def test_data_that_were_moved_are_read_once(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("blobs.npz").rename("moved.npz")
    read: list[str] = []

    def counting(spec: str, **more: Any) -> Dataset:
        read.append(spec)
        return load_data(spec, **more)

    monkeypatch.setattr(trials_context, "load_data", counting)
    overrides = {"data": "npz:moved.npz", "trials": 4, "workers": 1}
    outcome = api.resume("small", overrides=overrides)
    assert len(outcome.record.candidates) >= 4 and not outcome.already_complete
    assert read == ["npz:moved.npz"]


def test_data_that_were_moved_are_taken_where_they_lie_now(there: Path) -> None:
    Path("blobs.npz").rename("moved.npz")
    before = record()
    command = "nasdistill resume small --data npz:NEW"
    for use in (
        lambda: api.resume("small"),
        lambda: api.distill("small", top_k=2),
        lambda: api.evaluate("small/1"),
        lambda: api.audit("small", count=3, repeats=0),
    ):
        with pytest.raises(UserError, match=command):
            use()
    assert api.resume("small", overrides={"data": "npz:moved.npz"}).already_complete
    after = record()
    assert after.recipe == {**before.recipe, "data": "npz:moved.npz"}
    assert after.data == {**before.data, "name": "npz:moved.npz", "attribution": "moved.npz"}
    assert after.candidates == before.candidates
    assert "npz:moved.npz" in (STUDIES / "small/recipe.yaml").read_text()
    assert api.report("small").is_file()
    assert len(api.distill("small", top_k=2).record.finals) == 2
    assert api.evaluate("small/1")["file"] is not None
    assert len(api.audit("small", count=3, repeats=0).audit.numbers) == 3


def test_other_data_are_refused_with_what_has_changed(there: Path) -> None:
    before = record().recipe
    write_blobs(there / "fewer.npz", train=540)
    assert "train: 441 examples, were 501" in refused(overrides={"data": "npz:fewer.npz"})
    arrays = dict(np.load("blobs.npz"))
    arrays["images"][0, 0, 0] ^= 1
    np.savez("pixel.npz", **arrays)
    assert "as many examples of the same classes" in refused(overrides={"data": "npz:pixel.npz"})
    assert record().recipe == before  # nothing of this was taken


def test_the_file_of_one_s_own_and_the_space_are_taken_where_they_lie_now(there: Path) -> None:
    Path("lib").mkdir()
    Path("own.py").rename("lib/own.py")
    Path("tiny.yaml").rename("lib/tiny.yaml")
    assert refused().endswith("nasdistill resume small --space NEW.yaml --import NEW.py")
    moved = {"import_file": "lib/own.py", "space": "lib/tiny.yaml"}
    assert api.resume("small", overrides=moved).already_complete
    assert api.resume("small").already_complete
    Path("lib/own.py").write_text(Path("lib/own.py").read_text() + "\n# more\n")
    assert "--import has changed" in refused(overrides={"import_file": "./lib/own.py"})


def _opened(**options: Any) -> None:
    """Makes a study of what a recipe names, without a trial."""
    recipe = load_recipe("recipe.yaml", {"study": "taught", **options})
    plugins = load_plugins(recipe.import_file)
    study = Study.open(recipe, STUDIES, "a test")
    check_plugins(study, plugins)
    open_context(study, plugins, silent)


def _relocate(teachers: dict[str, str] | None = None, **overrides: Any) -> StudyRecord:
    taught = load_study("taught", STUDIES)
    if teachers:
        overrides["teachers"] = teachers_at(taught, teachers)
    relocate(taught, recipe_of(taught, overrides), silent)
    return load_study("taught", STUDIES)


def test_teachers_are_taken_where_they_lie_now(there: Path) -> None:
    shutil.copytree("studies/small/finals/1", "one")
    shutil.copytree("one", "two")
    terms = [{"term": "kl", "weight": 1.0, "teacher": "big"}]
    _opened(teacher="folder:one", teachers={"big": {"model": "folder:two"}}, final={"terms": terms})
    Path("one").rename("main")
    Path("two").rename("further")
    message = refused("taught")
    assert message.endswith("resume taught --teacher folder:NEW --teacher big=folder:NEW")
    new = _relocate({"big": "folder:further"}, teacher="folder:main")
    assert new.recipe["teacher"] == "folder:main" and new.teacher["name"] == "folder:main"
    assert new.recipe["teachers"]["big"]["model"] == "folder:further"
    with pytest.raises(UserError, match=r"no further teacher 'bag'; did you mean 'big'\?"):
        _relocate({"bag": "folder:further"})

    weights = load_file("main/model.safetensors")
    name = next(name for name in weights if name.startswith("net"))
    save_file({**weights, name: weights[name] + 0.5}, "further/model.safetensors")
    with pytest.raises(UserError, match="'folder:further' has other weights.*the same shape"):
        _relocate(teacher="folder:further")
    with pytest.raises(UserError, match=r"'folder:\./further' has other weights"):
        _relocate({"big": "folder:./further"})
    assert load_study("taught", STUDIES).recipe == new.recipe


def test_weights_are_taken_where_they_lie_now(there: Path) -> None:
    plugins = load_plugins("own.py")
    state = plugins.teachers["bars"](3, Input(1, 16, 16)).state_dict()
    save_file({name: tensor * 1.5 for name, tensor in state.items()}, "w.safetensors")
    _opened(weights="w.safetensors")
    Path("w.safetensors").rename("v.safetensors")
    assert refused("taught").endswith("resume taught --weights NEW")
    assert _relocate(weights="v.safetensors").recipe["weights"] == "v.safetensors"
    save_file({name: tensor * 1.6 for name, tensor in state.items()}, "u.safetensors")
    with pytest.raises(UserError, match="other weights than the one it was made with"):
        _relocate(weights="u.safetensors")


def test_what_is_no_longer_there_is_named_with_its_flag(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "there.pt")
    Path(tmp_path / "studies/one/finals/2").mkdir(parents=True)

    def flags(**options: Any) -> list[str]:
        recipe = load_recipe(None, options)
        return [file.flag for file in missing_files(recipe, tmp_path / "studies")]

    assert flags() == flags(space="mobile", data="torchvision:MNIST", teacher="timm:x") == []
    assert flags(data=f"folder:{tmp_path}", teacher="final:one/2") == []
    assert flags(data="folder:gone", weights="gone.pt", teacher="timm:x") == [
        "--data folder:NEW",
        "--weights NEW",
    ]
    assert flags(teacher="final:gone/2") == ["--teacher final:NEW/RANK"]
    assert flags(teacher="table:gone.npz") == ["--teacher table:NEW"]
    assert flags(teacher="transformers:./gone,size=32") == ["--teacher transformers:NEW,size=32"]
    assert flags(teacher=f"timm:x,weights={tmp_path}/there.pt") == []
    gone = flags(teacher="timm:x,weights=gone.pt,size=32")
    assert gone == ["--teacher timm:x,size=32,weights=NEW"]
    terms = [{"term": "kl", "weight": 1.0, "teacher": name} for name in ("a", "b")]
    teachers = {"a": {"model": "timm:x", "weights": "gone.pt"}, "b": {"table": "gone.npz"}}
    assert flags(teachers=teachers, final={"terms": terms}) == [
        "--teacher a=timm:x,weights=NEW",
        "--teacher b=table:NEW",
    ]


def test_a_storage_that_is_locked_in_the_middle_of_a_command_is_named(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.2)
    other = sqlite3.connect(STUDIES / "small/study.db", isolation_level=None)

    def lock_and_work(*arguments: Any) -> None:
        other.execute("BEGIN EXCLUSIVE")
        study: Study = arguments[0]
        study.write(keys.STATE, "searching")

    monkeypatch.setattr(stages, "run_search", lock_and_work)
    message = refused(overrides={"trials": 5})
    assert "locked by another process" in message and "study.db" in message
    other.close()
    assert record().recipe["trials"] == 5
