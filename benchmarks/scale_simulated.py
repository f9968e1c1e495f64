"""Target: trials an hour grow with the workers, from 1 to 64, in a study of 10,000 trials.

The database is a real PostgreSQL, and all that workers do with it is done and timed: they ask,
claim, write scores, decide at each rung who goes on, and end trials. What is simulated is the
training, a minute for a whole climb by a clock of its own, and that each worker has a machine: here
they take turns in one process, whichever is earliest by that clock, and the seconds of their
storage and asking are added to it. They share the database, though not its load at the same
instant: 64 workers begin about one trial a second.

The study is filled with made-up trials (`stored_study.py`) up to `--filled`; then each number of
workers does `--trials` more, or five for each worker, with made-up scores. Counted are trials an
hour by the simulated clock until the last one begins, and the seconds of storage and asking. How
many of them climb differs from run to run, so what is linear is what a worker's hour holds of
training, against that of one worker alone.

    python benchmarks/scale_simulated.py         # --filled 9000 --trials 200 --workers 1 4 16 64
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import common
from asking import fill
from stored_study import BUDGETS, stored_trials

from nasdistill.analysis.front import forecast_at
from nasdistill.analysis.stopping import stop_reason
from nasdistill.common.machine import cores
from nasdistill.recipe import load_recipe
from nasdistill.results import COUNTED, RungScore
from nasdistill.study import Study

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import postgres

CLIMB_SECONDS = 60.0
"""Of training up to the last rung; lower ones cost their share of its budget."""
ETA = 3
LEAST_EACH = 5
"""Trials for each worker."""


class Worker:
    """One worker: its study, its trial, and the rung that it trains.

    Args:
        study: Opened for it alone.
        rng: Makes up costs and scores.
    """

    def __init__(self, study: Study, rng: random.Random) -> None:
        self.study, self.rng = study, rng
        self.number, self.rung, self.quality = -1, 0, 0.0
        self.costs: dict[str, Any] = {}

    def begin(self) -> float:
        """Takes a new trial; gives the seconds of training until its first score."""
        proposer = self.study.proposer()
        seen = {candidate.fingerprint for candidate in proposer.candidates}
        number, attempt = None, 0
        while number is None:
            proposal = proposer.propose(attempt)
            attempt += 1
            if proposal.architecture.fingerprint in seen:
                continue
            params = int(10 ** self.rng.uniform(4, 6))
            self.costs = {"params": params, "macs": 20 * params, "bytes": 4 * params, "depth": 9}
            number = self.study.claim(proposal, self.costs)
        self.number, self.rung = number, 0
        self.quality = min(0.95, 0.9 - 2e3 / self.costs["params"] - self.rng.expovariate(10))
        return seconds_to(0)

    def score(self) -> float | None:
        """Stores a score; gives the seconds to the next rung, or None where the trial ends."""
        study, rung = self.study, self.rung
        accuracy = max(0.05, self.quality - 0.1 * (2 - rung) + self.rng.gauss(0, 0.01))
        score = RungScore(rung, BUDGETS[rung], accuracy, accuracy, accuracy, 0.5, 10.0)
        study.record_rung(self.number, score)
        study.add_seconds("rungs", 10.0)
        candidates = study.candidates()
        if rung == len(BUDGETS) - 1:
            study.complete(self.number, accuracy, [self.costs["params"], self.costs["macs"]])
            return None
        peers = [c for c in candidates if len(c.rungs) > rung]
        reason = stop_reason(
            [c.number for c in peers].index(self.number),
            [c.rungs[rung].score for c in peers],
            list(forecast_at(peers, rung, {}, 20 * BUDGETS[-1]).guess),
            [[c.cost("params") or 0.0, c.cost("macs") or 0.0] for c in peers],
            ETA,
            0.1,
        )
        if reason is not None:
            study.stop(self.number, rung, reason, 1000)
            return None
        study.record_passed(self.number, rung + 1)
        self.rung += 1
        return seconds_to(self.rung)


def seconds_to(rung: int) -> float:
    """Simulated seconds of training from the rung before to this one."""
    before = BUDGETS[rung - 1] if rung else 0
    return CLIMB_SECONDS * (BUDGETS[rung] - before) / BUDGETS[-1]


def simulate(folder: Path, url: str, count: int, trials: int) -> dict[str, Any]:
    """So many workers do so many further trials."""
    os.chdir(folder)
    recipe = load_recipe(None, recipe_of(url))
    workers = [
        Worker(Study.open(recipe, Path("studies"), "a benchmark"), random.Random(n))
        for n in range(count)
    ]
    for worker in workers:
        worker.study.candidates()  # once for each worker, before its first trial
    trials = max(trials, LEAST_EACH * count)
    began, ended, spent, trained, now, steady = 0, 0, [], 0.0, 0.0, 0.0
    queue: list[tuple[float, int, bool]] = [(0.0, n, False) for n in range(count)]
    heapq.heapify(queue)
    of_trial: dict[int, float] = {}
    while queue:
        now, n, scores = heapq.heappop(queue)
        worker, begin = workers[n], time.perf_counter()
        training = worker.score() if scores else None
        if scores and training is None:
            ended += 1
        if training is None and began < trials:
            if scores:
                spent.append(of_trial.pop(n) + time.perf_counter() - begin)
                begin = time.perf_counter()
            training, began, steady = worker.begin(), began + 1, now
        own = time.perf_counter() - begin
        of_trial[n] = of_trial.get(n, 0.0) + own
        if training is not None:
            trained += training
            heapq.heappush(queue, (now + own + training, n, True))
        elif n in of_trial:
            spent.append(of_trial.pop(n))
    assert ended == trials
    return {"workers": count, "trials": trials, "begun": trials - count, "hours": steady / 3600,
            "spent": spent, "trained": trained}  # fmt: skip


def recipe_of(url: str) -> dict[str, Any]:
    """The recipe of the study, whose total is not to be reached."""
    return {"space": "mobile", "study": "scale", "storage": url, "minimize": ["params", "macs"],
            "trials": 1_000_000, "top_k": 1}  # fmt: skip


def training_share(one: dict[str, Any]) -> float:
    """The share of training in a worker's time."""
    share: float = one["trained"] / (sum(one["spent"]) + one["trained"])
    return share


