"""What a search finds, with no design of anybody's in its space, against nets made by hand.

For each seed: a real search in the default command's time, the space's `start:` withheld; random
search that spends the same time on full runs of architectures within the same limits, by as many
processes; and the nine hand-made nets of `headline.py`, distilled with the same budget. Accuracy is
that on test images; of hand-made nets the mean over the seeds. Parameters, and ONNX Runtime with
one thread at batch 1 and 256, all in turn in one run.

    python benchmarks/finds.py
    python benchmarks/finds.py --space resnet
    python benchmarks/finds.py --name cifar10 --data npz:build/cifar10_small/train.npz \\
        --teacher folder:build/cifar10_small/teacher          # see cifar10_small.py

What follows `--` goes to the search; `--name` is that of the results and of their folder. What is
done is kept in build/finds: a run that was cut off goes on there. A search learns from the
package's experience of its space and from nothing else. On the shipped data that is of the same
data and teacher: a final whose architecture is among those it learnt from is named. Targets: no
hand-made net dominates a final; finals dominate at least six of the nine; at equal or fewer
parameters at least one point above the best hand-made net; ahead of random search by hypervolume,
in each seed.
"""

from __future__ import annotations

import argparse
import hashlib
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
import yaml
from common import CACHE, ROOT, Setting, machine, markdown, met, open_setting, write
from headline import BATCHES, hand_made

from nasdistill import training
from nasdistill.analysis.pareto import as_points, hypervolume
from nasdistill.common.machine import default_workers
from nasdistill.models import Classifier, artifact
from nasdistill.models.counts import count_architecture, count_module
from nasdistill.models.latency import measure_latencies
from nasdistill.recipe import Recipe, load_recipe
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


