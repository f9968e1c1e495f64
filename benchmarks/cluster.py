"""Trials an hour of two workers on a Ray cluster of two nodes, against two local workers.

Target: at least 0.9 times as many. Both nodes are on this machine, with one core each, and both
sides are the command as a user gives it, `nasdistill search`, on the shipped data and teacher with
the same students of `mobile`, drawn before anything is trained. The rate counts from the first
trial that was begun to the last that ended, so that starting Ray, which is done once, does not
count; the seconds of the whole commands stand beside it. The sides take turns, and the first of
them changes from repeat to repeat. The teacher's answers are there before: a search that does not
count has filled them.

    python benchmarks/cluster.py                                # --trials 12 --repeats 3
    python benchmarks/cluster.py --trials 2 --images 1k --repeats 1 --dry   # does it run at all?

Run it on a machine that does nothing else, with Ray installed: pip install 'nasdistill[ray]'.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
from common import quartiles, ratios, spread

from nasdistill.common.machine import cores
from nasdistill.results import COUNTED
from nasdistill.space import SearchSpace

DRAW_SEED, WORKERS, TARGET = 2029, 2, 0.9
SIDES = ("local", "ray")
HOME = str(Path(__file__).parents[1])
MOST_SECONDS = 7200
"""After which a search is given up."""


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """A search over fixed students, each at one rung."""
    space, rng = SearchSpace.load("mobile"), random.Random(DRAW_SEED)
    drawn = {one.fingerprint: one for one in (space.random(rng) for _ in range(50 * args.trials))}
    start = [json.loads(one.to_json())["values"] for one in drawn.values()][: args.trials]
    return {
        "space": {**space.to_dict(), "name": "fixed", "start": start},
        "trials": args.trials,
        "minimize": ["params"],
        "max_params": 10_000_000,
        "min_accuracy": 1,  # which nobody reaches: no finals
        "top_k": 1,
        "stopping": False,
        "experience": False,
        "rungs": {"first": args.images},
        "final_budget": args.images,
        "workers": WORKERS,
    }


@contextmanager
def two_nodes() -> Any:
    """A cluster of two nodes with a core each; gives its address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = HOME  # for the nodes, too
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def search(side: str, folder: Path, name: str, address: str) -> dict[str, float]:
    """Searches once, from nothing but the teacher's answers."""
    words = ["search", "--recipe", "recipe.json", "--study", name, "--engine", side]
    words += ["--ray-address", address] if side == "ray" else []
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "nasdistill", *words],
        cwd=folder,
        check=True,
        timeout=MOST_SECONDS,
        env={**os.environ, "PYTHONPATH": HOME},
    )
    whole = time.perf_counter() - begin
    trials = stored(folder / "studies" / name)
    begun = min(trial.datetime_start for trial in trials)
    seconds = (max(trial.datetime_complete for trial in trials) - begun).total_seconds()
    return {"an_hour": len(trials) / seconds * 3600, "seconds": seconds, "whole": whole}


def stored(folder: Path) -> list[Any]:
    """The trials of a study that count, as its storage has them."""
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
    (study,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=study, storage=storage).trials
    return [trial for trial in trials if trial.user_attrs.get("state") in COUNTED]


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Both sides, in turn."""
    searches: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name, two_nodes() as address:
        folder = Path(name)
        (folder / "recipe.json").write_text(json.dumps(recipe(args)))
        search("local", folder, "filling", address)
        for repeat in range(args.repeats):
            for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
                searches[side].append(search(side, folder, f"{side}-{repeat}", address))
                print(repeat, side, searches[side][-1], flush=True)
    return searches


def describe(searches: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> str:
    """The figures as Markdown."""
    rates = {side: [one["an_hour"] for one in searches[side]] for side in SIDES}
    gain = ratios(rates["ray"], rates["local"])
    names = {"local": "two local workers", "ray": "two workers on two Ray nodes"}
    rows = [
        [
            names[side],
            spread(quartiles(rates[side]), 0),
            spread(ratios(rates[side], rates["local"])),
            spread(quartiles([one["whole"] for one in searches[side]]), 0),
        ]
        for side in SIDES
    ]
    head = ["", "trials an hour", "times local", "seconds of the whole command"]
    text = (
        f"{args.trials} students of `mobile`, {args.images} of fashion-mnist-mini each, "
        f"{common.place('cpu', cores())}; {args.repeats} repeats."
    )
    verdict = common.verdict("Ray ÷ local", gain[1], TARGET, unit="×")
    return "\n\n".join([text, common.markdown(head, rows), verdict])


def main() -> None:
    """Measures, and writes JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--images", default="20k images", help="training images of a trial")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print the table, write nothing")
    args = parser.parse_args()
    args.images = args.images if " " in args.images else f"{args.images} images"
    searches = measure(args)
    text = describe(searches, args)
    if args.dry:
        print(text)
        return
    results = {"machine": common.machine(), "options": vars(args), "searches": searches}
    page = Path(__file__).parents[1] / "docs/scaling.md"
    common.write("cluster", results, text, page)


if __name__ == "__main__":
    main()
