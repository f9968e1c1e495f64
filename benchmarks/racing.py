"""What the last rungs' race is worth: finals chosen with it, and without.

Replayed from the shared table (`full_runs.py`) over many random studies of 24 of its architectures.
Each climbs rungs as the search does; of those at the last, the search's own rule chooses two: by
the scores of one seed, with the race (the contenders' scores are means of two seeds), or with a
second seed for everybody at the last rung. Finals are judged by full runs: test accuracy, the mean
over the seeds there are, and the hypervolume of (accuracy, latency, parameters) below the worst
architecture of the table in each. No floor under the scores: the table's runs are shorter than
those it is meant for.

    python benchmarks/racing.py
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from common import ROOT, markdown, write
from replay import LADDER, Table, climbed

from nasdistill.choosing import choose, contenders
from nasdistill.options import Cost
from nasdistill.pareto import as_points, hypervolume
from nasdistill.results import Candidate, RungScore

PAGE = ROOT / "docs" / "scoring.md"
STUDIES, TRIALS, TOP_K = 300, 24, 2
COSTS: tuple[Cost, ...] = ("latency", "params")
ONE, RACE, ALL = "one seed", "the race", "a second seed for all"


@dataclass(frozen=True)
class Choice:
    """What one way made of one study.

    Attributes:
        volume: Hypervolume of the finals.
        accuracy: Of the first final, in [0, 1].
        seconds: CPU-seconds of second runs.
    """

    volume: float
    accuracy: float
    seconds: float


def candidate(table: Table, place: int, scores: Sequence[float]) -> Candidate:
    """An architecture at the last rung, as a study knows it; a second score is the race's."""
    about = table.about[table.numbers[place]]
    first, *second = [RungScore(1, 0, score, score, score, 0.0, 0.0) for score in scores]
    return Candidate(
        number=place, state="complete", architecture=about["architecture"], fingerprint=str(place),
        parameters={}, params=about["params"], macs=about["macs"], depth=about["depth"],
        latency=about["latency_ms"], rungs=(first,), race=second[0] if second else None,
    )  # fmt: skip


def ways(
    table: Table, places: Sequence[int], seeds: tuple[int, int]
) -> Iterator[tuple[str, list[int], Collection[int]]]:
    """Each way's name, its finals, and those it trained twice."""
    first, second = (table.figure("trunk", LADDER[-1], seed, "accuracy") for seed in seeds)
    single = [candidate(table, i, [first[i]]) for i in places]
    racing = [c.number for c in contenders(single, COSTS, TOP_K, 0.0)]
    for name, twice in {ONE: [], RACE: racing, ALL: places}.items():
        scored = [
            candidate(table, i, [first[i], second[i]] if i in twice else [first[i]]) for i in places
        ]
        yield name, [c.number for c in choose(scored, COSTS, TOP_K, 0.0)], twice


def studies(table: Table) -> dict[str, list[Choice]]:
    """What each way made of the same random studies, for every pair of seeds of short runs."""
    truth, count = table.truth("test"), len(table.numbers)
    costs = zip(table.known("latency_ms"), table.known("params"), strict=True)
    points = as_points([[a, *row] for a, row in zip(truth, costs, strict=True)])
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0)
    rng = random.Random(0)
    found: dict[str, list[Choice]] = {ONE: [], RACE: [], ALL: []}
    for first, second in itertools.permutations(table.scored("trunk"), 2):
        seconds = table.seconds("trunk", LADDER[-1], second)
        for _ in range(STUDIES):
            passed, _ = climbed(table, rng.sample(range(count), TRIALS), seed=first)
            places = [i for i, rungs in passed.items() if rungs == len(LADDER)]
            for name, finals, twice in ways(table, places, (first, second)):
                volume = hypervolume(points[finals], reference)
                spent = sum(seconds[i] for i in twice)
                found[name].append(Choice(volume, truth[finals[0]], spent))
    return found


def main() -> None:
    """Writes the table."""
    table = Table.read()
    found = studies(table)
    full = fmean(table.seconds("full", 1.0))
    rows = []
    for name, choices in found.items():
        gains = [a.volume / b.volume for a, b in zip(choices, found[ONE], strict=True)]
        rows.append(
            [
                name, f"{fmean(gains):.3f}", f"{fmean(gain > 1 for gain in gains):.0%}",
                f"{fmean(gain < 1 for gain in gains):.0%}",
                f"{fmean(choice.accuracy for choice in choices):.4f}",
                f"{fmean(choice.seconds for choice in choices) / full:.2f}",
            ]
        )  # fmt: skip
    seeds = len(table.scored("trunk"))
    head = ["chosen by", "hypervolume ÷ one seed's", "better in", "worse in", "first final's",
            "second runs, in full runs"]  # fmt: skip
    text = (
        f"{len(found[ONE])} replayed studies of {TRIALS} trials and {TOP_K} finals, "
        f"{table.full_seeds} full runs of each architecture, {seeds} seeds of short runs.\n\n"
    )
    write("racing", {"rows": rows}, text + markdown(head, rows), PAGE)


if __name__ == "__main__":
    main()
