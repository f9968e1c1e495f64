"""The shared table: 40 architectures, distilled in full and in short, with three seeds each.

`ranking.py`, `search_cost.py` and `stopping.py` read it. The architectures are drawn uniformly from
`mobile` with a fixed seed, inside the limits that `nasdistill search --space mobile` sets itself
(a tenth of the teacher's parameters, a third of its latency), and written down before anything is
trained. Other tables have chosen nothing: `resnet`, of another space, on which `scoring.py` judges
what was chosen on the first; `mobile_more`, a hundred further architectures of `mobile`, for
studies of a hundred trials (`regret.py`); and `mobile_cifar10`, others again on the data and under
the teacher of `cifar10_small.py`, for `carries_over.py`. Each is trained, one thread per run:

- `full`: 12 epochs of the shipped recipe (labels and KL, batches of 64, 4 views); on the way it is
  looked at where 1, 5 and 10 % of the examples are seen (a truncated schedule);
- `trunk`: what the search does: a trunk at a constant rate, a copy cooled down for each rung, at
  1, 3, 5 and 10 %;
- `complete`: short schedules of their own, warm-up to cool-down, at 1, 5 and 10 %;
- `labels`: the same without a teacher.

    python benchmarks/full_runs.py --processes 2             # goes on where it stopped
    python benchmarks/full_runs.py --seeds 0 --minutes 60    # a part of it
    python benchmarks/full_runs.py --processes 2 --table resnet --kinds full trunk
    python benchmarks/full_runs.py --device cuda --kinds full trunk --seeds 0 --minutes 1

One line of `benchmarks/full_runs_TABLE.jsonl` for each run: figures on the score half, the audit
half and the test split, examples seen and CPU-seconds (of one thread; the teacher's answers not
counted: all sides need the same ones). On a card it is a table of its own, with wall-clock seconds:
what fits into one visit, and goes on at the next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cifar10_small
import torch
from common import CACHE, HERE, Setting, clock, name_on, open_setting
from sides import capture
from torch import nn

from nasdistill import training
from nasdistill.models import Classifier, zero_cost
from nasdistill.models.counts import count_architecture, count_module
from nasdistill.models.latency import measure_latencies
from nasdistill.results.rungs import COOL_DOWN, Ladder
from nasdistill.space import Architecture, SearchSpace
from nasdistill.training import LRSchedule, Run, predict
from nasdistill.training.metrics import accuracy, agreement
from nasdistill.trials.training_setup import TrainingSetup

COUNT, SEEDS = 40, (0, 1, 2)
EPOCHS = 12
SHARES = (0.01, 0.05, 0.10)
RUNGS = (0.01, 0.03, 0.05, 0.10)
KINDS = ("full", "trunk", "complete", "labels")
SPACES = ("mobile", "resnet")
Task = tuple[str, int, int, str, str, str]
"""Table, architecture, seed, kind, the architecture as JSON, device."""


class Source(NamedTuple):
    """Where a table's architectures come from, and what they are distilled on."""

    space: str
    data: str
    teacher: str
    draw_seed: int
    count: int


TABLES = {
    "mobile": Source("mobile", "fashion-mnist-mini", "shipped", 2026, COUNT),
    "resnet": Source("resnet", "fashion-mnist-mini", "shipped", 2026, COUNT),
    "mobile_more": Source("mobile", "fashion-mnist-mini", "shipped", 2027, 100),
    "mobile_cifar10": Source("mobile", cifar10_small.DATA, cifar10_small.TEACHER, 2028, COUNT),
}


def runs_file(table: str, device: str = "cpu") -> Path:
    """Where the lines of a table are."""
    return HERE / f"{name_on(f'full_runs_{table}', device)}.jsonl"


def architectures_file(table: str) -> Path:
    """Where the architectures of a table are written down."""
    return HERE / f"full_runs_{table}_architectures.json"


