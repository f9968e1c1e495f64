"""What the last rungs' race is worth: finals chosen with it, and without.

Replayed from the shared table (`full_runs.py`) over many random studies of 24 of its architectures.
Each climbs rungs at 3 and 5 % of a full run; of those at the last, the search's own rule chooses
two: by the scores of one seed, or after the contenders have raced, which is to 10 % from another
seed. Held against it, for the same contenders: more budget alone (the same seed, on to 10 %), a
second seed alone (up to 5 %, the mean of both), and the most that a race could do, which is to know
the full runs. Finals are judged by full runs: accuracy on the audit half, the mean over the seeds
there are, and the hypervolume of (accuracy, latency, parameters) below the worst architecture of
the table in each. No floor under the scores: the table's runs are shorter than those that it is
meant for.

    python benchmarks/racing.py
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from common import ROOT, markdown, write
from replay import Table, climbed

from nasdistill.analysis.pareto import as_points, hypervolume
from nasdistill.analysis.selection import SelectionRule, contenders, select_finals
from nasdistill.common.types import Cost
from nasdistill.results import Candidate, RungScore

PAGE = ROOT / "docs" / "scoring.md"
STUDIES, TRIALS, TOP_K = 100, 24, 2
RUNGS, FURTHER = (0.03, 0.05), 0.10
WHOLE = 1000
"""A full run, in units of its budget."""
COSTS: tuple[Cost, ...] = ("latency", "params")
RULE = SelectionRule(COSTS, TOP_K, min_accuracy=0.0, final_examples=WHOLE)
ONE, RACE = "one seed", "the race"
BUDGET, SEED = "more budget, same seed", "a second seed, same budget"
KNOWN = "full runs of the contenders"


@dataclass(frozen=True)
class Choice:
    """What one way made of one study.

    Attributes:
        volume: Hypervolume of the finals.
        accuracy: Of the first final, in [0, 1].
        seconds: CPU-seconds beyond the last rung.
    """

    volume: float
    accuracy: float
    seconds: float


def scored(share: float, accuracy: float) -> RungScore:
    """A score after this share of a full run."""
    return RungScore(1, round(WHOLE * share), accuracy, accuracy, accuracy, 0.0, 0.0)


def candidate(table: Table, place: int, score: float, race: RungScore | None = None) -> Candidate:
    """An architecture at the last rung, as a study knows it."""
    about = table.about[table.numbers[place]]
    return Candidate(
        number=place,
        state="complete",
        architecture=about["architecture"],
        fingerprint=str(place),
        parameters={},
        params=about["params"],
        macs=about["macs"],
        depth=about["depth"],
        latency=about["latency_ms"],
        rungs=(scored(RUNGS[-1], score),),
        race=race,
    )


def ways(
    table: Table, places: Sequence[int], seeds: tuple[int, int]
) -> Iterator[tuple[str, list[int], float]]:
    """Each way's name, its finals, and the CPU-seconds that it took beyond the last rung."""
    (first, again), (on, race) = (
        [table.figure("trunk", share, seed, "accuracy") for seed in seeds]
        for share in (RUNGS[-1], FURTHER)
    )
    means = [(a + b) / 2 for a, b in zip(first, again, strict=True)]
    single = [candidate(table, i, first[i]) for i in places]
    racing = {c.number for c in contenders(single, RULE)}
    short, long = (table.climbing([share], seeds[1]) for share in (RUNGS[-1], FURTHER))
    climbed_now, climbed_on = (table.climbing(to, seeds[0]) for to in (RUNGS, (*RUNGS, FURTHER)))
    rest = [b - a for a, b in zip(climbed_now, climbed_on, strict=True)]
    full = table.seconds("full", 1.0)
    sides = {
        ONE: (0.0, first, None),
        RACE: (FURTHER, race, long),
        BUDGET: (FURTHER, on, rest),
        SEED: (RUNGS[-1], means, short),
        KNOWN: (1.0, table.truth("audit"), full),
    }
    for name, (share, scores, seconds) in sides.items():
        raced = racing if seconds is not None else set()
        there = [
            candidate(table, i, first[i], scored(share, scores[i]) if i in raced else None)
            for i in places
        ]
        finals = [c.number for c in select_finals(there, RULE)]
        yield name, finals, sum(seconds[i] for i in raced) if seconds is not None else 0.0


def studies(table: Table) -> dict[str, list[Choice]]:
    """What each way made of the same random studies, for every pair of seeds of short runs."""
    truth, count = table.truth("audit"), len(table.numbers)
    costs = zip(table.known("latency_ms"), table.known("params"), strict=True)
    points = as_points([[a, *row] for a, row in zip(truth, costs, strict=True)])
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0)
    rng = random.Random(0)
    found: dict[str, list[Choice]] = {}
    for first, second in itertools.permutations(table.scored("trunk"), 2):
        for _ in range(STUDIES):
            passed, _ = climbed(table, rng.sample(range(count), TRIALS), RUNGS, seed=first)
            places = [i for i, rungs in passed.items() if rungs == len(RUNGS)]
            for name, finals, seconds in ways(table, places, (first, second)):
                volume = hypervolume(points[finals], reference)
                found.setdefault(name, []).append(Choice(volume, truth[finals[0]], seconds))
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
                name,
                f"{fmean(gains):.3f}",
                f"{fmean(gain > 1 for gain in gains):.0%}",
                f"{fmean(gain < 1 for gain in gains):.0%}",
                f"{fmean(choice.accuracy for choice in choices):.4f}",
                f"{fmean(choice.seconds for choice in choices) / full:.2f}",
            ]
        )
    seeds = len(table.scored("trunk"))
    head = [
        "chosen by",
        "hypervolume ÷ one seed's",
        "better in",
        "worse in",
        "first final's",
        "cost, in full runs",
    ]
    text = (
        f"{len(found[ONE])} replayed studies of {TRIALS} trials and {TOP_K} finals, "
        f"{table.full_seeds} full runs of each architecture, {seeds} seeds of short runs.\n\n"
    )
    write("racing", {"rows": rows}, text + markdown(head, rows), PAGE)


if __name__ == "__main__":
    main()
