"""How well short scores rank students, against what costs nothing.

Reads the shared table (`full_runs.py`) as far as it is there. Truth is test accuracy after full
distillation, the mean over the seeds there are. A score is one short run's accuracy on the score
half; its tau is the mean over the seeds of short runs. What the search goes by is its forecast,
made of the score and of what earlier full runs foretell (`nasdistill/analysis/experience.py`): of
each architecture, the full runs of all the others, never its own. That is what is judged. The bare
score stands beside it, the forecast without experience (score, log MACs and depth), and that as
higher rungs of all the others teach it. Rivals: the same schedule on labels only, a
truncated schedule (the full run as it stood then), parameters, MACs, and a vote of synflow, SNIP
and Jacobian covariance.

    python benchmarks/ranking.py
    python benchmarks/ranking.py --space resnet
    python benchmarks/ranking.py --device cuda

Target: tau at least 0.62 at 5 % of the full cost (0.65 on `resnet`), at least 0.10 above the best
rival that costs nothing; and at least 0.45 among students within 10 % of each other's MACs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from common import markdown, met, name_on, write
from full_runs import COUNT, EPOCHS, RUNGS, SEEDS, SHARES, SPACES
from replay import (
    Table,
    ahead,
    ceiling,
    forecasts,
    interval,
    left_out,
    mean_tau,
    near_tau,
    taught_by_others,
)

Scores = Sequence[Sequence[float]]
TRAINED = {
    "trunk": "rung of the search (trunk and cool-down)",
    "complete": "complete short schedule",
    "labels": "the same, labels only",
    "full": "truncated schedule",
}
OURS, AT = "forecast", 0.05
TARGETS = {"mobile": 0.62, "resnet": 0.65}
RIVALS = ("labels", "full", "free")


@dataclass(frozen=True)
class Row:
    """How one figure ranks.

    Attributes:
        figure: What it is.
        kind: Of the run it comes from; `free` for none, `forecast` for what the search goes by,
            `taught` for that once higher rungs taught it, `prior` for that before any run.
        share: Of the full budget, at which the scored copy stands.
        cost: Examples seen until then, as a share of a full run's; of a rung, its own trunk and
            cool-down.
        seeds: Short runs of each architecture.
        tau: Kendall's, the mean over seeds.
        interval: Its 95 % bootstrap interval, over architectures.
        near: Agreement on pairs of students within 10 % of each other's MACs.
        pairs: How many these are.
    """

    figure: str
    kind: str
    share: float
    cost: float
    seeds: int
    tau: float
    interval: tuple[float, float]
    near: float
    pairs: int


def figures(table: Table) -> Iterator[tuple[str, str, float, float, Scores]]:
    """Name, kind, share, cost and scores (a row for each seed) of everything that is compared."""
    foretold = left_out(table)
    yield "foretold by the others' full runs alone", "foretold", 0.0, 0.0, [foretold.guesses]
    for kind, name in TRAINED.items():
        for share in SHARES:
            scores = [table.figure(kind, share, s, "accuracy") for s in table.scored(kind)]
            if scores:
                cost = table.cost(kind, share)
                yield name, kind, share, cost, scores
                if kind == "trunk":
                    without = forecasts(table, scores, share)
                    yield "forecast without experience", "alone", share, cost, without
                    expected = forecasts(table, scores, share, foretold)
                    yield "the search's forecast", OURS, share, cost, expected
                    yield from taught_figures(table, share)
    counted = forecasts(table, [[0.0] * len(table.numbers)], 0.0)
    yield "forecast without a score (MACs, depth)", "prior", 0.0, 0.0, counted
    yield "parameters", "free", 0.0, 0.0, [table.known("params")]
    yield "MACs", "free", 0.0, 0.0, [table.known("macs")]
    yield "vote of synflow, SNIP, Jacobian", "free", 0.0, 0.0, [table.voted()]


def taught_figures(table: Table, share: float) -> Iterator[tuple[str, str, float, float, Scores]]:
    """The forecast taught by the higher rungs of all the others, at what these cost."""
    if share < RUNGS[-1]:
        guesses = [taught_by_others(table, share, seed) for seed in table.scored("trunk")]
        yield (
            "the same, taught by higher rungs",
            "taught",
            share,
            table.cost("trunk", RUNGS[-1]),
            guesses,
        )


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=SPACES, default="mobile")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    table = Table.read(args.space, args.device)
    truth, macs = table.truth("test"), table.known("macs")
    rows, scores_of = [], {}
    for name, kind, share, cost, scores in figures(table):
        near, pairs = near_tau(scores, truth, macs)
        tau, bounds = mean_tau(scores, truth), interval(scores, truth)
        rows.append(Row(name, kind, share, cost, len(scores), tau, bounds, near, pairs))
        scores_of[rows[-1]] = scores
    ours = next(r for r in rows if r.kind == OURS and r.share == AT)
    rivals = [r for r in rows if r.kind in RIVALS and r.cost <= ours.cost]
    best = max(rivals, key=lambda row: row.tau)
    lead = ahead(scores_of[ours], scores_of[best], truth)
    results = {
        "architectures": len(table.numbers),
        "full_seeds": table.full_seeds,
        "epochs": EPOCHS,
        "test_accuracy": [min(truth), max(truth)],
        "ceiling": ceiling(table, "test"),
        "ours": asdict(ours),
        "best_rival": asdict(best),
        "ahead": lead,
        "rows": [asdict(row) for row in rows],
    }
    cells = [
        [
            row.figure,
            f"{row.share:.0%}" if row.share else "–",
            f"{row.cost:.1%}",
            row.seeds,
            f"{row.tau:.2f}",
            f"{row.interval[0]:.2f} to {row.interval[1]:.2f}",
            f"{row.near:.2f}",
        ]
        for row in rows
    ]
    head = ["figure", "budget", "cost", "seeds", "τ", "95 % interval", "τ at equal MACs"]
    name = "ranking" if args.space == "mobile" else f"ranking_{args.space}"
    outcome = outcome_text(args.space, table, ours, best, lead)
    write(name_on(name, args.device), results, f"{outcome}\n\n{markdown(head, cells)}")


def outcome_text(space: str, table: Table, ours: Row, best: Row, lead: tuple[float, float]) -> str:
    """The outcome in words."""
    target = TARGETS[space]
    truth, top = table.truth("test"), ceiling(table, "test")
    gain = ours.tau - best.tau
    seeds = (
        "With one seed the ceiling that seeds allow is not known."
        if top is None
        else f"The ceiling that seeds allow: full runs of two seeds agree by τ {top[0]:.2f}, one "
        f"full run with the mean of the others by {top[1]:.2f}."
    )
    return (
        f"{len(table.numbers)} of {COUNT} architectures of `{space}`, {table.full_seeds} of "
        f"{len(SEEDS)} seeds of full runs ({EPOCHS} epochs; test accuracy {min(truth):.3f} to "
        f"{max(truth):.3f}). At {AT:.0%} the search's forecast reaches τ {ours.tau:.2f} (target "
        f"{target}: {met(ours.tau >= target)}). The best rival at no more cost, “{best.figure}” "
        f"({best.cost:.1%}), reaches {best.tau:.2f}: the forecast is {gain:+.2f} ahead, 95 % "
        f"interval {lead[0]:+.2f} to {lead[1]:+.2f} (target +0.10: {met(gain >= 0.10)}). Among "
        f"students within 10 % of each other's MACs ({ours.pairs} pairs) it reaches "
        f"{ours.near:.2f} "
        f"(target 0.45: {met(ours.near >= 0.45)}). " + seeds
    )


if __name__ == "__main__":
    main()
