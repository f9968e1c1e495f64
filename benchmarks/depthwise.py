"""Training steps with our gradients of depthwise convolutions against PyTorch's own, on a CPU.

Conditions: shipped data, teacher and recipe (labels and KL, batches of 64); the first `--students`
architectures of `mobile` that `trials_per_hour` draws and that have a depthwise convolution; one
thread, as a worker has. For each student and precision two runs with the same weights, examples
and views take turns, a chunk of steps each, the order changing from repeat to repeat; one of them
with `DepthwiseConv2d` as PyTorch's `nn.Conv2d` has it. The precision of a side is the one that is
fastest for the student there, as the probe of a study would choose it.

    python benchmarks/depthwise.py

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import common
import torch
from common import Setting, clock, quartiles, spread
from torch import nn
from trials_per_hour import COUNT, draw

from nasdistill import training
from nasdistill.models.counts import count_architecture
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.space import Architecture
from nasdistill.training import LRSchedule, Precision, Run

CHUNK = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "bf16-mixed")
OURS, THEIRS = "ours", "PyTorch's"


@contextmanager
def gradients_of(side: str) -> Iterator[None]:
    """Has depthwise convolutions be as one side has them."""
    if side == OURS:
        yield
        return
    with patch.object(DepthwiseConv2d, "_convolved", nn.Conv2d.forward):
        yield


def advance(run: Run, side: str) -> float:
    """Trains a chunk of steps, and gives the seconds of one."""
    begin = clock(run.device)
    with gradients_of(side):
        for _ in training.train(run, run.examples + CHUNK * run.stream.batch_size):
            pass
    return (clock(run.device) - begin) / CHUNK


def compare(setting: Setting, architecture: Architecture, repeats: int) -> dict[str, Any]:
    """Seconds of a step, by side and precision, in each repeat."""
    setup, recipe = setting.setup, setting.recipe
    pace = LRSchedule(recipe.rate(), 1, None, 1)
    runs: dict[str, Run] = {}
    for precision in PRECISIONS:
        for side in (OURS, THEIRS):
            students = setup.students(architecture, setting.data, recipe.seed)
            run = setup.run(students, horizon=1, lr_schedule=pace, seed=0, precision=precision)
            runs[f"{side} {precision}"] = run
            advance(run, side)
    sides = {
        name: lambda run=run, name=name: advance(run, name.rsplit(" ", 1)[0])
        for name, run in runs.items()
    }
    seconds = common.in_turn(sides, repeats)
    best = {
        side: min(PRECISIONS, key=lambda kind, side=side: quartiles(seconds[f"{side} {kind}"])[1])
        for side in (OURS, THEIRS)
    }
    counts = count_architecture(architecture, setting.data.input, len(setting.data.classes))
    return {
        "architecture": architecture.to_json(),
        "params": counts.params,
        "seconds": seconds,
        "best": best,
        "ratios": {
            kind: common.ratios(seconds[f"{THEIRS} {kind}"], seconds[f"{OURS} {kind}"])
            for kind in PRECISIONS
        },
        "ratio": common.ratios(*(seconds[f"{side} {best[side]}"] for side in (THEIRS, OURS))),
    }


def wide(architecture: Architecture) -> str:
    """Kernels of the depthwise convolutions, stage by stage."""
    blocks = [stage["block"] for stage in architecture.values["stages"]]
    return ", ".join(str(b["kernel"]) if b["type"] != "fused" else "–" for b in blocks)


def describe(students: list[dict[str, Any]], repeats: int) -> str:
    """The figures as Markdown."""
    rows = []
    for each in students:
        architecture, best = Architecture.from_json(each["architecture"]), each["best"]
        steps = [
            f"{1000 * quartiles(each['seconds'][f'{side} {best[side]}'])[1]:.1f} ({best[side]})"
            for side in (THEIRS, OURS)
        ]
        of = [spread(each["ratios"][kind]) for kind in PRECISIONS]
        rows.append([f"{each['params']:,}", wide(architecture), *of, *steps, spread(each["ratio"])])
    head = [
        "parameters",
        "kernels by stage",
        *(f"faster in {kind}" for kind in PRECISIONS),
        "PyTorch's, ms a step",
        "ours, ms a step",
        "faster",
    ]
    middle = quartiles([each["ratio"][1] for each in students])
    return (
        f"{len(students)} students of `mobile`, {repeats} repeats of {CHUNK} steps, "
        f"{common.place('cpu', 1)}. Each side in its fastest precision: {spread(middle)} times as "
        f"fast, median and quartiles over students.\n\n{common.markdown(head, rows)}"
    )


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--students", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = common.open_setting()
    drawn = [
        one
        for one in draw(setting, COUNT)
        if one.family == "mobile" and any(kernel.isdigit() for kernel in wide(one))
    ][: args.students]
    setting.setup.prepare((args.repeats + 1) * CHUNK * setting.recipe.batch_size, 0)
    students = [compare(setting, one, args.repeats) for one in drawn]
    results = {"machine": common.machine("cpu"), "options": vars(args), "figures": students}
    common.write("depthwise", results, describe(students, args.repeats))


if __name__ == "__main__":
    main()
