"""How far what is shipped lies below the best that the study held, at no more parameters.

Replays studies of 24 random architectures of the shared tables (`full_runs.py`), and of 100 of the
two tables of `mobile` together, of one seed of full runs. Each study scores
them as the search does, chooses finals by its rule, and is judged by full runs: for each final, the
best accuracy on test images among the study's architectures with no more parameters, less its own;
the mean over the finals. Beside it: the accuracy that the best of the study lost, the share of the
study's hypervolume (accuracy, latency, parameters) that the finals keep, and what all of it cost.

- two rungs: at 3 and 10 %, a third goes on, two finals, as the search was (its floor under scores
  was higher then);
- one rung: 5 % for all, nobody is stopped, four finals, as the search is; at equal cost;
- without experience, with that of the architectures which are not in the study, and with that of
  all others than the one foretold. No architecture's own full run has a part in its forecast.

    python benchmarks/regret.py

Target: a median of at most 0.3 points. A search of 100 trials has as many finals as one of 24.
Studies of 100 trials on `resnet` cannot be replayed: its table holds 35 architectures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from common import ROOT, markdown, met, write
from full_runs import SPACES, runs_file
from replay import LADDER, Foretold, Table, climbed, left_out, taught, taught_by_the_rest

from nasdistill.analysis.pareto import (
    as_points,
    hypervolume,
    non_dominated_ranks,
    select_by_hypervolume,
)

STUDIES, TRIALS, MANY_TRIALS = 200, 24, 100
ONE_RUNG = (0.05,)
PAGE = ROOT / "docs" / "scoring.md"


@dataclass(frozen=True)
class Shipped:
    """What one way made of one study.

    Attributes:
        regret: Accuracy below the best at no more parameters, in points, the mean over finals.
        lost: Best accuracy of the study less that of the finals, in points.
        kept: Hypervolume of the finals ÷ that of the study.
        cost: In full runs.
    """

    regret: float
    lost: float
    kept: float
    cost: float


def finals_of(
    table: Table,
    order: Sequence[int],
    ladder: Sequence[float],
    count: int,
    seed: int,
    foretold: Foretold | None,
) -> tuple[list[int], float]:
    """The finals of a study, by place, and its cost in full runs, theirs included."""
    passed, spent = climbed(table, order, ladder, seed=seed, foretold=foretold)
    there = [i for i in order if passed[i] == len(ladder)]
    scores = [table.figure("trunk", ladder[-1], seed, "accuracy")]
    expected = taught(table, scores, ladder[-1:], [there], 0, foretold)
    costs = list(zip(table.known("latency_ms"), table.known("params"), strict=True))
    points = as_points([[e, *costs[i]] for e, i in zip(expected, there, strict=True)])
    front = np.flatnonzero(non_dominated_ranks(points) == 0)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    first = int(np.argmin(points[front, 0]))
    picked = select_by_hypervolume(points[front], reference, count, first)
    full = fmean(table.seconds("full", 1.0))
    return [there[front[i]] for i in picked], spent / full + count


def ways(
    table: Table, order: Sequence[int], seed: int, known: Foretold
) -> Iterator[tuple[str, list[int], float]]:
    """Each way's name, its finals and its cost."""
    sides = {
        "without experience": None,
        "taught by those not in the study": taught_by_the_rest(table, order),
        "taught by all others": known,
    }
    for name, foretold in sides.items():
        yield f"two rungs, {name}", *finals_of(table, order, LADDER, 2, seed, foretold)
        yield f"one rung, {name}", *finals_of(table, order, ONE_RUNG, 4, seed, foretold)
    yield "five at random, in full", list(order[:5]), 5.0


def points_below(
    order: Sequence[int], finals: Sequence[int], truth: Sequence[float], params: Sequence[float]
) -> float:
    """How far finals lie below the best of a study at no more parameters, the mean, in points."""
    return 100 * fmean(
        max(truth[j] for j in order if params[j] <= params[i]) - truth[i] for i in finals
    )


def replayed(table: Table, trials: int) -> dict[str, list[Shipped]]:
    """What each way made of the same random studies."""
    truth, params = table.truth("test"), table.known("params")
    costs = zip(table.known("latency_ms"), params, strict=True)
    points = as_points([[a, *row] for a, row in zip(truth, costs, strict=True)])
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0)
    rng, seeds, known = random.Random(0), table.scored("trunk"), left_out(table)
    found: dict[str, list[Shipped]] = {}
    for turn in range(STUDIES):
        order = rng.sample(range(len(table.numbers)), trials)
        whole, best = hypervolume(points[order], reference), max(truth[i] for i in order)
        for name, finals, cost in ways(table, order, seeds[turn % len(seeds)], known):
            below = points_below(order, finals, truth, params)
            lost = best - max(truth[i] for i in finals)
            kept = hypervolume(points[finals], reference) / whole
            shipped = Shipped(below, 100 * lost, kept, cost)
            found.setdefault(name, []).append(shipped)
    return found


def studies() -> Iterator[tuple[str, int, Table]]:
    """Space, trials and table of the studies that the tables allow."""
    for space in SPACES:
        yield space, TRIALS, Table.read(space)
    if runs_file("mobile_more").exists():
        joined = Table.read_joined(["mobile", "mobile_more"])
        if len(joined.numbers) > MANY_TRIALS:
            yield "mobile", MANY_TRIALS, joined


def main() -> None:
    """Writes the table."""
    rows, results = [], []
    for space, trials, table in studies():
        for name, shipped in replayed(table, trials).items():
            figures = {
                "regret": median(each.regret for each in shipped),
                "mean regret": fmean(each.regret for each in shipped),
                "lost": fmean(each.lost for each in shipped),
                "kept": fmean(each.kept for each in shipped),
                "cost": fmean(each.cost for each in shipped),
            }
            results.append({"space": space, "trials": trials, "way": name, **figures})
            rows.append(
                [
                    space,
                    trials,
                    name,
                    f"{figures['regret']:.2f} ({figures['mean regret']:.2f})",
                    f"{figures['lost']:.2f}",
                    f"{figures['kept']:.0%}",
                    f"{figures['cost']:.1f}",
                ]
            )
            print(*rows[-1], flush=True)
    outcomes = []
    for trials in dict.fromkeys(row["trials"] for row in results):
        now = [
            row["regret"]
            for row in results
            if row["way"] == "one rung, taught by all others" and row["trials"] == trials
        ]
        outcomes.append(f"of {trials} trials {met(max(now) <= 0.3)}")
    if all(row["trials"] != MANY_TRIALS for row in results):
        outcomes.append(f"of {MANY_TRIALS} not replayed, as the table mobile_more is not there")
    head = ["space", "trials", "way", "regret, median (mean)", "best lost", "volume kept"]
    text = (
        f"{STUDIES} replayed studies of each row; points of test accuracy (target 0.3 at the "
        f"median: {', '.join(outcomes)}).\n\n"
    )
    write("regret", {"rows": results}, text + markdown([*head, "full runs"], rows), PAGE)


if __name__ == "__main__":
    main()
