"""Which weights should the forecast have? The evidence behind docs/scoring.md.

First on the shared tables (`full_runs.py`) of `mobile` and `resnet`. Truth is accuracy on the audit
half after full runs: of the other seeds, where there are some. Weights are taught by higher rungs,
never by a full run, so nothing is fitted on what it is judged by; by “all others”: the forecast of
each architecture is taught by the others alone. Then by simulation, where what MACs and depth tell
is known, up to a third of a full run, which the tables do not hold.

Simulated accuracy follows a power law of the share s of a full run (“pow3” of Domhan et al., 2015):
limit - gap * (1 / sqrt(s) - 1), plus noise of deviation 0.25 / sqrt(s). Limits have variance 1, and
large and deep students have higher limits and wider gaps where MACs and depth tell something.

    python benchmarks/forecasting.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from common import ROOT, markdown, write
from full_runs import RUNGS
from numpy.typing import NDArray
from replay import ETA, Table, climbed, shuffled, taught, taught_by_others

from nasdistill.analysis.forecast import forecast, standardised
from nasdistill.analysis.rank_correlation import kendall

Array = NDArray[np.float64]
PAGE = ROOT / "docs" / "scoring.md"
SPACES = ("mobile", "resnet")
LADDERS = {0.01: (0.01, 0.03, 0.10), 0.03: (0.03, 0.10), 0.05: (0.05, 0.10), 0.10: (0.10,)}
SCORE, MACS, LINEAR = "score", "MACs", "share left"
FOURTH, SCORES = "its fourth power", "taught by scores"
SOME, ALL = "taught by a third", "taught by all others"
WAYS = (SCORE, MACS, LINEAR, FOURTH, SCORES, SOME, ALL)
SHARES, TRIALS, STUDIES = (1 / 27, 1 / 9, 1 / 3), 81, 50
ORDERS = 30


def weighted(scores: Sequence[float], macs: Array, depth: Array, weight: float) -> list[float]:
    """The sum of score, log MACs and depth, each standardised, the last two with a weight."""
    rest = standardised(np.log(macs)) + standardised(depth)
    return list(standardised(np.array(scores)) + weight * rest)


def taught_by_scores(table: Table, scores: Sequence[Sequence[float]], share: float) -> list[float]:
    """As `taught_by_others`, with the bare scores of the highest rung as labels."""
    everyone = range(len(table.numbers))
    last = dict(enumerate(scores[-1])) if len(scores) > 1 else {}
    return [
        table.expected(scores[0], everyone, share, later={**last, place: None})[place]
        for place in everyone
    ]


def on_table(table: Table, share: float) -> dict[str, float]:
    """Mean tau over seeds of each way at a rung."""
    everyone, ladder = list(range(len(table.numbers))), LADDERS[share]
    macs, depth = (np.array(table.known(name)) for name in ("macs", "depth"))
    higher = [rung for rung in RUNGS if rung >= share]
    taus: dict[str, list[float]] = {way: [] for way in WAYS}

    def truth(seed: int) -> list[float]:
        return table.truth("audit", without=seed if table.full_seeds > 1 else None)

    for seed in table.scored("trunk"):
        scores = [table.figure("trunk", rung, seed, "accuracy") for rung in higher]
        guesses = {
            SCORE: scores[0],
            MACS: list(macs),
            LINEAR: weighted(scores[0], macs, depth, 1 - share),
            FOURTH: list(table.expected(scores[0], everyone, share)),
            SCORES: taught_by_scores(table, scores, share),
            ALL: taught_by_others(table, share, seed),
        }
        for way, guess in guesses.items():
            taus[way].append(kendall(guess, truth(seed)) or 0.0)

    def replay(order: Sequence[int], seed: int) -> float:
        scores = [table.figure("trunk", rung, seed, "accuracy") for rung in ladder]
        passed, _ = climbed(table, order, ladder, seed=seed)
        by_rung = [[i for i in everyone if passed[i] >= rung] for rung in range(len(ladder))]
        return kendall(taught(table, scores, ladder, by_rung, 0), truth(seed)) or 0.0

    taus[SOME] = shuffled(table, replay, ORDERS)
    return {way: fmean(values) for way, values in taus.items()}


class Simulated(NamedTuple):
    """Trials of a made-up study.

    Attributes:
        macs: float64 `[N]`.
        params: float64 `[N]`.
        depth: float64 `[N]`.
        limit: float64 `[N]`, accuracy after a full run.
        scores: float64 `[rungs, N]`, at `SHARES`.
    """

    macs: Array
    params: Array
    depth: Array
    limit: Array
    scores: Array


def simulate(seed: int, of_macs: float, of_depth: float) -> Simulated:
    """Draws a study.

    Args:
        seed: Of all that is drawn.
        of_macs: What a deviation of log MACs adds to the limit; it widens the gap by half of that.
        of_depth: Of depth, likewise.
    """
    rng = np.random.default_rng(seed)
    size, other, depth, chance = rng.standard_normal((4, TRIALS))
    known_part = of_macs * size + of_depth * depth
    limit = known_part + math.sqrt(1 - of_macs**2 - of_depth**2) * chance
    noise = 0.25 * rng.standard_normal((len(SHARES), TRIALS))
    steps = 1 / np.sqrt(np.array(SHARES))
    scores = limit - np.outer(steps - 1, known_part / 2) + steps[:, None] * noise
    params = np.exp(11 + 0.8 * size + 0.6 * other).round()
    return Simulated(
        np.exp(14 + size).round(), params, (40 + 8 * depth).round().clip(1), limit, scores
    )


def expected(study: Simulated, by_rung: Sequence[Sequence[int]], rung: int) -> list[float]:
    """The search's forecast at a rung, taught by those that climbed on."""
    places = list(by_rung[rung])
    later: Mapping[int, float] = {}
    if rung + 1 < len(by_rung):
        later = dict(zip(by_rung[rung + 1], expected(study, by_rung, rung + 1), strict=True))
    known = [[int(x) for x in column[places]] for column in study[:3]]
    scores, blank = list(study.scores[rung][places]), [None] * len(places)
    guess = forecast(scores, *known, blank, SHARES[rung], [later.get(i) for i in places]).guess
    return [float(value) for value in guess]


