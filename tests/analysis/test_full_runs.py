"""Accuracy after full runs, read from real files and kept in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nasdistill.analysis.audit import FILE, FullRuns, full_runs
from nasdistill.common.files import write_whole


def write_final(study: Path, rank: int, trial: int, accuracy: float) -> Path:
    folder = study / "finals" / str(rank)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    write_whole(path, json.dumps({"trial": trial, "audit_accuracy": accuracy}))
    return path


def write_audit(study: Path, full: dict[str, dict[str, float]]) -> None:
    write_whole(study / FILE, json.dumps({"full": full}))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in order."""
    names: list[str] = []
    read_text = Path.read_text

    def noting(path: Path, *args: str, **kwargs: str) -> str:
        names.append(path.name)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", noting)
    return names


def test_a_study_without_full_runs(tmp_path: Path) -> None:
    assert full_runs(tmp_path) == {} == FullRuns(tmp_path).accuracy()


def test_an_audited_trial_counts_with_the_mean_of_its_seeds(tmp_path: Path) -> None:
    write_final(tmp_path, 1, trial=7, accuracy=0.9)
    write_final(tmp_path, 2, trial=3, accuracy=0.8)
    write_audit(tmp_path, {"3": {"1": 0.5, "2": 0.75}, "4": {"1": 0.25}, "5": {}})
    assert full_runs(tmp_path) == {7: 0.9, 3: 0.625, 4: 0.25}


def test_folders_that_are_no_finals_do_not_count(tmp_path: Path) -> None:
    write_final(tmp_path, 1, trial=7, accuracy=0.9)
    (tmp_path / "finals" / "1").rename(tmp_path / "finals" / "1.tmp")
    (tmp_path / "finals" / "2").mkdir()
    assert full_runs(tmp_path) == {}


def test_only_what_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    write_final(tmp_path, 1, trial=7, accuracy=0.9)
    write_audit(tmp_path, {"4": {"1": 0.25}})
    runs = FullRuns(tmp_path)
    assert runs.accuracy() == {7: 0.9, 4: 0.25}
    assert sorted(reads) == [FILE, "metrics.json"]
    reads.clear()
    assert runs.accuracy() == {7: 0.9, 4: 0.25} and reads == []
    write_audit(tmp_path, {"4": {"1": 0.25}, "5": {"1": 0.5}})
    assert runs.accuracy() == {7: 0.9, 4: 0.25, 5: 0.5} and reads == [FILE]
    reads.clear()
    write_final(tmp_path, 2, trial=8, accuracy=0.7)
    assert runs.accuracy() == {7: 0.9, 8: 0.7, 4: 0.25, 5: 0.5} and reads == ["metrics.json"]


def test_a_file_of_the_same_size_is_read_again_where_its_time_differs(tmp_path: Path) -> None:
    path = write_final(tmp_path, 1, trial=7, accuracy=0.9)
    runs = FullRuns(tmp_path)
    assert runs.accuracy() == {7: 0.9}
    before = path.stat()
    path.write_text(path.read_text().replace("0.9", "0.8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert runs.accuracy() == {7: 0.8}


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    path = write_final(tmp_path, 1, trial=7, accuracy=0.9)
    write_audit(tmp_path, {"4": {"1": 0.25}})
    runs = FullRuns(tmp_path)
    runs.accuracy()
    path.unlink()
    (tmp_path / FILE).unlink()
    assert runs.accuracy() == {}


def test_the_returned_figures_are_the_callers_own(tmp_path: Path) -> None:
    write_final(tmp_path, 1, trial=7, accuracy=0.9)
    runs = FullRuns(tmp_path)
    runs.accuracy().clear()
    assert runs.accuracy() == {7: 0.9}
