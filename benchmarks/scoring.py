"""Which short figure should be the score? The evidence behind docs/scoring.md.

Reads the shared table (`full_runs.py`) as far as it is there. Truth is accuracy on the audit half
after full distillation (mean of the seeds there are): test data choose nothing here.

    python benchmarks/scoring.py
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np
from common import ROOT, markdown, write
from full_runs import EPOCHS, RUNGS, SHARES
from numpy.typing import NDArray
from replay import Table, ahead, ceiling, forecasts, interval, mean_tau

from nasdistill.analysis.forecast import POWER, standardised
from nasdistill.analysis.rank_correlation import kendall, ranks

PAGE = ROOT / "docs" / "scoring.md"
Scores = Sequence[Sequence[float]]
FIGURES = ("accuracy", "loss", "kl", "agreement")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
BLENDS = ("blend", "accuracy forecast", "loss forecast")
KNOWN, DRAWS, RIDGE = (8, 16, 24), 100, 1.0
SECOND = "resnet"
SHOWN = (
    ("–", "parameters"),
    ("–", "MACs"),
    ("–", "depth"),
    ("–", "vote of synflow, SNIP, Jacobian"),
    ("–", "MACs and depth"),
    ("5%", "accuracy"),
    ("5%", "accuracy forecast"),
)
"""Rungs and figures of which the page shows both spaces."""


def blend(table: Table, kind: str, share: float, seed: int) -> list[float]:
    """The mean rank by all four figures."""
    by = [ranks(table.figure(kind, share, seed, name)) for name in FIGURES]
    return [fmean(row) for row in zip(*by, strict=True)]


def scores_of(table: Table, kind: str, share: float, name: str) -> Scores:
    """A row for each seed of short runs."""
    if name == "blend":
        return [blend(table, kind, share, seed) for seed in table.scored(kind)]
    if name.endswith(" forecast"):
        scores = scores_of(table, kind, share, name.removesuffix(" forecast"))
        return forecasts(table, scores, share)
    return [table.figure(kind, share, seed, name) for seed in table.scored(kind)]


def kept(scores: Scores, truth: Sequence[float], of: float = 1 / 3, top: int = 4) -> float:
    """The share of the truly best few that is among the best third by score."""
    best = set(sorted(range(len(truth)), key=lambda i: -truth[i])[:top])
    count = math.ceil(of * len(truth))
    named = [set(sorted(range(len(truth)), key=lambda i: -row[i])[:count]) for row in scores]
    return fmean(len(best & names) / top for names in named)


def by_figure(table: Table, truth: Sequence[float]) -> Iterator[list[object]]:
    """Tau of each figure at each rung; the interval of its lead over accuracy."""
    for share in RUNGS:
        base = scores_of(table, "trunk", share, "accuracy")
        cells: list[object] = [f"{share:.0%}"]
        for name in (*FIGURES, *BLENDS):
            scores = scores_of(table, "trunk", share, name)
            cell = f"{mean_tau(scores, truth):.2f}"
            if name != "accuracy":
                cell += " ({:+.2f} to {:+.2f})".format(*ahead(scores, base, truth))
            cells.append(cell)
        yield cells


def by_schedule(table: Table, truth: Sequence[float]) -> Iterator[list[object]]:
    """Tau by loss of each kind of short run, what it costs, and who of the best is kept."""
    names = {
        "trunk": "trunk, cool-down",
        "complete": "complete",
        "labels": "complete, labels only",
        "full": "truncated",
    }
    for kind, name in names.items():
        for share in RUNGS if kind == "trunk" else SHARES:
            for figure in ("accuracy", "loss"):
                scores = scores_of(table, kind, share, figure)
                if scores:
                    low, high = interval(scores, truth)
                    yield [
                        name,
                        f"{share:.0%}",
                        f"{table.cost(kind, share):.1%}",
                        figure,
                        f"{mean_tau(scores, truth):.2f} ({low:.2f} to {high:.2f})",
                        f"{kept(scores, truth):.0%}",
                    ]


def by_weight(table: Table, truth: Sequence[float]) -> Iterator[list[object]]:
    """Tau of the forecast with other weights of MACs and depth than its own, at each budget.

    A full run's own score is judged by the full runs of the other seeds.
    """
    for share in (*RUNGS, 1.0):
        kind = "full" if share == 1.0 else "trunk"
        cells: list[object] = [f"{share:.0%}", f"{(1 - share) ** POWER:.2f}"]
        for weight in WEIGHTS:
            taus = []
            for seed in table.scored(kind):
                scores = table.figure(kind, share, seed, "accuracy")
                (guess,) = forecasts(table, [scores], 1 - weight ** (1 / POWER))
                full_scores = table.truth("audit", without=seed) if kind == "full" else truth
                taus.append(kendall(guess, full_scores) or 0.0)
            cells.append(f"{fmean(taus):.2f}")
        yield cells


def on_both(first: Table, second: Table) -> Iterator[list[object]]:
    """Tau of what was chosen on the first space, and of what was not taken there, on both."""
    for (share, name, mine), (_, _, other) in zip(figured(first), figured(second), strict=True):
        cells = []
        for table, scores in ((first, mine), (second, other)):
            truth = table.truth("audit")
            low, high = interval(scores, truth)
            cells.append(f"{mean_tau(scores, truth):.2f} ({low:.2f} to {high:.2f})")
        yield [share, name, *cells]


def figured(table: Table) -> Iterator[tuple[str, str, Scores]]:
    """Budget, name and scores of each figure that is held against both spaces."""
    macs, params = ([math.log(x) for x in table.known(name)] for name in ("macs", "params"))
    depth, voted = table.known("depth"), table.voted()
    counted = standardised(macs) + standardised(depth)
    with_vote = counted + standardised(voted)
    yield "–", "parameters", [params]
    yield "–", "MACs", [macs]
    yield "–", "depth", [depth]
    yield "–", "vote of synflow, SNIP, Jacobian", [voted]
    yield "–", "MACs and depth", [list(counted)]
    yield "–", "MACs, depth and vote", [list(with_vote)]
    for share in RUNGS:
        for name in ("accuracy", "loss", "accuracy forecast", "loss forecast"):
            yield f"{share:.0%}", name, scores_of(table, "trunk", share, name)
        rest = (1 - share) ** POWER * with_vote
        scores = scores_of(table, "trunk", share, "accuracy")
        yield (
            f"{share:.0%}",
            "accuracy forecast with the vote",
            [list(standardised(row) + rest) for row in scores],
        )


def features(table: Table, share: float, seed: int) -> NDArray[np.float64]:
    """What a regression may see at a rung: scores so far, MACs, parameters, depth; standardised."""
    columns = [
        table.figure("trunk", rung, seed, name)
        for rung in RUNGS
        if rung <= share
        for name in ("accuracy", "loss")
    ]
    columns += [[math.log(x) for x in table.known(name)] for name in ("macs", "params", "depth")]
    return np.column_stack([standardised(column) for column in columns])


def ridge(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of a ridge regression (Hoerl and Kennard, 1970) with an intercept in column 0."""
    with_one = np.column_stack([np.ones(len(x)), x])
    penalty = RIDGE * np.eye(with_one.shape[1])
    penalty[0, 0] = 0.0
    return np.linalg.solve(with_one.T @ with_one + penalty, with_one.T @ y)


