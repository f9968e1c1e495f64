"""What stopping saves: the front's hypervolume per second, with it and without.

Replayed from the shared table (`full_runs.py`) over many random orders of its architectures: each
climbs rungs as the search does (3 and 10 % of a full run), with the search's own rule for who is
stopped, or all to the last. The front is that of the trials that reached the last rung: accuracy
after a full run (on the audit half: docs/scoring.md chooses by these figures), latency and
parameters; its hypervolume is taken below the worst of all architectures in each.

    python benchmarks/stopping.py
    python benchmarks/stopping.py --ladder 0.05 0.10 --eta 2    # another ladder: printed alone
    python benchmarks/stopping.py --by score                    # without the forecast: likewise
    python benchmarks/stopping.py --by interval --deviations 1  # whoever may still reach the front
    python benchmarks/stopping.py --experience                  # taught by the others' full runs

Target: at least twice the hypervolume per second.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from common import markdown, met, quartiles, spread, write
from full_runs import COUNT, RUNGS, SPACES
from replay import ETA, LADDER, ORDERS, Table, climbed, left_out, shuffled

from nasdistill.analysis.pareto import as_points, hypervolume


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ladder", type=float, nargs="+", choices=RUNGS, default=list(LADDER))
    parser.add_argument("--eta", type=int, default=ETA)
    parser.add_argument("--by", choices=("forecast", "score", "interval"), default="forecast")
    parser.add_argument("--deviations", type=float, default=0.0)
    parser.add_argument("--experience", action="store_true")
    parser.add_argument("--space", choices=SPACES, default="mobile")
    args = parser.parse_args()
    ladder = args.ladder
    table = Table.read(args.space)
    foretold = left_out(table) if args.experience else None
    truth, count = table.truth("audit"), len(table.numbers)
    costs = zip(table.known("latency_ms"), table.known("params"), strict=True)
    points = as_points([[a, *row] for a, row in zip(truth, costs, strict=True)])
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0)
    whole = hypervolume(points, reference)
    shares, savings, lost = [], [], []

    def replay(order: Sequence[int], seed: int) -> float:
        passed, spent = climbed(
            table, order, ladder, args.eta, args.by, seed, foretold, args.deviations
        )
        everything = sum(table.climbing(ladder, seed))
        reached = [i for i in range(count) if passed[i] == len(ladder)]
        kept = hypervolume(points[reached], reference)
        shares.append(kept / whole)
        savings.append(everything / spent)
        lost.append(max(truth) - max(truth[i] for i in reached))
        return (kept / spent) / (whole / everything)

    ratios = quartiles(shuffled(table, replay))
    rows = [
        ["hypervolume kept", f"{fmean(shares):.1%}"],
        ["time, without ÷ with", spread(quartiles(savings))],
        ["hypervolume per second, with ÷ without", spread(ratios)],
        ["best student's accuracy lost, points", f"{100 * fmean(lost):.2f}"],
    ]
    seeds = len(table.scored("trunk"))
    text = (
        f"{count} of {COUNT} architectures, {table.full_seeds} seeds of full runs, {ORDERS} "
        f"orders, {seeds} seeds of rungs in turn (target 2: {met(ratios[1] >= 2)}).\n\n"
    )
    chosen = (tuple(ladder), args.eta, args.by, args.experience, args.space)
    if chosen != (LADDER, ETA, "forecast", False, "mobile"):
        print(markdown(["figure", "median (quartiles)"], rows))
        return
    results = {"ratio": ratios, "kept": fmean(shares), "architectures": count}
    write("stopping", results, text + markdown(["figure", "median (quartiles)"], rows))


if __name__ == "__main__":
    main()
