"""What a search finds, with no design of anybody's in its space, against nets made by hand.

For each seed: a real search of the shipped job in the default command's time, the space's `start:`
withheld; random search that spends the same time on full runs of architectures within the same
limits, by as many processes; and the nine hand-made nets of `headline.py`, distilled with the same
budget. Accuracy is that on test images; of hand-made nets the mean over the seeds. Parameters, and
ONNX Runtime with one thread at batch 1 and 256, all in turn in one run.

    python benchmarks/finds.py
    python benchmarks/finds.py --seeds 0

What is done is kept in build/finds: a run that was cut off goes on there. The package's experience
of the space is of the same data and teacher; a final whose architecture is among those it learnt
from is named. Targets: no hand-made net dominates a final; finals dominate at least six of the
nine; at equal or fewer parameters at least one point above the best hand-made net; ahead of random
search by hypervolume, in each seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from common import CACHE, ROOT, Setting, machine, markdown, met, open_setting, write
from headline import BATCHES, hand_made

from nasdistill import training
from nasdistill.analysis.pareto import as_points, hypervolume
from nasdistill.common.machine import default_workers
from nasdistill.models import Classifier, artifact
from nasdistill.models.counts import count_architecture, count_module
from nasdistill.models.latency import measure_latencies
from nasdistill.recipe import Recipe
from nasdistill.results.experience import shipped_runs
from nasdistill.space import Architecture, SearchSpace
from nasdistill.training import LRSchedule, predict, seed_weights
from nasdistill.training.checkpoint import write_checkpoint
from nasdistill.training.metrics import accuracy

KEPT = ROOT / "build" / "finds"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Net:
    """A distilled net.

    Attributes:
        name: What it is called.
        params: Number of parameters.
        accuracy: On test images; of several seeds the mean.
        ms: Median milliseconds of a call, by batch.
    """

    name: str
    params: int
    accuracy: float
    ms: dict[int, float]

    @property
    def figures(self) -> list[float]:
        """Everything that counts, to be minimised."""
        return [-self.accuracy, float(self.params), *self.ms.values()]

    def dominates(self, other: Net) -> bool:
        """No worse in anything, and better in something."""
        pairs = list(zip(self.figures, other.figures, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def space_without_start() -> Path:
    """The shipped space `mobile` without the designs that a search tries first."""
    text = (ROOT / "search_spaces" / "mobile.yaml").read_text()
    path = KEPT / "mobile.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text[: text.index("\nstart:")] + "\n")
    space, shipped = SearchSpace.load(str(path)), SearchSpace.load("mobile")
    assert space.fingerprint == shipped.fingerprint and not space.start
    return path


def searched(seed: int) -> tuple[Path, float]:
    """A search's folder, and the seconds that it took, the set-up included."""
    noted, study = KEPT / f"search-{seed}.json", KEPT / "studies" / f"finds-{seed}"
    if not noted.exists():
        command = [sys.executable, "-m", "nasdistill", "search", "--space", "mobile.yaml"]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--seed", str(seed), "--study", study.name],
            cwd=space_without_start().parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        noted.write_text(json.dumps({"seconds": time.perf_counter() - start}))
    return study, float(json.loads(noted.read_text())["seconds"])


def distilled(setting: Setting, student: Classifier, seed: int) -> Classifier:
    """The schedule of finals."""
    epoch = setting.setup.stream.examples_per_epoch
    end = round(Recipe().final_budget.examples(len(setting.data.train)) / epoch) * epoch
    pace = LRSchedule(setting.recipe.rate(), epoch, epoch, end)
    setting.setup.prepare(end, 0)
    run = setting.setup.run([student], horizon=end, lr_schedule=pace, seed=seed, precision="fp32")
    for _ in training.train(run, end):
        pass
    return student.eval()


