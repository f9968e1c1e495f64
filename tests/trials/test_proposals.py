"""What is tried next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nasdistill.common.errors import UserError
from nasdistill.results import Candidate
from nasdistill.trials.proposals import excess_over, give_up_on_failures


def test_excess_is_a_share_of_the_limit() -> None:
    figures = {"params": 150_000.0, "macs": 10.0, "bytes": 400.0}
    assert excess_over(figures, {"params": 100_000.0, "macs": 20.0}) == {"params": 0.5}
    assert excess_over(figures, {"params": 150_000.0}) == {}


def study_of(states: str) -> Any:
    names = {"f": "failed", "s": "stopped", "c": "complete", "r": "rejected", "x": "running"}
    found = [
        Candidate(i, names[s], {}, str(i), {}, reason="no memory")  # type: ignore[arg-type]
        for i, s in enumerate(states)
    ]
    return SimpleNamespace(candidates=lambda: found)


@pytest.mark.parametrize("states", ["", "ffff", "fffffs", "fcfffff", "s" + "f" * 9, "ffffrrxs"])
def test_some_failures_are_borne(states: str) -> None:
    give_up_on_failures(study_of(states))


@pytest.mark.parametrize("states", ["fffff", "rfffxff", "s" + "f" * 10, "cc" + "f" * 12])
def test_failure_after_failure_ends_the_search(states: str) -> None:
    with pytest.raises(UserError, match="trials in a row failed; the last one because: no memory"):
        give_up_on_failures(study_of(states))