def describe(runs: list[dict[str, Any]], filled: int, checks: str) -> str:
    """The figures as Markdown."""
    rows, worst = [], 0.0
    for one in runs:
        middle = sorted(one["spent"])[len(one["spent"]) // 2]
        worst = max(worst, middle / CLIMB_SECONDS)
        linear = training_share(one) / training_share(runs[0])
        rate = one["begun"] / one["hours"]
        row = [one["workers"], one["trials"], f"{rate:,.0f}", f"{linear:.3f}"]
        rows.append([*row, f"{middle:.2f}", f"{middle / CLIMB_SECONDS:.2%}"])
    head = ["workers", "trials", "trials an hour", "of linear", "s of storage and asking a trial"]
    least = training_share(runs[-1]) / training_share(runs[0])
    text = f"Further trials of a study of {filled:,}, {common.place('cpu', cores())}. {checks}"
    targets = [
        common.verdict(f"Of linear with {runs[-1]['workers']} workers", least, 0.9),
        common.verdict("Storage and asking ÷ a minute, at most", worst, 0.01, at_most=True),
    ]
    table = common.markdown([*head, "÷ a minute of training"], rows)
    return "\n\n".join([text, table, *targets])


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filled", type=int, default=9000)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    args = parser.parse_args()
    runs = []
    with postgres.running() as server, tempfile.TemporaryDirectory() as name:
        url, folder = server.url(), Path(name)
        os.chdir(folder)
        first = Study.open(load_recipe(None, recipe_of(url)), Path("studies"), "a benchmark")
        trials = islice(stored_trials(first.space, 2, seed=7), args.filled)
        fill(first._storage, first._study._study_id, 0, trials)
        for count in args.workers:
            runs.append(simulate(folder, url, count, args.trials))
            print(count, runs[-1]["hours"], sum(runs[-1]["spent"]), flush=True)
        candidates = first.candidates()
        total = args.filled + sum(one["trials"] for one in runs)
        withdrawn = len(first.trials()) - len(candidates)
        counts = Counter(c.fingerprint for c in candidates if c.state in COUNTED)
        twice = sum(n > 1 for n in counts.values())
        checks = (
            f"Trials in the end: {len(candidates):,} of {total:,}; architectures tried twice: "
            f"{twice}; claims withdrawn: {withdrawn}."
        )
        os.chdir("/")
    results = {"machine": common.machine(), "options": vars(args), "checks": checks, "runs": runs}
    page = Path(__file__).parents[1] / "docs/scaling.md"
    common.write("scale_simulated", results, describe(runs, args.filled, checks), page)


if __name__ == "__main__":
    main()