def draw(setting: Setting, source: Source) -> list[dict[str, Any]]:
    """Draws the architectures of a table inside the limits that a search sets itself."""
    data, teacher = setting.data, setting.teacher
    limit_params = count_module(teacher.module, teacher.input).params // 10
    measured = {"teacher": teacher.module.eval()}
    inputs = {"teacher": teacher.input}
    limit_ms = _latency(measured, inputs) / 3
    batch = next(iter(data.train.batches(setting.setup.stream.plan(0, 1), data.input.size)))
    space, rng = SearchSpace.load(source.space), random.Random(source.draw_seed)
    found: list[dict[str, Any]] = []
    while len(found) < source.count:
        architecture = space.random(rng)
        counts = count_architecture(architecture, data.input, len(data.classes))
        if counts.params > limit_params:
            continue
        student = setting.setup.students(architecture, data, 0)[0].eval()
        latency = _latency({"student": student}, {"student": data.input})
        if latency > limit_ms:
            continue
        found.append(
            {
                "architecture": json.loads(architecture.to_json()),
                "params": counts.params,
                "macs": counts.macs,
                "latency_ms": latency,
                "depth": counts.depth,
                "zero_cost": dict(zero_cost.measure(student, batch.images, batch.labels)),
            }
        )
    return found


def _latency(models: Any, inputs: Any) -> float:
    found = measure_latencies(models, inputs, engine="onnxruntime", threads=1, seconds=0.2)
    return next(iter(found.values())).median_ms


_setting: dict[int, Setting] = {}
_teacher_says: dict[str, torch.Tensor] = {}


def setting_of(table: str, seed: int, device: str = "cpu") -> Setting:
    """The setting of a seed, opened once per process, which keeps to one table and device."""
    torch.set_num_threads(1)
    if seed not in _setting:
        _, data, teacher, *_ = TABLES[table]
        _setting[seed] = open_setting(seed, cache=CACHE, device=device, spec=data, teacher=teacher)
    return _setting[seed]


def total(setting: Setting, share: float) -> int:
    """Examples of a share of a full run."""
    stream = setting.setup.stream
    return round(share * EPOCHS * stream.steps_per_epoch) * stream.batch_size


def figures(setting: Setting, student: Classifier) -> dict[str, dict[str, float]]:
    """What a student's answers are worth, by part of the data; the student is left in eval mode."""
    data = setting.data
    if not _teacher_says:
        said = predict(setting.teacher.module, data.score, data.input.size)[0]
        _teacher_says["score"] = said
    logits, labels = predict(student, data.score, data.input.size)
    taught = _teacher_says["score"]
    log_p, log_q = taught.log_softmax(dim=1), logits.log_softmax(dim=1)
    found = {
        "score": {
            "accuracy": accuracy(logits, labels),
            "loss": float(nn.functional.cross_entropy(logits, labels)),
            "kl": float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean()),
            "agreement": agreement(logits, taught),
        }
    }
    for part in ("audit", "test"):
        share = accuracy(*predict(student, getattr(data, part), data.input.size))
        found[part] = {"accuracy": share}
    return found


def start(
    setting: Setting,
    setup: TrainingSetup,
    architecture: Architecture,
    seed: int,
    lr_schedule: LRSchedule,
    horizon: int,
    student: Classifier | None = None,
) -> Run:
    """A run from its first step, of a fresh student if none is given."""
    students = [student] if student else setup.students(architecture, setting.data, seed)
    setup.prepare(horizon, 0)
    run = setup.run(students, horizon=horizon, lr_schedule=lr_schedule, seed=seed, precision="fp32")
    capture(run)
    return run


def train(run: Run, until: int) -> float:
    """Trains, and gives the CPU-seconds that it took; on a card, the seconds."""
    begin = seconds_on(run.device)
    for _ in training.train(run, until):
        pass
    return seconds_on(run.device) - begin


def seconds_on(device: torch.device) -> float:
    """CPU-seconds of this process so far; on a card, the clock."""
    return time.process_time() if device.type == "cpu" else clock(device)


def run_full(setting: Setting, architecture: Architecture, seed: int) -> dict[str, Any]:
    """A final's schedule, looked at on the way."""
    end, epoch = total(setting, 1.0), setting.setup.stream.examples_per_epoch
    lr_schedule = LRSchedule(setting.recipe.rate(), epoch, epoch, end)
    run = start(setting, setting.setup, architecture, seed, lr_schedule, end)
    found, seconds = {}, 0.0
    for share in (*SHARES, 1.0):
        seconds += train(run, total(setting, share))
        said = figures(setting, student_now(run))
        found[str(share)] = {**said, "examples": run.examples, "seconds": seconds}
    return found


def student_now(run: Run) -> Classifier:
    """The student as it is now, in eval mode, apart from the run."""
    student = run.branch(run.lr_schedule).students[0]
    assert isinstance(student, Classifier)
    return student.eval()


