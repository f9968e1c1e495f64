"""Target: at most 0.3 s to propose the next trial with 10,000 stored ones, and growing slowly.

A made-up study of `mobile` (random architectures, scores and costs; one in ten rejected, two in
three stopped) grows to 100, 1,000 and 10,000 trials, in SQLite and in PostgreSQL, on this machine.
At each size, before each proposal, another connection stores one more trial. Timed is what a worker
does to propose: it reads what is new, makes the sampler's view and asks. Reading everything for the
first time, once for each worker, is timed apart.

    python benchmarks/asking.py                  # --sizes 100 1000 10000 --repeats 9

PostgreSQL is started in a folder of its own; without it, SQLite alone is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import common
import optuna
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from stored_study import stored_trials

from nasdistill.common.machine import cores
from nasdistill.recipe import load_recipe
from nasdistill.results import open_storage
from nasdistill.space import SearchSpace
from nasdistill.study import Proposer
from nasdistill.study.history import History

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import postgres

TARGET = 0.3
COSTS = {2: ["params"], 3: ["params", "macs"]}
SAMPLERS = ("tpe", "nsga2")


def fill(storage: Any, study: int, first: int, trials: Iterable[FrozenTrial]) -> None:
    """Stores trials by the hundred: one by one, each in a transaction, takes minutes."""
    with storage.engine.begin() as connection:
        for number, trial in enumerate(trials, first):
            about = {"study_id": study, "number": number, "state": trial.state}
            times = {
                "datetime_start": trial.datetime_start,
                "datetime_complete": trial.datetime_start,
            }
            made = connection.execute(models.TrialModel.__table__.insert().values(**about, **times))
            identity = {"trial_id": made.inserted_primary_key[0]}
            for table, rows in rows_of(trial).items():
                if rows:
                    connection.execute(table.insert(), [{**identity, **row} for row in rows])


def rows_of(trial: FrozenTrial) -> dict[Any, list[dict[str, Any]]]:
    """The rows of a trial, by table."""
    attributes = ("key", "value_json")
    return {
        models.TrialParamModel.__table__: [
            {
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in trial.distributions.items()
        ],
        models.TrialValueModel.__table__: [
            {"objective": i, "value": value, "value_type": models.TrialValueModel.TrialValueType(1)}
            for i, value in enumerate(trial.values or ())
        ],
        models.TrialUserAttributeModel.__table__: [
            dict(zip(attributes, (key, json.dumps(value)), strict=True))
            for key, value in trial.user_attrs.items()
        ],
        models.TrialSystemAttributeModel.__table__: [
            dict(zip(attributes, (key, json.dumps(value)), strict=True))
            for key, value in trial.system_attrs.items()
        ],
    }


def timed(url: str, sizes: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    """Seconds at each size, sampler and number of objectives."""
    # Its own designs would be proposed first, without asking.
    space = replace(SearchSpace.load("mobile"), start=())
    made, rival = stored_trials(space, 2), open_storage(url, "create")
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
    identity = optuna.create_study(storage=rival, directions=directions, study_name="s")._study_id
    count = 0
    for size in sizes:
        fill(rival, identity, count, islice(made, size - count))
        count = size
        for objectives, costs in COSTS.items():
            for sampler in SAMPLERS:
                study = optuna.load_study(study_name="s", storage=open_storage(url))
                options = {"space": "mobile", "sampler": sampler, "minimize": costs}
                recipe, history = load_recipe(None, options), History(costs)
                begin = time.perf_counter()
                history.update(study.get_trials(deepcopy=False))
                first, seconds = time.perf_counter() - begin, []
                for _ in range(repeats):
                    fill(rival, identity, count, islice(made, 1))
                    count += 1
                    begin = time.perf_counter()
                    history.update(study.get_trials(deepcopy=False))
                    Proposer(history, directions[:objectives], recipe, space).propose(0)
                    seconds.append(time.perf_counter() - begin)
                print(size, objectives, sampler, first, sorted(seconds), flush=True)
                row = {"trials": size, "objectives": objectives, "sampler": sampler}
                yield {**row, "first": first, "seconds": seconds}


def describe(timings: dict[str, list[dict[str, Any]]], sizes: list[int]) -> str:
    """The figures as Markdown."""
    rows, worst = [], 0.0
    for storage, measured in timings.items():
        for objectives in COSTS:
            for sampler in SAMPLERS:
                of = {
                    m["trials"]: sorted(m["seconds"])[len(m["seconds"]) // 2]
                    for m in measured
                    if (m["objectives"], m["sampler"]) == (objectives, sampler)
                }
                worst = max(worst, of[sizes[-1]])
                cells = [f"{of[size] * 1000:,.0f}" for size in sizes]
                growth = of[sizes[-1]] / of[sizes[0]]
                rows.append([storage, sampler, objectives, *cells, f"{growth:.1f} ×"])
    head = ["storage", "sampler", "objectives", *[f"ms at {size:,}" for size in sizes], "growth"]
    first = max(m["first"] for measured in timings.values() for m in measured)
    return "\n\n".join(
        [
            f"Medians, {common.place('cpu', cores())}. The first reading of {sizes[-1]:,} trials, "
            f"once for each worker: at most {first:.1f} s.",
            common.markdown(head, rows),
            common.verdict(f"the slowest at {sizes[-1]:,}", worst, TARGET, at_most=True, unit=" s"),
        ]
    )


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    timings: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {"SQLite": f"sqlite:///{folder}/study.db"}
        if postgres.programs() is not None:
            urls["PostgreSQL"] = stack.enter_context(postgres.running()).url()
        for name, url in urls.items():
            timings[name] = list(timed(url, args.sizes, args.repeats))
    results = {"machine": common.machine(), "options": vars(args), **timings}
    common.write("asking", results, describe(timings, args.sizes))


if __name__ == "__main__":
    main()
