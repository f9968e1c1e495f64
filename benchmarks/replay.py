"""The shared table of `full_runs.py`, as the benchmarks that rest on it read it."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from full_runs import EPOCHS, RUNGS, architectures_file, read_runs

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.forecast import TYPICAL, forecast
from nasdistill.analysis.rank_correlation import bootstrap, kendall, vote
from nasdistill.analysis.stopping import floor_of, stop_reason
from nasdistill.results.experience import EarlierRun, Untrained
from nasdistill.results.rungs import examples_of

EXAMPLES = EPOCHS * 156 * 64
ORDERS = 200
LADDER, ETA = (0.03, 0.10), 3
"""Rungs of the table, for a search with two."""
SETTING = "the table"


@dataclass(frozen=True)
class Foretold:
    """What full runs of other architectures say of those of the table.

    Attributes:
        guesses: By place; None where the architecture itself taught.
        weight: Of a guess beside a score.
    """

    guesses: Sequence[float]
    weight: float


@dataclass(frozen=True)
class Table:
    """What is there of the shared table.

    Attributes:
        numbers: Architectures with at least one full run and, of the same seed, one of rungs.
        about: Parameters, MACs, depth and so on, by number.
        lines: What was seen of each run at each share, by (number, seed, kind).
        seeds: Seeds of the full runs, by number.
    """

    numbers: tuple[int, ...]
    about: Sequence[dict[str, Any]]
    lines: dict[tuple[int, int, str], dict[str, Any]]
    seeds: dict[int, tuple[int, ...]]

    @classmethod
    def read(cls, space: str = "mobile", device: str = "cpu") -> Table:
        """Reads what is there: a part of the table is a table of fewer architectures or seeds."""
        runs = read_runs(space, device)
        lines = {(r["architecture"], r["seed"], r["kind"]): r["at"] for r in runs}
        seeds: dict[int, tuple[int, ...]] = {}
        for number, seed, kind in sorted(lines):
            if kind == "full" and (number, seed, "trunk") in lines:
                seeds[number] = (*seeds.get(number, ()), seed)
        about = json.loads(architectures_file(space).read_text())
        return cls(tuple(sorted(seeds)), about, lines, seeds)

    @classmethod
    def read_joined(cls, names: Sequence[str], seed: int = 0) -> Table:
        """Several tables of one space and one data set as one, of a seed that all of them have."""
        about: list[dict[str, Any]] = []
        lines: dict[tuple[int, int, str], dict[str, Any]] = {}
        for table in map(cls.read, names):
            for number in table.numbers:
                runs = [table.lines.get((number, seed, kind)) for kind in ("full", "trunk")]
                if all(run is not None for run in runs):
                    for kind, run in zip(("full", "trunk"), runs, strict=True):
                        assert run is not None
                        lines[len(about), seed, kind] = run
                    about.append(table.about[number])
        return cls(tuple(range(len(about))), about, lines, {n: (seed,) for n in range(len(about))})

    def truth(self, part: str, without: int | None = None) -> list[float]:
        """Accuracy after full runs, the mean over the seeds there are, or over all but one."""
        return [
            fmean(
                self.lines[n, s, "full"]["1.0"][part]["accuracy"]
                for s in self.seeds[n]
                if s != without
            )
            for n in self.numbers
        ]

    @property
    def full_seeds(self) -> int:
        """Seeds of full runs that every architecture has."""
        return min(map(len, self.seeds.values()))

    def scored(self, kind: str) -> list[int]:
        """Seeds for which every architecture has this kind of run."""
        common = {s for (_, s, k) in self.lines if k == kind}
        return [s for s in sorted(common) if all((n, s, kind) in self.lines for n in self.numbers)]

    def figure(self, kind: str, share: float, seed: int, name: str) -> list[float]:
        """One figure of short runs on the score half, the larger the better."""
        sign = 1.0 if name in ("accuracy", "agreement") else -1.0
        rows = (self.lines[n, seed, kind][str(share)]["score"] for n in self.numbers)
        return [sign * row[name] for row in rows]

    def cost(self, kind: str, share: float) -> float:
        """Examples seen up to this score, as a share of a full run's.

        A rung costs what it costs by itself: cooling down at lower ones changes nothing in it.
        """
        if kind == "trunk":
            return share
        number, seed = self.numbers[0], self.scored(kind)[0]
        return float(self.lines[number, seed, kind][str(share)]["examples"]) / EXAMPLES

    def seconds(self, kind: str, share: float, seed: int = 0) -> list[float]:
        """CPU-seconds up to this score."""
        return [self.lines[n, seed, kind][str(share)]["seconds"] for n in self.numbers]

    def climbing(self, ladder: Sequence[float], seed: int) -> list[float]:
        """CPU-seconds up to the last rung of a ladder.

        The table's runs cooled down at every rung of the table: their seconds are scaled to the
        examples that this ladder takes.

        Args:
            ladder: Some of the table's rungs, rising, as shares of a full run.
            seed: Of the short runs.
        """
        taken = examples_of([round(share * EXAMPLES) for share in ladder])
        last = str(ladder[-1])
        lines = (self.lines[n, seed, "trunk"][last] for n in self.numbers)
        return [line["seconds"] * taken / line["examples"] for line in lines]

    def known(self, name: str) -> list[float]:
        """A figure that needs no training: `params`, `macs`, `depth`, `latency_ms`."""
        return [float(self.about[n][name]) for n in self.numbers]

    def untrained(self, place: int) -> Untrained:
        """What is known of an architecture before it is trained."""
        about = self.about[self.numbers[place]]
        figures = (about["macs"], about["params"], about["depth"], about["zero_cost"])
        return Untrained(about["architecture"]["values"], *figures)

    def voted(self) -> list[float]:
        """A vote of three figures of the untrained students."""
        return vote([list(self.about[n]["zero_cost"].values()) for n in self.numbers])

    def expected(
        self,
        scores: Sequence[float],
        places: Sequence[int],
        share: float,
        full: Mapping[int, float] | None = None,
        later: Mapping[int, float | None] | None = None,
        foretold: Foretold | None = None,
    ) -> Sequence[float]:
        """The search's forecast.

        Args:
            scores: At one rung.
            places: Of which architectures, as places in `numbers`.
            share: Of a full run, which these scores have seen.
            full: Accuracy after full runs, by place.
            later: Forecasts at the next rung, by place.
            foretold: By earlier full runs; None without any.
        """
        about = [self.about[self.numbers[i]] for i in places]
        known = [[one[name] for one in about] for name in ("macs", "params", "depth")]
        done = [(full or {}).get(i) for i in places]
        taught_by = [(later or {}).get(i) for i in places]
        guesses = [] if foretold is None else [foretold.guesses[i] for i in places]
        weight = 0.0 if foretold is None else foretold.weight
        expected = forecast(scores, *known, done, share, taught_by, guesses, weight)
        return [float(value) for value in expected.guess]


def left_out(table: Table) -> Foretold:
    """What all the others' full runs say of each architecture; its own taught nothing."""
    runs = full_runs_of(table, range(len(table.numbers)))
    guesses, weights = [], []
    for place, run in enumerate(runs):
        experience = Experience.of([*runs[:place], *runs[place + 1 :]], run.setting)
        guesses.append(float(experience.guess([run.of])[0]))
        weights.append(experience.weight)
    return Foretold(guesses, fmean(weights))


