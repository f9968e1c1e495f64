"""Records, the front, and frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasdistill.analysis.front import front
from nasdistill.common.errors import UserError
from nasdistill.results import (
    Candidate,
    RungScore,
    candidates_frame,
    load_study,
    open_storage,
    storage_of,
    storage_url,
    study_names,
)
from nasdistill.results.loading import _savings


def trial(number: int, accuracy: float | None, params: int, state: str = "complete") -> Candidate:
    scores = () if accuracy is None else (RungScore(0, 9, accuracy, 0.0, 1.0, 0.5, 1.0),)
    return Candidate(
        number,
        state,
        {},
        str(number),
        {"width": 8 * number},
        params=params,
        rungs=scores,  # type: ignore[arg-type]
    )


TRIALS = [
    trial(0, 0.9, 900),
    trial(1, 0.8, 100),
    trial(2, 0.79, 200),
    trial(3, 0.95, 50, "stopped"),
    trial(4, None, 10, "rejected"),
]


def test_the_front_holds_complete_trials_that_none_beats() -> None:
    assert [c.number for c in front(TRIALS, ("params",))] == [0, 1]
    assert front(TRIALS[3:], ("params",)) == []
    assert front(TRIALS, ("latency",)) == [], "a cost that was not measured cannot be compared"


def test_frames_hold_costs_scores_and_parameters() -> None:
    frame = candidates_frame(TRIALS)
    assert frame["params"].tolist() == [900, 100, 200, 50, 10]
    assert frame["score"].tolist()[:4] == [0.9, 0.8, 0.79, 0.95]
    assert frame["width"].tolist() == [0, 8, 16, 24, 32]
    assert frame["state"].tolist()[3:] == ["stopped", "rejected"]


def test_what_one_worker_asked_and_another_used_is_not_saved() -> None:
    asked, used = {"saved:cache:a": -30_000}, {"saved:cache:b": 30_000}
    assert _savings(asked | used, [], ()) == {"cache": 0.0}
    assert _savings(asked | {"saved:cache:b": 40_000}, [], ()) == {"cache": 10_000.0}


def test_where_a_study_is_stored(tmp_path: Path) -> None:
    assert storage_of(tmp_path) is None
    assert storage_url(tmp_path, None) == f"sqlite:///{tmp_path / 'study.db'}"
    (tmp_path / "storage.txt").write_text("journal:x.log\n")
    assert storage_url(tmp_path, storage_of(tmp_path)) == "journal:x.log"


def test_storages_that_cannot_be_opened_keep_their_password() -> None:
    with pytest.raises(UserError) as caught:
        open_storage("postgresql+nodriver://me:secret@localhost/studies")
    assert "secret" not in str(caught.value) and "me:***@localhost" in str(caught.value)


def test_studies_that_are_not_there(tmp_path: Path) -> None:
    assert study_names(tmp_path) == []
    (tmp_path / "mobile").mkdir()
    (tmp_path / "mobile" / "recipe.yaml").write_text("space: mobile\n")
    with pytest.raises(UserError, match=r"no study 'moblie' .*did you mean 'mobile'\?"):
        load_study("moblie", tmp_path)