def run_trunk(
    setting: Setting,
    architecture: Architecture,
    seed: int,
    student: Classifier | None = None,
    rate: float = 1.0,
) -> dict[str, Any]:
    """The search's rungs: a trunk, and a copy cooled down at each.

    Args:
        setting: The table's.
        architecture: Of the student.
        seed: Of its run.
        student: One that has weights already; a fresh one if not given.
        rate: Of learning, beside a fresh student's.
    """
    ladder = Ladder(tuple(total(setting, share) for share in RUNGS), 3)
    peak, last = rate * setting.recipe.rate(), ladder.budgets[-1]
    lr_schedule = LRSchedule(peak, ladder.budgets[0] // 3, None, last)
    run = start(setting, setting.setup, architecture, seed, lr_schedule, last, student)
    at_share, seconds = {}, 0.0
    for rung, share in enumerate(RUNGS):
        turn, budget = ladder.trunk_end(rung), ladder.budgets[rung]
        seconds += train(run, turn)
        branch = run.branch(LRSchedule(peak, lr_schedule.warm_up, turn, budget))
        seconds += train(branch, budget)
        scored = branch.students[0].eval()
        assert isinstance(scored, Classifier)
        costs = {"examples": ladder.examples(rung), "seconds": seconds}
        at_share[str(share)] = {**figures(setting, scored), **costs}
    return at_share


def run_complete(
    setting: Setting, architecture: Architecture, seed: int, setup: TrainingSetup | None = None
) -> dict[str, Any]:
    """Short schedules of their own."""
    found = {}
    for share in SHARES:
        end = total(setting, share)
        lr_schedule = LRSchedule(setting.recipe.rate(), end // 5, round(end * (1 - COOL_DOWN)), end)
        run = start(setting, setup or setting.setup, architecture, seed, lr_schedule, end)
        seconds = train(run, end)
        student = run.students[0].eval()
        assert isinstance(student, Classifier)
        said = figures(setting, student)
        found[str(share)] = {**said, "examples": run.examples, "seconds": seconds}
    return found


def run_labels(setting: Setting, architecture: Architecture, seed: int) -> dict[str, Any]:
    """The same without a teacher."""
    return run_complete(setting, architecture, seed, setting.labels)


WAYS = {"full": run_full, "trunk": run_trunk, "complete": run_complete, "labels": run_labels}


def one(task: Task) -> dict[str, Any]:
    """One line of the table, in a process of the pool."""
    table, number, seed, kind, text, device = task
    setting = setting_of(table, seed, device)
    found = WAYS[kind](setting, Architecture.from_json(text), seed)
    return {"architecture": number, "seed": seed, "kind": kind, "at": found}


def read_runs(table: str, device: str = "cpu") -> list[dict[str, Any]]:
    """The lines that are there."""
    path = runs_file(table, device)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tasks(table: str, seeds: list[int], kinds: list[str], device: str) -> Iterator[Task]:
    """What is still to be done, seed by seed."""
    done = {(line["architecture"], line["seed"], line["kind"]) for line in read_runs(table, device)}
    drawn = json.loads(architectures_file(table).read_text())
    for seed, number, kind in itertools.product(seeds, range(len(drawn)), kinds):
        if (number, seed, kind) not in done:
            yield table, number, seed, kind, json.dumps(drawn[number]["architecture"]), device


def main() -> None:
    """Goes on with the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, default="mobile")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    for seed in args.seeds:  # the answers are there before processes share them
        setting = setting_of(args.table, seed, args.device)
        setting.setup.prepare(total(setting, 1.0), 0)
    drawn, runs = architectures_file(args.table), runs_file(args.table, args.device)
    if not drawn.exists():
        found = draw(setting_of(args.table, args.seeds[0]), TABLES[args.table])
        drawn.write_text(json.dumps(found, indent=1) + "\n")
    todo = list(tasks(args.table, args.seeds, args.kinds, args.device))
    begin = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool, runs.open("a") as file:
        for done, line in enumerate(pool.imap_unordered(one, todo), start=1):
            file.write(json.dumps(line) + "\n")
            file.flush()
            spent = time.monotonic() - begin
            print(f"{done} of {len(todo)}, {spent:.0f} s", flush=True)
            if spent > 60 * args.minutes:
                break


if __name__ == "__main__":
    main()