def taught_by_the_rest(table: Table, places: Sequence[int]) -> Foretold:
    """What the full runs of architectures that are not in a study say of the table's."""
    rest = [i for i in range(len(table.numbers)) if i not in places]
    experience = Experience.of(full_runs_of(table, rest), SETTING)
    everyone = [table.untrained(place) for place in range(len(table.numbers))]
    return Foretold([float(guess) for guess in experience.guess(everyone)], experience.weight)


def full_runs_of(table: Table, places: Iterable[int]) -> list[EarlierRun]:
    """Full runs of the table, as a study learns from them: accuracy on the audit half."""
    truth = table.truth("audit")
    return [EarlierRun(table.untrained(i), truth[i], SETTING, str(i)) for i in places]


def taught(
    table: Table,
    scores: Sequence[Sequence[float]],
    ladder: Sequence[float],
    there: Sequence[Sequence[int]],
    rung: int,
    foretold: Foretold | None = None,
) -> Sequence[float]:
    """The search's forecast at a rung, its weights taught by those that climbed on.

    Args:
        table: The table.
        scores: Of all architectures, by rung.
        ladder: Rungs, as shares of a full run.
        there: The places of those that reached each rung.
        rung: Its index.
        foretold: By earlier full runs; None without any.
    """
    later: dict[int, float] = {}
    if rung + 1 < len(ladder) and there[rung + 1]:
        higher = taught(table, scores, ladder, there, rung + 1, foretold)
        later = dict(zip(there[rung + 1], higher, strict=True))
    reached = [scores[rung][i] for i in there[rung]]
    return table.expected(reached, there[rung], ladder[rung], None, later, foretold)


