"""What experience of one data set is worth on another: Fashion-MNIST's on CIFAR-10, and back.

Reads the tables of `full_runs.py`: architectures of `mobile` in full and in short on the shipped
data, and others on 10,000 pictures of CIFAR-10 under a teacher of their own. On each, students are
ranked before any training and by their score at 5 %, with what full runs on the other data taught,
with nothing, and with what the others of the same table taught; and 200 studies of 24 trials are
replayed as in `regret.py`. No architecture is in two tables, and none is judged by its own full
run.

    python benchmarks/full_runs.py --table mobile_cifar10 --kinds full trunk --processes 2
    python benchmarks/carries_over.py

Target: never worse than without experience by more than noise.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import Any

from common import markdown, met, write
from full_runs import EPOCHS
from regret import ONE_RUNG, PAGE, STUDIES, TRIALS, finals_of, points_below
from replay import (
    SETTING,
    Foretold,
    Table,
    ahead,
    forecasts,
    full_runs_of,
    interval,
    left_out,
    mean_tau,
    near_tau,
)

from nasdistill.analysis.experience import Experience

TABLES = {"Fashion-MNIST": "mobile", "CIFAR-10": "mobile_cifar10"}
NONE = "nothing"
FINALS = 4
SHARE = ONE_RUNG[0]


def taught_by(table: Table, source: Table, with_others: bool) -> Foretold:
    """What full runs say of each architecture of a table.

    Args:
        table: The table.
        source: Of another data set, whose runs teach.
        with_others: Whether the others of the table teach as well.
    """
    elsewhere = [replace(run, setting="elsewhere") for run in full_runs_of(source, places(source))]
    own = full_runs_of(table, places(table)) if with_others else []
    guesses, weights = [], []
    for place in places(table):
        runs = [*elsewhere, *own[:place], *own[place + 1 :]]
        experience = Experience.of(runs, SETTING)
        guesses.append(float(experience.guess([table.untrained(place)])[0]))
        weights.append(experience.weight)
    return Foretold(guesses, fmean(weights))


def places(table: Table) -> range:
    """Of all its architectures."""
    return range(len(table.numbers))


def regrets(table: Table, ways: Mapping[str, Foretold | None]) -> dict[str, list[float]]:
    """Points below the best at no more parameters, of the same random studies, by way."""
    truth, params = table.truth("test"), table.known("params")
    rng, seeds = random.Random(0), table.scored("trunk")
    points: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(STUDIES):
        order = rng.sample(places(table), TRIALS)
        seed = seeds[turn % len(seeds)]
        for name, foretold in ways.items():
            finals, _ = finals_of(table, order, ONE_RUNG, FINALS, seed, foretold)
            points[name].append(points_below(order, finals, truth, params))
    return points


def rows_of(data: str, tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """One row for each way on one data set."""
    table = tables[data]
    other = next(name for name in tables if name != data)
    truth, macs = table.truth("test"), table.known("macs")
    scores = [table.figure("trunk", SHARE, seed, "accuracy") for seed in table.scored("trunk")]
    ways: dict[str, Foretold | None] = {
        NONE: None,
        other: taught_by(table, tables[other], with_others=False),
        f"the others on {data}": left_out(table),
        "both": taught_by(table, tables[other], with_others=True),
    }
    without, replayed = forecasts(table, scores, SHARE), regrets(table, ways)
    rows = []
    for name, foretold in ways.items():
        expected = forecasts(table, scores, SHARE, foretold)
        untrained = (
            forecasts(table, [[0.0] * len(truth)], 0.0) if foretold is None else [foretold.guesses]
        )
        change = [a - b for a, b in zip(replayed[name], replayed[NONE], strict=True)]
        rows.append(
            {
                "data": data,
                "taught by": name,
                "weight": 0.0 if foretold is None else foretold.weight,
                "untrained": mean_tau(untrained, truth),
                "forecast": mean_tau(expected, truth),
                "interval": interval(expected, truth),
                "near": near_tau(expected, truth, macs)[0],
                "ahead": None if foretold is None else ahead(expected, without, truth),
                "regret": median(replayed[name]),
                "change": fmean(change),
                "deviation": stdev(change) / STUDIES**0.5,
            }
        )
    return rows


def main() -> None:
    """Writes the table."""
    tables = {data: Table.read(name) for data, name in TABLES.items()}
    rows = [row for data in tables for row in rows_of(data, tables)]
    carried = [row for row in rows if row["taught by"] in tables]
    never_worse = all(
        row["ahead"][1] >= 0 and row["change"] <= 2 * row["deviation"] for row in carried
    )
    cells = [
        [
            row["data"],
            row["taught by"],
            f"{row['weight']:.1f}",
            f"{row['untrained']:.2f}",
            f"{row['forecast']:.2f} ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})",
            f"{row['near']:.2f}",
            "–" if row["ahead"] is None else f"{row['ahead'][0]:+.2f} to {row['ahead'][1]:+.2f}",
            f"{row['regret']:.2f}",
            "–" if row["ahead"] is None else f"{row['change']:+.2f} ± {row['deviation']:.2f}",
        ]
        for row in rows
    ]
    sizes = ", ".join(
        f"{len(table.numbers)} architectures on {data} ({table.full_seeds} seeds of full runs)"
        for data, table in tables.items()
    )
    text = (
        f"{sizes}, {EPOCHS} epochs. τ with test accuracy after full runs; regret in points, as in "
        f"`regret.py`, with its mean change and that mean's standard error. Never worse than "
        f"without by more than noise: {met(never_worse)}."
    )
    head = ["students on", "taught by", "weight", "τ untrained", "τ at 5 % (95 % interval)"]
    head += ["at equal MACs", "ahead of nothing (95 %)", "regret, median", "change of its mean"]
    write("carries_over", {"rows": rows}, f"{text}\n\n{markdown(head, cells)}", PAGE)


if __name__ == "__main__":
    main()
