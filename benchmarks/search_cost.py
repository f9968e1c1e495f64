"""The time to find a student within half a point of the best of the shared table.

Replayed from the CPU-seconds of the shared table (`full_runs.py`), over many random orders of its
architectures; what the table holds was really trained. Accuracy is that on test images after a full
run, the mean over the seeds there are; a side has found it once it has distilled such a student in
full. Sides:

- ours: of the architectures a share is tried, as the search tries 24 of the 200 that it draws:
  those of which the others' full runs foretell most (never its own; their seconds were spent in
  earlier studies and count nothing here). These are scored at 5 % of a full run and distilled in
  full one after the other, best forecast first; then the rest, as foretold;
- ours, without experience: all are scored at 5 %, and distilled by the forecast of score, MACs and
  depth, which learns from each full run that is done;
- ours, rungs: the same after rungs at 3 and 10 %, with the search's rule for who is stopped;
- everything: all distilled in full (what it takes to know the best);
- random: distilled in full one by one, until one is good enough;
- best tenth: a full run's schedule for a tenth of its epochs, the best tenth goes on to its end;
- TPE + Hyperband: Optuna's, one objective, on the same truncated schedules; TPE proposes
  parameters, MACs and depth, and the nearest architecture not tried yet is taken.

    python benchmarks/search_cost.py

Rivals run on the loop that most people write, so their seconds are those of the table times what
`trials_per_hour.py` measured for it; the table shows them on our loop, too, where only the strategy
differs. On our loop each side bears the set-up: asking the teacher about every view, and probing
precisions, as `trials_per_hour.py` measured them. Target: at least 10 times faster than everything,
and ahead of each rival.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import optuna
from common import HERE, markdown, met, write
from full_runs import COUNT, SHARES
from replay import LADDER, Foretold, Table, climbed, left_out, shuffled

from nasdistill.recipe import Recipe
from nasdistill.trials.candidate_pool import POOL

WITHIN = 0.005
ONE_RUNG = (0.05,)
TPE_SEEDS = 20
Order = Sequence[int]


def until_found(table: Table, order: Order, good: Sequence[bool]) -> float:
    """Seconds of full runs, one by one in this order, until one is good enough."""
    seconds, spent = table.seconds("full", 1.0), 0.0
    for index in order:
        spent += seconds[index]
        if good[index]:
            return spent
    raise AssertionError("the best is always good enough")


def ours(table: Table, good: Sequence[bool], seed: int, foretold: Foretold) -> float:
    """Scores of those that earlier full runs foretell most of, then full runs by the forecast."""
    guesses = foretold.guesses
    ranked = sorted(range(len(guesses)), key=lambda i: -guesses[i])
    tried = ranked[: max(1, round(len(ranked) * Recipe().trials / POOL))]
    seconds, last = (
        table.climbing(ONE_RUNG, seed),
        table.figure("trunk", ONE_RUNG[-1], seed, "accuracy"),
    )
    spent = sum(seconds[i] for i in tried)
    expected = table.expected([last[i] for i in tried], tried, ONE_RUNG[-1], foretold=foretold)
    guess = dict(zip(tried, expected, strict=True))
    first = sorted(tried, key=lambda i: -guess[i])
    return spent + until_found(table, [*first, *ranked[len(tried) :]], good)


def unexperienced(
    table: Table, order: Order, good: Sequence[bool], seed: int, ladder: Sequence[float]
) -> float:
    """The search's rungs, then full runs by its forecast, which learns from each."""
    passed, spent = climbed(table, order, ladder, seed=seed)
    last, full = table.figure("trunk", ladder[-1], seed, "accuracy"), table.truth("audit")
    seconds = table.seconds("full", 1.0)
    finished = [i for i in order if passed[i] == len(ladder)]
    scores = [last[i] for i in finished]
    done: dict[int, float] = {}
    while len(done) < len(finished):
        guess = dict(zip(finished, table.expected(scores, finished, ladder[-1], done), strict=True))
        index = max((i for i in finished if i not in done), key=lambda i: guess[i])
        spent += seconds[index]
        if good[index]:
            return spent
        done[index] = full[index]
    stopped = sorted((i for i in order if i not in done), key=lambda i: -passed[i])
    return spent + until_found(table, stopped, good)


def best_tenth(table: Table, order: Order, good: Sequence[bool], seed: int) -> float:
    """A tenth of the epochs for all, the rest for the best tenth."""
    share = SHARES[-1]
    early = table.seconds("full", share)
    score = table.figure("full", share, seed, "accuracy")
    ranked = sorted(order, key=lambda i: -score[i])
    count = math.ceil(len(order) / 10)
    begun = sum(early[i] for i in ranked)
    # Those that go on have their first tenth behind them.
    seconds, spent = table.seconds("full", 1.0), begun
    for place, index in enumerate(ranked):
        spent += seconds[index] - (early[index] if place < count else 0.0)
        if good[index]:
            return spent
    raise AssertionError("the best is always good enough")