def taught_by_others(table: Table, share: float, seed: int) -> list[float]:
    """The forecast at a rung of each architecture, taught by all the others' higher rungs alone."""
    everyone = range(len(table.numbers))
    higher = [rung for rung in RUNGS if rung >= share]
    scores = [table.figure("trunk", rung, seed, "accuracy") for rung in higher]
    found = []
    for place in everyone:
        others = [i for i in everyone if i != place]
        there = [everyone, *[others] * (len(higher) - 1)]
        found.append(taught(table, scores, higher, there, 0)[place])
    return found


def forecasts(
    table: Table, scores: Sequence[Sequence[float]], share: float, foretold: Foretold | None = None
) -> list[list[float]]:
    """What the search expects of scores, a row for each seed, before its own runs taught it."""
    everyone = range(len(table.numbers))
    return [list(table.expected(row, everyone, share, foretold=foretold)) for row in scores]


def mean_tau(scores: Sequence[Sequence[float]], truth: Sequence[float]) -> float:
    """Kendall's tau of each seed's scores with the truth, the mean."""
    return fmean(kendall(row, truth) or 0.0 for row in scores)


def interval(scores: Sequence[Sequence[float]], truth: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of `mean_tau`, over architectures."""

    def drawn(indices: Sequence[int]) -> float:
        return mean_tau([[r[i] for i in indices] for r in scores], [truth[i] for i in indices])

    found = bootstrap(drawn, len(truth))
    assert found is not None
    return found


def ahead(
    scores: Sequence[Sequence[float]], rival: Sequence[Sequence[float]], truth: Sequence[float]
) -> tuple[float, float]:
    """95 % bootstrap interval of the difference between two taus, of the same draws."""

    def drawn(indices: Sequence[int]) -> float:
        there = [truth[i] for i in indices]
        mine = mean_tau([[r[i] for i in indices] for r in scores], there)
        return mine - mean_tau([[r[i] for i in indices] for r in rival], there)

    found = bootstrap(drawn, len(truth))
    assert found is not None
    return found


def near_tau(
    scores: Sequence[Sequence[float]], truth: Sequence[float], macs: Sequence[float]
) -> tuple[float, int]:
    """Agreement on pairs whose MACs lie within 10 % of each other, and the number of pairs.

    (Pairs in the same order − pairs in the other order) ÷ pairs; ties count for neither; not a
    number where there is no pair.
    """
    pairs = [
        (i, j)
        for i in range(len(truth))
        for j in range(i)
        if max(macs[i], macs[j]) <= 1.1 * min(macs[i], macs[j])
    ]

    def sign(x: float) -> int:
        return (x > 0) - (x < 0)

    if not pairs:
        return math.nan, 0
    agreed = [
        fmean(sign(row[i] - row[j]) * sign(truth[i] - truth[j]) for i, j in pairs) for row in scores
    ]
    return fmean(agreed), len(pairs)


def climbed(
    table: Table,
    order: Sequence[int],
    ladder: Sequence[float] = LADDER,
    eta: int = ETA,
    by: str = "forecast",
    seed: int = 0,
    foretold: Foretold | None = None,
    deviations: float = 0.0,
) -> tuple[dict[int, int], float]:
    """Replays the search's rungs, one architecture after the other.

    Args:
        table: The table.
        order: Places in `table.numbers`.
        ladder: Rungs, as shares of a full run.
        eta: One in eta goes on.
        by: `forecast`, as the search does; `score`: the score alone; `interval`: whoever may still
            reach the front goes on, see `beaten_at_best`.
        seed: Of the short runs.
        foretold: By earlier full runs; None without any.
        deviations: The upper end of a forecast's interval above it, in standard deviations.

    Returns:
        How many rungs each passed (all of them: it was never stopped), and the CPU-seconds.
    """
    scores = [table.figure("trunk", share, seed, "accuracy") for share in ladder]
    seconds = [table.climbing(ladder[: rung + 1], seed) for rung in range(len(ladder))]
    costs = list(zip(table.known("latency_ms"), table.known("params"), strict=True))
    there: list[list[int]] = [[] for _ in ladder]
    passed, spent = {}, 0.0
    for index in order:
        for rung, row in enumerate(scores):
            there[rung].append(index)
            peers = there[rung]
            reason = None
            if rung < len(ladder) - 1:
                reached = [row[i] for i in peers]
                by_forecast = taught(table, scores, ladder, there, rung, foretold)
                order_by = reached if by == "score" else by_forecast
                theirs = [costs[i] for i in peers]
                if by == "interval":
                    reason = beaten_at_best(reached, by_forecast, theirs, deviations)
                else:
                    reason = stop_reason(len(peers) - 1, reached, order_by, theirs, eta, 0.1)
            passed[index] = rung + (reason is None)
            if reason is not None or rung == len(ladder) - 1:
                spent += seconds[rung][index]
                break
    return passed, spent


def beaten_at_best(
    scores: Sequence[float],
    expected: Sequence[float],
    costs: Sequence[Sequence[float]],
    deviations: float,
) -> str | None:
    """Why the last of some trials is stopped, if only intervals decide; None if it goes on.

    It is hopeless, or one that costs no more is expected to be better than the upper end of the
    last one's interval.
    """
    best = expected[-1] + deviations * TYPICAL
    cheaper = (all(a <= b for a, b in zip(row, costs[-1], strict=True)) for row in costs[:-1])
    better = (guess >= best for guess in expected[:-1])
    if scores[-1] < floor_of(scores, 0.1):
        return "hopeless"
    return "beaten" if any(a and b for a, b in zip(better, cheaper, strict=True)) else None


def shuffled(
    table: Table, measure: Callable[[Sequence[int], int], float], orders: int = ORDERS
) -> list[float]:
    """A figure of random orders of the architectures, of each seed of rungs in turn.

    Args:
        table: The table.
        measure: The figure of an order (places in `table.numbers`) and a seed of short runs.
        orders: How many.
    """
    rng, found, seeds = random.Random(0), [], table.scored("trunk")
    for turn in range(orders):
        order = list(range(len(table.numbers)))
        rng.shuffle(order)
        found.append(measure(order, seeds[turn % len(seeds)]))
    return found


def ceiling(table: Table, part: str) -> tuple[float, float] | None:
    """What one full run says of others: a second one, and the mean of all the others.

    Returns:
        The mean tau over pairs of seeds, and over seeds each against the mean of the others; None
        where not every architecture has two.
    """
    seeds = table.scored("full")
    if len(seeds) < 2:
        return None
    runs = {
        s: [table.lines[n, s, "full"]["1.0"][part]["accuracy"] for n in table.numbers]
        for s in seeds
    }
    pairs = [kendall(runs[a], runs[b]) or 0.0 for a, b in itertools.combinations(seeds, 2)]
    rest = [kendall(runs[s], table.truth(part, without=s)) or 0.0 for s in seeds]
    return fmean(pairs), fmean(rest)