def by_hand(task: tuple[str, int]) -> None:
    """Distils one hand-made net, unless it was."""
    name, seed = task
    file = weights_of(name, seed)
    if file.exists():
        return
    torch.set_num_threads(1)
    setting = open_setting(seed, cache=CACHE)
    student = distilled(setting, dict(hand_made(setting, seed))[name], seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(student.state_dict(), file)
    print(f"{name}, seed {seed}", flush=True)


def weights_of(name: str, seed: int) -> Path:
    """Where the weights of a hand-made net are."""
    return KEPT / f"hand-made-{seed}" / f"{name.replace(' ', '-')}.pt"


def at_random(task: tuple[int, int, float, dict[str, float]]) -> list[dict[str, Any]]:
    """Full runs of random architectures within the limits, until the time is used up."""
    seed, process, seconds, limits = task
    end = time.perf_counter() + seconds
    torch.set_num_threads(1)
    setting = open_setting(seed, cache=CACHE)
    space, rng = SearchSpace.load("mobile"), random.Random(f"{seed} {process}")
    data, found = setting.data, []
    while True:
        architecture = space.random(rng)
        counts = count_architecture(architecture, data.input, len(data.classes))
        if counts.params > limits["params"]:
            continue
        seed_weights(seed, architecture.fingerprint)
        student = setting.setup.students(architecture, data, seed)[0]
        student = distilled(setting, student, seed)
        if time.perf_counter() > end:
            return found
        share = accuracy(*predict(student, data.test, data.input.size))
        found.append({"architecture": architecture.to_json(), "accuracy": share})


def random_nets(seed: int, seconds: float, limits: dict[str, float]) -> list[dict[str, Any]]:
    """What random search has distilled in full after as many seconds."""
    noted = KEPT / f"random-{seed}.json"
    if not noted.exists():
        processes = default_workers(torch.device("cpu"))
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            tasks = [(seed, process, seconds, limits) for process in range(processes)]
            parts = pool.map(at_random, tasks, chunksize=1)
        noted.write_text(json.dumps([net for part in parts for net in part]))
    nets: list[dict[str, Any]] = json.loads(noted.read_text())
    return nets


def measured(setting: Setting, seeds: Sequence[int]) -> dict[str, list[Net]]:
    """All nets, their latencies measured in turn: `hand-made`, `search S` and `random S`."""
    data = setting.data
    models: dict[str, Classifier] = {}
    shares: dict[str, float] = {}
    groups: dict[str, list[str]] = {"hand-made": []}
    for name, student in hand_made(setting):
        right = []
        for seed in seeds:
            student.load_state_dict(torch.load(weights_of(name, seed), weights_only=True))
            right.append(accuracy(*predict(student.eval(), data.test, data.input.size)))
        groups["hand-made"].append(name)
        models[name], shares[name] = student, fmean(right)
    known = {json.dumps(run.of.values, sort_keys=True) for run in _experience()}
    for seed in seeds:
        for folder in sorted(p for p in (searched(seed)[0] / "finals").iterdir() if p.is_dir()):
            module, name = artifact.load(folder).eval(), f"search {seed}, final {folder.name}"
            values = Architecture.read(folder / "architecture.json").values
            name += " (in its experience)" if json.dumps(values, sort_keys=True) in known else ""
            groups.setdefault(f"search {seed}", []).append(name)
            models[name] = module
            shares[name] = accuracy(*predict(module, data.test, data.input.size))
        for place, net in enumerate(json.loads((KEPT / f"random-{seed}.json").read_text())):
            name = f"random {seed}, {place + 1}"
            architecture = Architecture.from_json(net["architecture"])
            groups.setdefault(f"random {seed}", []).append(name)
            models[name] = setting.setup.students(architecture, data, 0)[0].eval()
            shares[name] = net["accuracy"]
    inputs = {name: data.input for name in models}
    ms = {
        batch: measure_latencies(models, inputs, engine="onnxruntime", batch=batch, seconds=0.5)
        for batch in BATCHES
    }
    return {
        group: [
            Net(
                name,
                count_module(models[name], data.input).params,
                shares[name],
                {batch: ms[batch][name].median_ms for batch in BATCHES},
            )
            for name in names
        ]
        for group, names in groups.items()
    }


def _experience() -> list[Any]:
    return shipped_runs(SearchSpace.load("mobile").fingerprint)


def volume(nets: Sequence[Net], everything: Sequence[Net]) -> float:
    """Hypervolume of (accuracy, parameters, milliseconds at batch 1) below the worst of all."""

    def points(some: Sequence[Net]) -> np.ndarray:
        return as_points([[net.accuracy, net.params, net.ms[1]] for net in some])

    whole = points(everything)
    return hypervolume(points(nets), whole.max(axis=0) + 0.1 * np.ptp(whole, axis=0))


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    seeds = parser.parse_args().seeds
    torch.manual_seed(0)
    setting = open_setting(cache=CACHE)
    seconds = {}
    for seed in seeds:
        study, seconds[seed] = searched(seed)
        limits = json.loads((study / "finals" / "1" / "metrics.json").read_text())["limits"]
        random_nets(seed, seconds[seed], {k: v["limit"] for k, v in limits.items()})
    tasks = [(name, seed) for seed in seeds for name, _ in hand_made(setting)]
    processes = default_workers(torch.device("cpu"))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(by_hand, tasks, chunksize=1)
    nets = measured(setting, seeds)
    results = {
        "machine": machine(),
        "seconds": seconds,
        "nets": {group: [asdict(net) for net in some] for group, some in nets.items()},
    }
    write("finds", json.loads(json.dumps(results)), report(nets, seeds, seconds))


def report(nets: dict[str, list[Net]], seeds: Sequence[int], seconds: dict[int, float]) -> str:
    """Text and tables."""
    made, rows, outcomes = nets["hand-made"], [], []
    for seed in seeds:
        finals, drawn = nets[f"search {seed}"], nets.get(f"random {seed}", [])
        worse = [f for f in finals if any(h.dominates(f) for h in made)]
        beaten = [h for h in made if any(f.dominates(h) for f in finals)]
        leads = [
            100 * (max(f.accuracy for f in finals if f.params <= h.params) - h.accuracy)
            for h in made
            if any(f.params <= h.params for f in finals)
        ]
        both = volume(finals, [*finals, *drawn]), volume(drawn, [*finals, *drawn])
        outcomes.append((not worse, len(beaten) >= 6, min(leads) >= 1.0, both[0] > both[1]))
        rows.append(
            [
                seed,
                f"{seconds[seed]:.0f} s",
                len(finals),
                len(worse),
                f"{len(beaten)} of {len(made)}",
                f"{fmean(leads):.1f} ({min(leads):.1f})",
                f"{both[0] / both[1]:.2f} ({len(drawn)} full runs)" if both[1] else "–",
            ]
        )
    said = [met(all(found)) for found in zip(*outcomes, strict=True)]
    head = [
        "seed",
        "search",
        "finals",
        "dominated by a net made by hand",
        "nets made by hand that finals dominate",
        "points above each at no more parameters, mean (least)",
        "hypervolume ÷ random search's",
    ]
    table = [
        [
            net.name,
            f"{net.params / 1000:.1f} k",
            *(f"{net.ms[batch]:.3f} ms" for batch in BATCHES),
            f"{net.accuracy:.4f}",
        ]
        for group, some in nets.items()
        if not group.startswith("random")
        for net in sorted(some, key=lambda net: -net.accuracy)
    ]
    text = (
        f"Seeds {', '.join(map(str, seeds))}. No final dominated: {said[0]}; six of nine "
        f"dominated: {said[1]}; a point above each at no more parameters: {said[2]}; ahead of "
        f"random search: {said[3]}.\n\n"
    )
    columns = ["net", "parameters", *(f"batch {batch}" for batch in BATCHES), "test accuracy"]
    return f"{text}{markdown(head, rows)}\n\n{markdown(columns, table)}"


if __name__ == "__main__":
    main()
