"""Forecasts of a study's trials at a rung."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nasdistill.analysis.forecast import forecast
from nasdistill.analysis.front import forecast_at
from nasdistill.results import Candidate, RungScore

FULL = 27_000


def climbed(number: int, scores: list[float], macs: int, depth: int) -> Candidate:
    rungs = tuple(RungScore(i, 1000 * 3**i, s, s, s, 0.5, 1.0) for i, s in enumerate(scores))
    return Candidate(
        number=number,
        state="complete",
        architecture={},
        fingerprint=str(number),
        parameters={},
        params=2 * macs,
        macs=macs,
        depth=depth,
        rungs=rungs,
    )


def study(count: int) -> list[Candidate]:
    """Trials of which each second climbs to rung 1, and each fourth to rung 2."""
    rng = random.Random(3)
    return [
        climbed(
            i,
            [rng.random() for _ in range(3 if i % 4 == 0 else 2 if i % 2 == 0 else 1)],
            rng.randrange(100, 900),
            rng.randrange(3, 30),
        )
        for i in range(count)
    ]


def test_each_rung_is_taught_by_the_one_above() -> None:
    candidates = study(24)

    def at(rung: int, later: dict[int, float]) -> dict[int, float]:
        at_rung = [c for c in candidates if len(c.rungs) > rung]
        guess = forecast(
            [c.rungs[rung].accuracy for c in at_rung],
            [c.macs for c in at_rung],
            [c.params for c in at_rung],
            [c.depth for c in at_rung],
            [None] * len(at_rung),
            3**rung / 27,
            [later.get(c.number) for c in at_rung],
        ).guess
        return {c.number: float(value) for c, value in zip(at_rung, guess, strict=True)}

    expected = list(at(0, at(1, at(2, {}))).values())
    assert forecast_at(candidates, 0, {}, FULL).guess == pytest.approx(expected)
    untaught = list(at(0, {}).values())
    assert expected != pytest.approx(untaught)
    alone = [replace(c, rungs=c.rungs[:1]) for c in candidates]
    assert forecast_at(alone, 0, {}, FULL).guess == pytest.approx(untaught)


def test_full_runs_of_those_that_climbed_teach_the_rungs_below() -> None:
    candidates = study(80)
    # Twenty climbed to rung 2; a full run of each says that depth decides, and nothing else.
    full = {c.number: 0.8 + 0.001 * (c.depth or 0) for c in candidates if len(c.rungs) > 2}
    by_depth = sorted(range(80), key=lambda i: candidates[i].depth or 0)
    guess = forecast_at(candidates, 0, full, FULL).guess
    assert len(full) == 20
    assert max(guess[by_depth[:20]]) < min(guess[by_depth[-20:]])
