"""What benchmarks conclude from a table, on one made up to be checked by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def seen(accuracy: float, seconds: float, examples: int = 100) -> dict[str, Any]:
    parts = {"score": {"accuracy": accuracy, "loss": 1 - accuracy}, "audit": {"accuracy": accuracy}}
    return {**parts, "test": {"accuracy": accuracy}, "seconds": seconds, "examples": examples}


def table(rows: list[tuple[float, list[float]]]) -> Any:
    """A table of architectures with these full accuracies and scores at 1, 3 and 10 %."""
    from replay import Table

    lines = {}
    for number, (full, scores) in enumerate(rows):
        lines[number, 0, "full"] = {"1.0": seen(full, 100.0)}
        shares = ("0.01", "0.03", "0.1")
        lines[number, 0, "trunk"] = {
            share: seen(score, seconds)
            for share, score, seconds in zip(shares, scores, (1.0, 4.0, 14.0), strict=True)
        }
    about = [
        {"params": 1000 * (1 + n), "macs": 1000 + 60 * n, "latency_ms": 0.1 * (1 + n), "depth": 3}
        for n in range(len(rows))
    ]
    everyone = tuple(range(len(rows)))
    return Table(everyone, about, lines, {n: (0,) for n in everyone})


def test_agreement_on_students_of_the_same_size() -> None:
    from replay import near_tau

    # MACs 100, 105, 200, 210: two pairs within a tenth. One agrees, one does not.
    found, pairs = near_tau([[1, 2, 3, 4]], [0.5, 0.6, 0.9, 0.8], [100, 105, 200, 210])
    assert (found, pairs) == (0.0, 2)
    found, pairs = near_tau(
        [[1, 2, 4, 3], [1, 2, 3, 4]], [0.5, 0.6, 0.9, 0.8], [100, 105, 200, 210]
    )
    assert (found, pairs) == (0.5, 2)


def test_a_replay_stops_who_the_search_would_stop_and_counts_its_seconds() -> None:
    from replay import climbed

    made = table([(0.9, [0.6, 0.7, 0.8]), (0.3, [0.2, 0.2, 0.2]), (0.8, [0.5, 0.6, 0.7])])
    passed, spent = climbed(made, [0, 1, 2])
    # The second is below the floor. The third is one of three, where one place is given, and the
    # first has it.
    assert passed == {0: 2, 1: 0, 2: 0}
    assert spent == pytest.approx(14.0 + 4.0 + 4.0)
    passed, spent = climbed(made, [1, 0, 2])
    assert passed[1] == 2, "the first to come is the best so far"


def test_the_cost_of_a_search_counts_until_a_good_student_is_distilled() -> None:
    from search_cost import ours, until_found

    made = table([(0.9, [0.6, 0.7, 0.8]), (0.3, [0.2, 0.2, 0.2]), (0.8, [0.5, 0.6, 0.7])])
    good = [True, False, False]
    assert until_found(made, [1, 2, 0], good) == 300.0
    assert until_found(made, [0, 1, 2], good) == 100.0
    assert ours(made, [0, 1, 2], good, 0) == pytest.approx(22.0 + 100.0)


def test_a_race_lets_more_budget_and_a_second_seed_decide() -> None:
    from racing import BUDGET, KNOWN, ONE, RACE, SEED, ways

    made = table([(0.5, [0.5] * 3), (0.9, [0.6] * 3), (0.4, [0.7] * 3)])
    short, on, again, race = (0.5, 0.6, 0.7), (0.8, 0.7, 0.7), (0.7, 0.7, 0.55), (0.6, 0.9, 0.7)
    for number in range(3):
        for seed, one, two in ((0, short, on), (1, again, race)):
            at = {"0.05": seen(one[number], 5.0), "0.1": seen(two[number], 14.0)}
            made.lines[number, seed, "trunk"] = at
        made.about[number]["architecture"] = {}
    found = {name: (finals[0], spent) for name, finals, spent in ways(made, [0, 1, 2], (0, 1))}
    assert found == {
        ONE: (2, 0.0), RACE: (1, 42.0), BUDGET: (0, 27.0), SEED: (1, 15.0), KNOWN: (1, 300.0),
    }  # fmt: skip


def test_who_of_the_best_is_kept_by_a_rung() -> None:
    from scoring import kept

    truth = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert kept([[6, 5, 4, 3, 2, 1]], truth, top=2) == 1.0
    assert kept([[1, 2, 3, 4, 5, 6]], truth, top=2) == 0.0
    assert kept([[6, 1, 5, 2, 3, 4]], truth, top=2) == 0.5


def test_a_ridge_regression_finds_a_plane() -> None:
    import numpy as np
    from scoring import ridge

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    found = ridge(x, 3.0 + 2.0 * x[:, 0] - x[:, 1])
    assert found == pytest.approx([3.0, 2.0, -1.0], abs=0.02)


def test_texts_go_to_their_place_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import common

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- it: begin -->\nold\n<!-- it: end -->\nafter\n")
    monkeypatch.setattr(common, "HERE", tmp_path)
    common.write("it", {"figure": 1}, "new", page)
    assert page.read_text() == "before\n<!-- it: begin -->\nnew\n<!-- it: end -->\nafter\n"
    assert (tmp_path / "it.json").read_text() == '{\n "figure": 1\n}\n'
    assert sys.path[0] == str(BENCHMARKS)