@dataclass(frozen=True)
class Job:
    """What is searched.

    Attributes:
        name: Of its folder.
        space: A shipped space.
        data: As `--data` takes them.
        teacher: As `--teacher` takes it; `shipped` is the default's.
        options: Further options of the search.
    """

    name: str
    space: str
    data: str
    teacher: str
    options: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where everything of it is kept."""
        return KEPT / self.name

    def recipe(self) -> Recipe:
        """That of its searches, once one has begun."""
        return load_recipe(str(next(self.folder.glob("search-*/studies/*/recipe.yaml"))), {})

    def setting(self, seed: int = 0) -> Setting:
        """Data, teacher and what a student is given."""
        teacher = self.teacher if self.teacher == "shipped" else absolute(self.teacher)
        return open_setting(seed, spec=absolute(self.data), teacher=teacher, cache=CACHE)


def absolute(spec: str) -> str:
    """`kind:path` with the path from the root on, since searches run in folders of their own."""
    kind, colon, path = spec.partition(":")
    return f"{kind}:{(ROOT / path).resolve()}" if colon else spec


def write_space_without_start(job: Job, folder: Path) -> Path:
    """The shipped space without the designs that a search tries first."""
    tree = yaml.safe_load((ROOT / "search_spaces" / f"{job.space}.yaml").read_text())
    for part in (tree, tree.get("large", {})):
        part.pop("start", None)
    path = folder / f"{job.space}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    space, shipped = SearchSpace.load(str(path)), SearchSpace.load(job.space)
    assert space.fingerprint == shipped.fingerprint and not space.start
    return path


def searched(job: Job, seed: int) -> tuple[Path, float]:
    """A search's folder, and the seconds that it took, the set-up included.

    Each has a folder of its own, since full runs of one would teach the next.
    """
    folder = job.folder / f"search-{seed}"
    seconds_file = folder / "seconds.json"
    if not seconds_file.exists():
        space = write_space_without_start(job, folder)
        command = [sys.executable, "-m", "nasdistill", "search", "--space", space.name]
        command += ["--data", absolute(job.data), "--seed", str(seed), "--study", "found"]
        if job.teacher != "shipped":
            command += ["--teacher", absolute(job.teacher)]
        start = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([*command, *job.options], cwd=folder, env=environment, check=True)
        seconds_file.write_text(json.dumps(time.perf_counter() - start))
    return folder / "studies" / "found", float(json.loads(seconds_file.read_text()))


def distilled(job: Job, setting: Setting, student: Classifier, seed: int) -> Classifier:
    """The schedule of finals."""
    epoch = setting.setup.stream.examples_per_epoch
    budget = job.recipe().final_budget.examples(len(setting.data.train))
    end = max(1, round(budget / epoch)) * epoch
    schedule = LRSchedule(setting.recipe.rate(), epoch, epoch, end)
    setting.setup.prepare(end, 0)
    run = setting.setup.run(
        [student], horizon=end, lr_schedule=schedule, seed=seed, precision="fp32"
    )
    for _ in training.train(run, end):
        pass
    return student.eval()


def distil_by_hand(task: tuple[Job, str, int]) -> None:
    """Distils one hand-made net, unless it was."""
    job, name, seed = task
    file = weights_of(job, name, seed)
    if file.exists():
        return
    torch.set_num_threads(1)
    setting = job.setting(seed)
    student = distilled(job, setting, dict(hand_made(setting, seed))[name], seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(student.state_dict(), file)
    print(f"{name}, seed {seed}", flush=True)


def weights_of(job: Job, name: str, seed: int) -> Path:
    """Where the weights of a hand-made net are: the same for all spaces of one data set."""
    terms = {key: str(getattr(job.recipe(), key)) for key in ("data", "teacher", "final_budget")}
    digest = hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:8]
    return KEPT / f"hand-made-{digest}" / str(seed) / f"{name.replace(' ', '-')}.pt"


def draw_and_distil(task: tuple[Job, int, int, float, float]) -> list[dict[str, Any]]:
    """Full runs of random architectures within the limits, until the time is used up."""
    job, seed, process, seconds, most_params = task
    end = time.perf_counter() + seconds
    torch.set_num_threads(1)
    setting = job.setting(seed)
    space, rng = SearchSpace.load(job.space), random.Random(f"{seed} {process}")
    data, nets = setting.data, list[dict[str, Any]]()
    while True:
        architecture = space.random(rng)
        counts = count_architecture(architecture, data.input, len(data.classes))
        if counts.params > most_params:
            continue
        seed_weights(seed, architecture.fingerprint)
        student = setting.setup.students(architecture, data, seed)[0]
        student = distilled(job, setting, student, seed)
        if time.perf_counter() > end:
            return nets
        share = accuracy(*predict(student, data.test, data.input.size))
        nets.append({"architecture": architecture.to_json(), "accuracy": share})
        print(f"random search, seed {seed}: {share:.4f}", flush=True)


def random_nets(job: Job, seed: int) -> list[dict[str, Any]]:
    """What random search has distilled in full after as many seconds as the search took."""
    nets_file = job.folder / f"random-{seed}.json"
    if not nets_file.exists():
        study, seconds = searched(job, seed)
        metrics = json.loads((study / "finals" / "1" / "metrics.json").read_text())
        most_params = float(metrics["limits"]["params"]["limit"])
        processes = default_workers(torch.device("cpu"))
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            tasks = [(job, seed, process, seconds, most_params) for process in range(processes)]
            parts = pool.map(draw_and_distil, tasks, chunksize=1)
        nets_file.write_text(json.dumps([net for part in parts for net in part]))
    nets: list[dict[str, Any]] = json.loads(nets_file.read_text())
    return nets


def measured(job: Job, setting: Setting, seeds: Sequence[int]) -> dict[str, list[Net]]:
    """All nets, their latencies measured in turn: `hand-made`, `search S` and `random S`."""
    data = setting.data
    models: dict[str, Classifier] = {}
    shares: dict[str, float] = {}
    groups: dict[str, list[str]] = {"hand-made": []}
    for name, student in hand_made(setting):
        right = []
        for seed in seeds:
            student.load_state_dict(torch.load(weights_of(job, name, seed), weights_only=True))
            right.append(accuracy(*predict(student.eval(), data.test, data.input.size)))
        groups["hand-made"].append(name)
        models[name], shares[name] = student, fmean(right)
    learnt_from = shipped_runs(SearchSpace.load(job.space).fingerprint)
    known = {json.dumps(run.of.values, sort_keys=True) for run in learnt_from}
    for seed in seeds:
        for folder in sorted((searched(job, seed)[0] / "finals").glob("[0-9]*")):
            module, name = artifact.load(folder).eval(), f"search {seed}, final {folder.name}"
            values = Architecture.read(folder / "architecture.json").values
            name += " (in its experience)" if json.dumps(values, sort_keys=True) in known else ""
            groups.setdefault(f"search {seed}", []).append(name)
            models[name] = module
            shares[name] = accuracy(*predict(module, data.test, data.input.size))
        for place, net in enumerate(random_nets(job, seed)):
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
    parser.add_argument("--space", default="mobile", choices=("mobile", "resnet"))
    parser.add_argument("--data", default="fashion-mnist-mini")
    parser.add_argument("--teacher", default="shipped")
    parser.add_argument("--name", help="of the results; the space's where it is left out")
    parser.add_argument("options", nargs="*", help="of the search, after --")
    args = parser.parse_args()
    name, seeds = args.name or args.space, args.seeds
    job = Job(name, args.space, args.data, args.teacher, tuple(args.options))
    torch.manual_seed(0)
    seconds = {}
    for seed in seeds:
        seconds[seed] = searched(job, seed)[1]
        random_nets(job, seed)
    setting = job.setting()
    tasks = [(job, name, seed) for seed in seeds for name, _ in hand_made(setting)]
    processes = default_workers(torch.device("cpu"))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(distil_by_hand, tasks, chunksize=1)
    nets = measured(job, setting, seeds)
    results = {
        "machine": machine(),
        "job": asdict(job),
        "seconds": seconds,
        "nets": {group: [asdict(net) for net in some] for group, some in nets.items()},
    }
    write(f"finds_{job.name}", json.loads(json.dumps(results)), report(nets, seeds, seconds))


def report(nets: dict[str, list[Net]], seeds: Sequence[int], seconds: dict[int, float]) -> str:
    """Text and tables."""
    made, rows, outcomes = nets["hand-made"], [], []
    best = max(made, key=lambda net: net.accuracy)
    for seed in seeds:
        finals, drawn = nets[f"search {seed}"], nets.get(f"random {seed}", [])
        worse = [f for f in finals if any(h.dominates(f) for h in made)]
        beaten = [h for h in made if any(f.dominates(h) for f in finals)]
        leads = {
            h.name: 100 * (max(f.accuracy for f in finals if f.params <= h.params) - h.accuracy)
            for h in made
            if any(f.params <= h.params for f in finals)
        }
        over_best = leads.get(best.name, float("-inf"))
        both = volume(finals, [*finals, *drawn]), volume(drawn, [*finals, *drawn])
        outcomes.append((not worse, len(beaten) >= 6, over_best >= 1.0, both[0] > both[1]))
        rows.append(
            [
                seed,
                f"{seconds[seed]:.0f} s",
                len(finals),
                len(worse),
                f"{len(beaten)} of {len(made)}",
                f"{over_best:+.1f}",
                f"{fmean(leads.values()):+.1f}",
                f"{both[0] / both[1]:.2f} ({len(drawn)} full runs)" if both[1] else "–",
            ]
        )
    targets = [met(all(outcome)) for outcome in zip(*outcomes, strict=True)]
    head = [
        "seed",
        "search",
        "finals",
        "dominated by a net made by hand",
        "nets made by hand that finals dominate",
        "points above the best of them, at no more parameters",
        "above each, mean",
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
        f"Seeds {', '.join(map(str, seeds))}. No final dominated: {targets[0]}; six of nine "
        f"dominated: {targets[1]}; a point above the best made by hand, at no more parameters: "
        f"{targets[2]}; ahead of random search: {targets[3]}.\n\n"
    )
    columns = ["net", "parameters", *(f"batch {batch}" for batch in BATCHES), "test accuracy"]
    return f"{text}{markdown(head, rows)}\n\n{markdown(columns, table)}"


if __name__ == "__main__":
    main()