def tpe_hyperband(table: Table, seed: int, good: Sequence[bool]) -> float:
    """Optuna's TPE and Hyperband on truncated schedules, until a full run is good enough."""
    about = np.log([table.known(name) for name in ("params", "macs", "depth")]).T
    low, high = about.min(axis=0), about.max(axis=0)
    points = (about - low) / (high - low)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=100, reduction_factor=3)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(
        study_name=f"{seed}",  # Hyperband draws brackets by it
        direction="maximize",
        sampler=sampler,
        pruner=pruner,
    )
    left, spent = list(range(len(points))), 0.0
    seconds = {share: table.seconds("full", share) for share in (*SHARES, 1.0)}
    kept = table.scored("full")
    line = kept[seed % len(kept)]
    scores = {s: table.figure("full", s, line, "accuracy") for s in (*SHARES, 1.0)}
    while left:
        trial = study.ask()
        target = np.array([trial.suggest_float(name, 0, 1) for name in ("params", "macs", "depth")])
        index = min(left, key=lambda i: float(((points[i] - target) ** 2).sum()))
        left.remove(index)
        for share in (*SHARES, 1.0):
            trial.report(scores[share][index], round(100 * share))
            if share < 1.0 and trial.should_prune():
                spent += seconds[share][index]
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            spent += seconds[1.0][index]
            study.tell(trial, scores[1.0][index])
            if good[index]:
                return spent
    return spent + until_found(table, range(len(points)), good)  # it stopped all good ones


def main() -> None:
    """Writes the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.read()
    truth = table.truth("test")
    good = [value >= max(truth) - WITHIN for value in truth]
    count, known = len(truth), left_out(table)

    def orders(way: Callable[[Order, int], float]) -> float:
        return median(shuffled(table, way))

    seconds_by_side = {
        "ours": orders(lambda _, seed: ours(table, good, seed, known)),
        "ours, without experience": orders(
            lambda order, seed: unexperienced(table, order, good, seed, ONE_RUNG)
        ),
        "ours, rungs": orders(lambda order, seed: unexperienced(table, order, good, seed, LADDER)),
        "everything": sum(table.seconds("full", 1.0)),
        "random": orders(lambda order, _: until_found(table, order, good)),
        "best tenth": orders(lambda order, seed: best_tenth(table, order, good, seed)),
        "TPE + Hyperband": median(tpe_hyperband(table, seed, good) for seed in range(TPE_SEEDS)),
    }
    factor, set_up = common_loop()
    whole = {name: seconds + set_up for name, seconds in seconds_by_side.items()}
    ours_whole = whole["ours"]
    cells = [
        [
            name,
            f"{whole[name]:.0f}",
            f"{whole[name] / ours_whole:.1f}",
            "–" if name.startswith("ours") else f"{factor * seconds / ours_whole:.1f}",
        ]
        for name, seconds in seconds_by_side.items()
    ]
    ratio = whole["everything"] / ours_whole
    rivals = ["random", "best tenth", "TPE + Hyperband"]
    alike = met(min(whole[name] for name in rivals) > ours_whole)
    common = met(factor * min(seconds_by_side[name] for name in rivals) > ours_whole)
    text = (
        f"{count} of {COUNT} architectures, {table.full_seeds} seeds of full runs; {sum(good)} "
        f"of them lie within half a point of the best ({max(truth):.4f}). On our own loop, against "
        f"distilling everything: {ratio:.1f} times faster (target 10: {met(ratio >= 10)}); ahead "
        f"of each rival on the common loop: {common}; on the same loop: {alike}. On our loop each "
        f"side bears {set_up:.0f} CPU-seconds of set-up.\n\n"
    )
    head = ["side", "CPU-seconds", "÷ ours, same loop", "÷ ours, rival on the common loop"]
    results = {
        "seconds": seconds_by_side,
        "set_up": set_up,
        "common_loop": factor,
        "architectures": count,
        "good": sum(good),
    }
    write("search_cost", results, text + markdown(head, cells))


def common_loop() -> tuple[float, float]:
    """How many times our seconds the loop that most people write takes, and our set-up.

    Returns:
        The ratio, and CPU-seconds of asking about every view of a full run and of probing.
    """
    measured = json.loads((HERE / "trials_per_hour.json").read_text())
    figures, options = measured["figures"], measured["options"]
    fill, probe = (figures["set-up"][name][1] for name in ("fill", "probe"))
    set_up = options["threads"] * (Recipe().views * fill / options["epochs"] + probe)
    return float(figures["common"]["ratio"][1]), set_up


if __name__ == "__main__":
    main()
