"""Can counts, and the latencies that a study has measured, say which candidates are fast?

Which candidates to try is decided before their latency is measured. On the shared tables
(`full_runs.py`) a study's measured latencies (0 to 16 random architectures) teach what orders the
rest: the search's own guess of MACs, activations and depth (`analysis/latency_guess.py`), or the
regression that learns from earlier full runs, which knows everything of an architecture. Beside
them MACs alone. The prior's weights were chosen on the first three tables; the last, of a hundred
further architectures, has chosen nothing.

    python benchmarks/latency_guess.py
"""

from __future__ import annotations

import json
import random
from functools import cache
from statistics import fmean

import numpy as np
from common import markdown, write
from full_runs import TABLES, architectures_file
from numpy.typing import NDArray

from nasdistill.analysis.experience import FEWEST, Experience
from nasdistill.analysis.latency_guess import guess_latency
from nasdistill.analysis.rank_correlation import kendall
from nasdistill.common.types import Input
from nasdistill.models.counts import count_architecture
from nasdistill.results.experience import EarlierRun, Untrained
from nasdistill.space import Architecture

MEASURED, DRAWS = (0, 4, 8, 16), 200
INPUTS = {"mobile_cifar10": Input(3, 32, 32)}
GREY = Input(1, 28, 28)
MACS, COUNTS, ALL = "MACs alone", "MACs, activations, depth", "everything"


@cache
def read(table: str) -> tuple[list[Untrained], list[float]]:
    """The architectures of a table, counted, and their latencies in milliseconds."""
    rows = json.loads(architectures_file(table).read_text())
    untrained = []
    for row in rows:
        architecture = Architecture.from_json(json.dumps(row["architecture"]))
        counts = count_architecture(architecture, INPUTS.get(table, GREY), 10)
        figures = (counts.macs, counts.params, counts.depth, None, counts.activations)
        untrained.append(Untrained(architecture.values, *figures))
    return untrained, [row["latency_ms"] for row in rows]


def by_all(untrained: list[Untrained], ms: NDArray[np.float64], known: list[int]) -> list[float]:
    """Guesses of all by the regression of earlier full runs, whose label −log(1 − accuracy) is made
    log latency: its prior, by which MACs and depth raise the label, holds here as well.
    """
    if len(known) < FEWEST:
        return [float(one.macs) for one in untrained]
    least = ms.min() / 2
    runs = [EarlierRun(untrained[i], 1 - least / ms[i], "here", "") for i in known]
    return list(Experience.of(runs, "here", zero_cost=False).guess(untrained))


def taus(table: str, measured: int) -> dict[str, float]:
    """Mean tau of guesses with the latencies that were not measured yet."""
    untrained, latencies = read(table)
    ms, rng = np.array(latencies), random.Random(0)
    rows = []
    for _ in range(DRAWS):
        order = rng.sample(range(len(ms)), len(ms))
        known, rest = order[:measured], order[measured:]
        everything = by_all(untrained, ms, known)
        guesses = {
            MACS: [untrained[i].macs for i in rest],
            COUNTS: list(
                guess_latency([untrained[i] for i in rest], [(untrained[i], ms[i]) for i in known])
            ),
            ALL: [everything[i] for i in rest],
        }
        truth = list(ms[rest])
        rows.append({name: kendall(guess, truth) or 0.0 for name, guess in guesses.items()})
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def main() -> None:
    """Writes the table."""
    order = ["mobile", "resnet", "mobile_cifar10", "mobile_more"]
    tables = [name for name in order if name in TABLES and architectures_file(name).exists()]
    results = {name: {str(count): taus(name, count) for count in MEASURED} for name in tables}
    head = ["table", "measured", MACS, COUNTS, ALL]
    rows = [
        [name, count, *(f"{tau:.2f}" for tau in means.values())]
        for name, by_count in results.items()
        for count, means in by_count.items()
    ]
    text = f"τ with the latencies of the rest of the table, mean of {DRAWS} draws.\n\n"
    write("latency_guess", results, text + markdown(head, rows))


if __name__ == "__main__":
    main()