def regressed(table: Table, truth: Sequence[float], share: float, known: int) -> list[float]:
    """Tau on the others, where full runs of `known` architectures are there to fit with.

    Returns:
        The means over random draws: a plain ridge regression, the search's forecast (drawn towards
        equal weights of score, MACs and depth), the same unfitted, accuracy alone.
    """
    rng, y = random.Random(0), np.array(truth)
    seeds, taus = table.scored("trunk"), []
    for draw in range(DRAWS):
        seed = seeds[draw % len(seeds)]
        x = features(table, share, seed)
        order = rng.sample(range(len(truth)), len(truth))
        fit, rest = order[:known], order[known:]
        weights = ridge(x[fit], y[fit])
        guessed = np.column_stack([np.ones(len(rest)), x[rest]]) @ weights
        score, everyone = table.figure("trunk", share, seed, "accuracy"), range(len(truth))
        done = {i: truth[i] for i in fit}
        fitted = table.expected(score, everyone, share, done)
        columns = (fitted, table.expected(score, everyone, share), score)
        rows = [list(guessed), *([column[i] for i in rest] for column in columns)]
        taus.append([kendall(row, [truth[i] for i in rest]) or 0.0 for row in rows])
    return [fmean(column) for column in zip(*taus, strict=True)]


def main() -> None:
    """Writes the tables."""
    table = Table.read()
    truth = table.truth("audit")
    head = (
        f"{len(table.numbers)} architectures, {table.full_seeds} full runs of {EPOCHS} epochs and "
        f"{len(table.scored('trunk'))} short runs of each; accuracy on the audit half "
        f"{min(truth):.3f} to {max(truth):.3f}. "
    )
    top = ceiling(table, "audit")
    assert top is not None
    head += (
        f"Full runs of two seeds agree by τ {top[0]:.2f}, one with the mean of the others by "
        f"{top[1]:.2f}.\n"
    )
    figures = list(by_figure(table, truth))
    schedules, weights = list(by_schedule(table, truth)), list(by_weight(table, truth))
    count = len(truth)
    fits = [
        [f"{share:.0%}", known, *(f"{tau:.2f}" for tau in regressed(table, truth, share, known))]
        for share in RUNGS
        for known in KNOWN
        if known <= count - 8
    ]
    second = Table.read(SECOND)
    of_second = second.truth("audit")
    results = {
        "both": list(on_both(table, second)),
        "figures": figures,
        "schedules": schedules,
        "weights": weights,
        "regression": fits,
    }
    other = (
        f"{len(of_second)} architectures of `{SECOND}` drawn inside the same limits, seeds of full "
        f"runs: {second.full_seeds}, of rungs: {len(second.scored('trunk'))}; accuracy "
        f"{min(of_second):.3f} to {max(of_second):.3f}"
    )
    write("scoring", results, page(head, other, results), PAGE)


def page(head: str, other: str, results: Mapping[str, Sequence[Sequence[object]]]) -> str:
    """What the page shows; intervals and further rows are in the JSON.

    Args:
        head: About the first table.
        other: About the second.
        results: As they are stored.
    """
    figures = [[str(cell).split(" ")[0] for cell in row] for row in results["figures"]]
    taus: dict[object, dict[object, str]] = {}
    for name, share, _, figure, tau, _ in results["schedules"]:
        if figure == "accuracy":
            taus.setdefault(name, {})[share] = str(tau).split(" ")[0]
    shares = [f"{share:.0%}" for share in RUNGS]
    schedules = [[name, *(by.get(share, "–") for share in shares)] for name, by in taus.items()]
    both = [row for row in results["both"] if (row[0], row[1]) in SHOWN]
    parts = [
        head,
        "**Which figure** (τ; blend: the mean rank by the first four; forecast: the sum with log "
        "MACs and depth, each standardised):\n",
        markdown(["rung", *FIGURES, *BLENDS], figures),
        "\n**Which schedule** (τ of accuracy):\n",
        markdown(["schedule", *shares], schedules),
        f"\n**A second space**, on which nothing was chosen: {other} (τ, 95 % interval):\n",
        markdown(["rung", "figure", "mobile", SECOND], both),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
