"""Can the latencies that a study has measured say which candidates are fast?

Candidates are chosen by parameters and MACs before their latency is measured. On the shared tables
(`full_runs.py`) a study's measured latencies (8 to 24 random architectures) teach a regression of
log latency, which is asked about the rest: of MACs, parameters and depth, or of everything that is
known of an architecture, by the regression that learns from earlier full runs. Held against MACs
alone. By leave-one-out: whichever of the two correlates better with latencies it was not fitted on.

    python benchmarks/latency_guess.py
"""

from __future__ import annotations

import random
from statistics import fmean

import numpy as np
from common import markdown, write
from full_runs import SPACES
from numpy.typing import NDArray
from replay import Table

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.forecast import standardised
from nasdistill.analysis.rank_correlation import kendall
from nasdistill.results.experience import EarlierRun, Untrained

MEASURED, DRAWS, RIDGE = (8, 12, 16, 24), 200, 1.0
MACS, COUNTS, ALL, CHOSEN = "MACs alone", "MACs, parameters, depth", "everything", "leave-one-out"
Array = NDArray[np.float64]


def by_counts(x_NF: Array, y_N: Array, known: list[int]) -> tuple[Array, float]:
    """Guesses of all by a ridge regression on some, and the leave-one-out correlation of these."""
    x_KF, centre, mean = x_NF[known], x_NF[known].mean(axis=0), y_N[known].mean()
    x_KF = x_KF - centre
    inverse = np.linalg.inv(x_KF.T @ x_KF + RIDGE * np.eye(x_NF.shape[1]))
    weights = inverse @ x_KF.T @ (y_N[known] - mean)
    left = 1 - 1 / len(known) - np.einsum("nf,fg,ng->n", x_KF, inverse, x_KF)
    guesses = y_N[known] - (y_N[known] - mean - x_KF @ weights) / left
    return mean + (x_NF - centre) @ weights, float(np.corrcoef(guesses, y_N[known])[0, 1])


def by_all(about: list[Untrained], latency_N: Array, known: list[int]) -> tuple[Array, float]:
    """The same by the regression of earlier full runs, whose label −log(1 − accuracy) is made log
    latency: its prior, by which MACs and depth raise the label, holds here as well.
    """
    least = latency_N.min() / 2
    runs = [EarlierRun(about[i], 1 - least / latency_N[i], "here", "") for i in known]
    experience = Experience.of(runs, "here", zero_cost=False)
    return experience.guess(about), experience.record


def taus(table: Table, measured: int) -> dict[str, float]:
    """Mean tau of guesses with the latencies that were not measured yet."""
    names = ("macs", "params", "depth")
    about = [
        Untrained(one["architecture"], *(one[name] for name in names))
        for one in (table.about[number] for number in table.numbers)
    ]
    latency_N = np.array(table.known("latency_ms"))
    x_NF = np.column_stack([standardised(np.log(table.known(name))) for name in names])
    rng, rows = random.Random(0), []
    for _ in range(DRAWS):
        order = rng.sample(range(len(about)), len(about))
        known, rest = order[:measured], order[measured:]
        counts = by_counts(x_NF, np.log(latency_N), known)
        everything = by_all(about, latency_N, known)
        better = max(counts, everything, key=lambda pair: pair[1])
        guesses = {MACS: x_NF[:, 0], COUNTS: counts[0], ALL: everything[0], CHOSEN: better[0]}
        truth = list(latency_N[rest])
        rows.append({name: kendall(list(g[rest]), truth) or 0.0 for name, g in guesses.items()})
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def main() -> None:
    """Writes the table."""
    results = {
        space: {str(count): taus(Table.read(space), count) for count in MEASURED}
        for space in SPACES
    }
    head = ["space", "measured", MACS, COUNTS, ALL, CHOSEN]
    rows = [
        [space, count, *(f"{tau:.2f}" for tau in means.values())]
        for space, by_count in results.items()
        for count, means in by_count.items()
    ]
    text = f"τ with the latencies of the rest of the table, mean of {DRAWS} draws.\n\n"
    write("latency_guess", results, text + markdown(head, rows))


if __name__ == "__main__":
    main()