def simulated(of_macs: float, of_depth: float) -> Iterator[dict[str, float]]:
    """Mean tau of each way over studies, rung by rung, among all trials."""
    everyone = list(range(TRIALS))
    for rung, share in enumerate(SHARES):
        taus: dict[str, list[float]] = {way: [] for way in WAYS if way != SCORES}
        for seed in range(STUDIES):
            study = simulate(seed, of_macs, of_depth)
            third = [*[[]] * rung, everyone]
            while len(third) < len(SHARES):  # as the search does: the best by forecast climb on
                guess = dict(zip(third[-1], expected(study, third, len(third) - 1), strict=True))
                best = sorted(guess, key=lambda i: -guess[i])
                third.append(best[: len(best) // ETA])
            guesses = {
                SCORE: list(study.scores[rung]),
                MACS: list(study.macs),
                LINEAR: weighted(list(study.scores[rung]), study.macs, study.depth, 1 - share),
                FOURTH: expected(study, [*[[]] * rung, everyone], rung),
                SOME: expected(study, third, rung),
                ALL: expected(study, [everyone] * len(SHARES), rung),
            }
            for way, guess_of in guesses.items():
                taus[way].append(kendall(guess_of, list(study.limit)) or 0.0)
        yield {way: fmean(values) for way, values in taus.items()}


def main() -> None:
    """Writes the tables."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for space in SPACES:
        table = Table.read(space)
        results[space] = {f"{share:.0%}": on_table(table, share) for share in RUNGS}
    cases = {
        "both tell": (0.6, 0.6),
        "depth is noise": (0.7, 0.0),
        "MACs are noise": (0.0, 0.7),
        "both are noise": (0.0, 0.0),
    }
    names = [f"1/{round(1 / share)}" for share in SHARES]
    for case, weights in cases.items():
        results[case] = dict(zip(names, simulated(*weights), strict=True))
    write("forecasting", results, page(results), PAGE)


def page(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """What the page shows, of both spaces; simulations are in the JSON."""
    cells = [
        [case, share, *(f"{taus[way]:.2f}" if way in taus else "–" for way in WAYS)]
        for case in SPACES
        for share, taus in results[case].items()
    ]
    text = (
        f"τ with full runs, mean over seeds of short runs; “{SOME}” over {ORDERS} random orders, "
        f"in which the search's rule says who climbs on; {STUDIES} simulated studies of {TRIALS} "
        "trials are in the JSON.\n\n"
    )
    return text + markdown(["of", "rung", *WAYS], cells)


if __name__ == "__main__":
    main()
