"""What earlier full runs teach."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nasdistill.analysis.experience import FEWEST, MOST, Experience
from nasdistill.analysis.forecast import forecast, standardised
from nasdistill.analysis.rank_correlation import kendall
from nasdistill.results.experience import EarlierRun, Untrained, shipped_runs, stored
from nasdistill.space import SearchSpace

BONUS = {"plain": 0.0, "ghost": 0.3, "mixed": 0.6}


def drawn(rng: random.Random) -> Untrained:
    """An architecture of two stages, whose costs say nothing of what it is worth."""
    stages = [
        {"width": rng.choice([8, 16, 32]), "block": {"type": rng.choice(list(BONUS)), "kernel": 3}}
        for _ in range(2)
    ]
    stages = [
        s if s["block"]["type"] != "plain" else {**s, "block": {"type": "plain"}} for s in stages
    ]
    return Untrained({"stages": stages}, rng.randrange(100, 900), rng.randrange(10, 90), 4)


def error(one: Untrained, sign: float = 1.0) -> float:
    """Its error rate after a full run: the better blocks it has, the less."""
    worth = sum(BONUS[stage["block"]["type"]] for stage in one.values["stages"])
    return float(0.2 * np.exp(-sign * worth))


def runs(count: int, setting: str = "here", sign: float = 1.0, seed: int = 0) -> list[EarlierRun]:
    rng = random.Random(seed)
    subjects = [drawn(rng) for _ in range(count)]
    return [
        EarlierRun(one, 1 - error(one, sign), setting, str(i)) for i, one in enumerate(subjects)
    ]


NEW = [drawn(random.Random(seed)) for seed in range(1000, 1060)]
WORTH = [-error(one) for one in NEW]


def agreement(experience: Experience) -> float:
    tau = kendall(list(experience.guess(NEW)), WORTH)
    assert tau is not None
    return tau


def test_blocks_that_did_well_are_foretold_to_do_well_again() -> None:
    experience = Experience.of(runs(40), "here")
    assert agreement(experience) > 0.85  # some are worth the same: 0.9 is the most
    assert experience.record > 0.9 and experience.weight == MOST and experience.count == 40
    names = [one.name for one in experience.most_telling(3)]
    assert "stages.*.block.type=mixed" in names and "stages.*.block.type=plain" in names
    mixed, plain = (
        next(
            one for one in experience.most_telling(99) if one.name == f"stages.*.block.type={kind}"
        )
        for kind in ("mixed", "plain")
    )
    assert mixed.weight > 2 * mixed.deviation > 0 > plain.weight


def test_what_says_nothing_counts_nothing() -> None:
    rng = random.Random(3)
    noise = [EarlierRun(run.of, rng.uniform(0.7, 0.9), "here", run.source) for run in runs(40)]
    experience = Experience.of(noise, "here")
    assert abs(experience.record) < 0.35 and experience.weight < 1.2


@pytest.mark.parametrize(
    "few", [[], runs(FEWEST - 1), [r for i in range(20) for r in runs(1, f"setting {i}")]]
)
def test_too_few_full_runs_in_any_setting_teach_nothing(few: list[EarlierRun]) -> None:
    experience = Experience.of(few, "here")
    assert (experience.weight, experience.count) == (0.0, len(few))
    assert list(experience.guess(NEW)) == [0.0] * len(NEW)
    assert experience.most_telling(3) == []


def test_another_settings_lesson_holds_until_the_setting_at_hand_says_otherwise() -> None:
    elsewhere = runs(40, "elsewhere", sign=-1.0)
    misled = Experience.of(elsewhere, "here")
    assert agreement(misled) < -0.85
    corrected = [
        agreement(Experience.of([*elsewhere, *runs(count, seed=9)], "here"))
        for count in (4, 12, 40)
    ]
    assert corrected == sorted(corrected) and corrected[-1] > 0.8
    weights = [
        Experience.of([*elsewhere, *runs(count, seed=9)], "here").weight for count in (0, 6, 12)
    ]
    assert weights[0] == MOST and min(weights[1:]) < MOST


def test_settings_are_not_compared_with_each_other() -> None:
    hard = [
        EarlierRun(run.of, 1 - 3 * (1 - run.accuracy), "hard", run.source)
        for run in runs(20, seed=2)
    ]
    assert agreement(Experience.of([*runs(20), *hard], "here")) > 0.85


def test_a_study_stores_what_it_learnt_from() -> None:
    kept = Experience.stored(stored("here", runs(40)))
    assert list(kept.guess(NEW)) == list(Experience.of(runs(40), "here").guess(NEW))
    assert Experience.stored(None).weight == 0.0


def test_what_is_foretold_takes_the_place_of_macs_and_depth() -> None:
    scores, macs, depth = [0.5, 0.6, 0.7, 0.4], [10, 1000, 100, 100], [3, 5, 9, 1]
    foretold, blank = [1.0, -1.0, 0.5, 2.0], [None] * 4
    guess = forecast(scores, macs, macs, depth, blank, 0.5, (), foretold, 3.0).guess
    total = standardised(np.array(scores)) + 3.0 * 0.5**4 * standardised(np.array(foretold))
    assert guess == pytest.approx(total / total.std())
    without = forecast(scores, macs, macs, depth, blank, 0.5, (), foretold, 0.0).guess
    assert list(without) == list(forecast(scores, macs, macs, depth, blank, 0.5).guess)


@pytest.mark.parametrize(("name", "settings"), [("mobile", 2), ("resnet", 1)])
def test_the_package_brings_full_runs_that_foretell_each_other(name: str, settings: int) -> None:
    """Each is foretold by all the others: nothing is judged by what it was fitted on."""
    shipped = shipped_runs(SearchSpace.load(name).fingerprint)
    by_setting: dict[str, list[tuple[float, float]]] = {}
    for place, run in enumerate(shipped):
        others = Experience.of([*shipped[:place], *shipped[place + 1 :]], run.setting)
        guess = float(others.guess([run.of])[0])
        by_setting.setdefault(run.setting, []).append((guess, run.accuracy))
    assert len(by_setting) == settings
    for pairs in by_setting.values():
        guesses, accuracies = zip(*pairs, strict=True)
        assert len(pairs) >= 35 and (kendall(guesses, accuracies) or 0.0) > 0.5
