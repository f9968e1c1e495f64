"""What a step of distillation costs. Target: at most 1.05 times a step on labels alone.

Conditions: shipped data, teacher and recipe (labels and KL, batches of 64, 4 views); four students,
two of `mobile` and two of `resnet`, all within a tenth of the teacher's parameters; the teacher's
answers are at hand, as they are for all trials but the first. For each student two runs, one on
labels and KL and one on labels alone, with the same weights, examples, views and precision (probed,
as in a trial), take turns: a chunk of steps each, the order changing from chunk to chunk. A repeat
is a number of such pairs; its figure is the ratio of the two sums of seconds.

    python benchmarks/kd_overhead.py
    python benchmarks/kd_overhead.py --device cuda

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import common
import sides
import torch
from common import Setting, clock, quartiles, spread
from methods import STUDENT

from nasdistill import training
from nasdistill.common.machine import cores
from nasdistill.models.counts import count_architecture
from nasdistill.space import Architecture
from nasdistill.training import LRSchedule, Precision, Run
from nasdistill.trials.training_setup import TrainingSetup

CHUNK = 20
TARGET = 1.05


def mobile(*stages: tuple[int, int]) -> dict[str, Any]:
    """Inverted residuals of these widths and depths."""
    block = {"type": "mbconv", "expansion": 3, "kernel": 3, "squeeze_excite": False}
    shown = [{"width": width, "depth": depth, "block": block} for width, depth in stages]
    return {
        "family": "mobile",
        "values": {"activation": "relu", "stem": 16, "stages": shown, "head": 128},
    }


def resnet(*stages: tuple[int, int]) -> dict[str, Any]:
    """Basic blocks of these widths and depths."""
    shown = [{"width": width, "depth": d, "block": {"type": "basic"}} for width, d in stages]
    stem = {"type": "conv3", "width": stages[0][0]}
    return {"family": "resnet", "values": {"stem": stem, "stages": shown}}


STUDENTS = {
    "mobile, smaller": STUDENT,
    "mobile, larger": mobile((24, 1), (48, 2), (80, 1)),
    "resnet, smaller": resnet((8, 1), (16, 1), (32, 1)),
    "resnet, larger": resnet((16, 1), (32, 1), (64, 1)),
}


def start(
    setting: Setting,
    setup: TrainingSetup,
    architecture: Architecture,
    precision: Precision,
    end: int,
) -> Run:
    """A fresh run at a constant rate, past its first chunk."""
    students = setup.students(architecture, setting.data, setting.recipe.seed)
    lr_schedule = LRSchedule(setting.recipe.rate(), end // 5, None, end)
    run = setup.run(students, horizon=end, lr_schedule=lr_schedule, seed=0, precision=precision)
    sides.capture(run)
    advance(run)
    return run


def advance(run: Run) -> float:
    """Trains a chunk of steps, and gives its seconds."""
    begin = clock(run.device)
    for _ in training.train(run, run.examples + CHUNK * run.stream.batch_size, every=CHUNK):
        pass
    return clock(run.device) - begin


def compare(setting: Setting, text: str, pairs: int, repeats: int) -> dict[str, Any]:
    """Lets both runs of one student take turns."""
    architecture = Architecture.from_json(text)
    end = (pairs * repeats + 1) * CHUNK * setting.recipe.batch_size
    setting.setup.prepare(end, 0)
    precision = sides.probe_ours(setting, architecture)
    setups = {"kl": setting.setup, "labels": setting.labels}
    runs = {
        name: start(setting, setup, architecture, precision, end) for name, setup in setups.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        spent = dict.fromkeys(runs, 0.0)
        for pair in range(pairs):
            for name in runs if pair % 2 == 0 else reversed(runs):
                spent[name] += advance(runs[name])
        for name, took in spent.items():
            seconds[name].append(took / (pairs * CHUNK))
    counts = count_architecture(architecture, setting.data.input, len(setting.data.classes))
    return {
        "params": counts.params,
        "precision": precision,
        "seconds_a_step": seconds,
        "ratio": common.ratios(seconds["kl"], seconds["labels"]),
    }


def describe(by_student: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as Markdown."""
    rows = [
        [
            name,
            f"{one['params']:,}",
            one["precision"],
            *(
                spread(quartiles([1000 * s for s in one["seconds_a_step"][side]]))
                for side in ("labels", "kl")
            ),
            spread(one["ratio"], 3),
        ]
        for name, one in by_student.items()
    ]
    head = ["student", "parameters", "precision", "labels, ms a step", "labels + kl", "ratio"]
    worst = max(by_student, key=lambda name: by_student[name]["ratio"][1])
    return "\n\n".join(
        [
            f"Measured {common.place(args.device, args.threads)}; {args.repeats} repeats "
            f"of {args.pairs} pairs of {CHUNK} steps.",
            common.markdown(head, rows),
            common.verdict(
                f"The highest of the medians, `{worst}`",
                by_student[worst]["ratio"][1],
                TARGET,
                at_most=True,
                unit="×",
            ),
        ]
    )


def main() -> None:
    """Measures all students, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=10, help="of chunks in a repeat")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    setting = common.open_setting(device=args.device)
    by_student = {}
    for name, student in STUDENTS.items():
        by_student[name] = compare(setting, json.dumps(student), args.pairs, args.repeats)
        print(name, by_student[name], flush=True)
    results = {"machine": common.machine(args.device), "options": vars(args), "figures": by_student}
    common.write(common.name_on("kd_overhead", args.device), results, describe(by_student, args))


if __name__ == "__main__":
    main()
