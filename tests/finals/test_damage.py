"""Finals whose folder has lost a file are made again; whole ones stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from make_old_study import prepare

from nasdistill import api
from nasdistill.common.events import Event
from nasdistill.finals.pipeline import folder_problem
from nasdistill.results import load_study

OLD = Path(__file__).parents[1] / "regression" / "study_0.1"
FILES = ("README.md", "architecture.json", "input.json", "metrics.json", "model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A final's folder, to spoil."""
    return Path(shutil.copytree(OLD / "finals" / "1", tmp_path / "1"))


def test_a_whole_folder_has_no_problem(folder: Path) -> None:
    assert folder_problem(folder) is None
    (folder / "quality.json").unlink()  # `nasdistill evaluate` makes it anew
    assert folder_problem(folder) is None


@pytest.mark.parametrize("name", [*FILES, "model.safetensors"])
def test_a_file_that_is_lost_or_cut_is_named(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    assert str(path) in str(folder_problem(folder))
    if name != "README.md":
        for share in (0.0, 0.3, 0.9):
            path.write_bytes(whole[: int(len(whole) * share)])
            assert str(path) in str(folder_problem(folder))


def test_another_models_onnx_file_is_no_file_of_this_final(folder: Path) -> None:
    shutil.copy(OLD / "teacher.onnx", folder / "model.onnx")
    assert folder_problem(folder) == f"{folder / 'model.onnx'}: another model's"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_distilling_a_trial_makes_its_incomplete_final_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    finals = Path(shutil.copytree(OLD, "studies/old")) / "finals"
    (finals / "1" / "model.safetensors").unlink()
    (finals / "1" / "metrics.json").write_text("{")
    (finals.parent / "teacher.onnx.json").write_text('{"weights_hash": "0", "hash": "0"}')
    before = files(finals / "1")
    [damage] = load_study("old", Path("studies")).damage
    assert "metrics.json: not JSON, or cut off" in damage
    events: list[Event] = []

    def distil() -> Any:
        events.clear()
        return api.distill("old", trial=1, on_event=events.append).record

    record = distil()
    texts = [event.text for event in events if event.kind == "warning"]
    assert f"{damage}; the folder was put aside as 1.damaged" in texts[0]
    aside = "teacher.onnx: another teacher's; it was put aside as teacher.onnx.damaged"
    assert any(aside in text for text in texts)
    assert files(finals / "1.damaged") == before
    assert (finals.parent / "teacher.onnx.damaged").is_file()
    assert [(final.rank, final.number) for final in record.finals] == [(1, 1)]
    assert not record.damage and folder_problem(finals / "1") is None
    whole = files(finals / "1")
    distil()
    assert files(finals / "1") == whole, "a whole final was replaced"
    assert sorted(path.name for path in finals.glob("1*")) == ["1", "1.damaged"]
