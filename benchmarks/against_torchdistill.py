"""A final by nasdistill and by torchdistill. Target: 6 times as fast, its cache off or on.

Conditions: the student of `benchmarks/methods.py`, shipped data and teacher, batches of 64, the
epochs, rate schedule, AdamW and loss (labels and KL) of a shipped final, two loading workers for
torchdistill. The sides take turns, each measurement in a process of its own, each repeat with
another seed. Counted is all from a student and loaded data to the last step: for nasdistill filling
its empty cache and probing the precision, for torchdistill making its box and writing its cache.
Not counted: imports, reading data and teacher, and the test.

- `nasdistill`: as it does a final;
- `torchdistill, cache off`: the release that is installed, with PIL images, torchvision's
  transforms and the teacher's forward pass in every step, in fp32;
- `torchdistill, cache on`: `cache_output`, which the first epoch fills. Release 1.1.5 has no cache
  any more; the last that has one, 1.1.4, is taken from `--older FOLDER`, where it was put by

      pip install --no-deps --target build/torchdistill-1.1.4 torchdistill==1.1.4

  Its cache knows examples by their index, so that later epochs get the answer to the first epoch's
  crop and flip, whatever they show; crops and flips stay on, as torchdistill lets them. It breaks
  on a batch of which only a part was cached; hence both torchdistill sides keep the last, smaller
  batch of an epoch, which nasdistill leaves out.

    python benchmarks/against_torchdistill.py --older build/torchdistill-1.1.4
    python benchmarks/against_torchdistill.py --older build/torchdistill-1.1.4 --device cuda
    python benchmarks/against_torchdistill.py                # without the cached side

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import sides
import torch
from common import Setting, clock, quartiles, spread
from methods import STUDENT
from torch.utils.data import RandomSampler

from nasdistill import training
from nasdistill.common.machine import cores
from nasdistill.models import Classifier
from nasdistill.space import Architecture
from nasdistill.training import LRSchedule, predict
from nasdistill.training.metrics import accuracy

OURS, OFF, ON = "nasdistill", "torchdistill, cache off", "torchdistill, cache on"
TARGET = 6.0
ARCHITECTURE = Architecture.from_json(json.dumps(STUDENT))
Found = dict[str, Any]


def measure(side: str, seed: int, args: argparse.Namespace) -> Found:
    """One run of one side, in this process; the seed is of weights, order and views.

    Returns:
        Seconds before the first epoch and of each epoch, test accuracy, and torchdistill's version.
    """
    # A spawned process would spawn its loaders' workers as well, seconds each; a script forks them.
    multiprocessing.set_start_method("fork", force=True)
    if side == ON:
        sys.path.insert(0, args.older)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as cache:
        setting = common.open_setting(seed, device=args.device, cache=Path(cache) / "ours")
        if side == OURS:
            student, times = ours(setting, args.epochs)
        else:
            folder = Path(cache) / "theirs" if side == ON else None
            student, times = theirs(setting, args.epochs, folder)
    spent = [b - a for a, b in zip(times, times[1:], strict=False)]
    return {
        "set_up": spent[0],
        "epochs": spent[1:],
        "seconds": times[-1] - times[0],
        "accuracy": accuracy(*predict(student, setting.data.test, setting.data.input.size)),
        "version": version("torchdistill"),
    }


def pace_of_final(setting: Setting, epoch: int, epochs: int) -> LRSchedule:
    """Up over the first epoch, down from there to the end; an epoch in examples."""
    return LRSchedule(setting.recipe.rate(), epoch, epoch, epoch * epochs)


def ours(setting: Setting, epochs: int) -> tuple[Classifier, list[float]]:
    """The engine as it does a final; gives the clock before and after the set-up and each epoch."""
    times = [clock(setting.device)]
    stream, seed = setting.setup.stream, setting.recipe.seed
    lr_schedule = pace_of_final(setting, stream.examples_per_epoch, epochs)
    setting.setup.prepare(lr_schedule.end, 0)
    precision = sides.probe_ours(setting, ARCHITECTURE)
    student = sides.build(setting, ARCHITECTURE)
    run = setting.setup.run(
        [student], horizon=lr_schedule.end, lr_schedule=lr_schedule, seed=seed, precision=precision
    )
    times.append(clock(setting.device))
    for _ in training.train(run, lr_schedule.end, every=stream.steps_per_epoch):
        times.append(clock(setting.device))
    return student, times


def theirs(setting: Setting, epochs: int, cache: Path | None) -> tuple[Classifier, list[float]]:
    """torchdistill, as its examples for image classification use it; gives the same."""
    from torchdistill.core.distillation import get_distillation_box

    teacher = sides.bare_teacher(setting)
    pictures = {"train": sides.Pictures(setting.data.train, sides.augmented(setting.data))}
    device = setting.device
    times = [clock(device)]
    student = sides.build(setting, ARCHITECTURE).to(device)
    box = get_distillation_box(
        teacher, student.net, pictures, config_for(setting, epochs, cache), device, None, False, 1
    )
    times.append(clock(device))
    for epoch in range(epochs):
        box.pre_epoch_process(epoch=epoch)
        for images, labels, more in box.train_data_loader:
            images, labels = images.to(device), labels.to(device)
            box.pre_forward_process()
            loss = box.forward_process(images, labels, more)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
        times.append(clock(device))
    return student, times


def config_for(setting: Setting, epochs: int, cache: Path | None) -> dict[str, Any]:
    """torchdistill's configuration of the same job."""
    batch, examples = setting.recipe.batch_size, len(setting.data.train)
    lr_schedule = pace_of_final(setting, math.ceil(examples / batch) * batch, epochs)
    alpha, temperature = sides.weights_of_loss(setting)
    logits = {
        f"{who}_module_{what}": value
        for who in ("student", "teacher")
        for what, value in (("path", "."), ("io", "output"))
    }
    loss = {"key": "KDLoss", "kwargs": {**logits, "temperature": temperature, "alpha": alpha}}
    loading = {
        "batch_size": batch,
        "num_workers": sides.WORKERS,
        "pin_memory": setting.device.type == "cuda",
    }
    return {
        "num_epochs": epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": loading,
            **({} if cache is None else {"cache_output": str(cache)}),
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": lr_schedule.peak, "weight_decay": 0.01}},
        "scheduler": {
            "key": "LambdaLR",
            "kwargs": {"lr_lambda": lambda step: lr_schedule(step * batch) / lr_schedule.peak},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
    }


def alone(side: str, seed: int, args: argparse.Namespace) -> Found:
    """`measure` in a fresh process, for each side may bring a torchdistill of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, side, seed, args).result()


def figures(runs: dict[str, list[Found]]) -> dict[str, Any]:
    """What the runs say, side by side."""
    by_side = {}
    for side, mine in runs.items():
        scores = [run["accuracy"] for run in mine]
        seconds, later = ([f(run) for run in mine] for f in (_seconds, _later))
        by_side[side] = {
            "version": mine[0]["version"],
            "seconds": quartiles(seconds),
            "set_up": quartiles([run["set_up"] for run in mine]),
            "later": quartiles(later),
            "ratio": common.ratios(seconds, [_seconds(run) for run in runs[OURS]]),
            "ratio_later": common.ratios(later, [_later(run) for run in runs[OURS]]),
            "accuracy": statistics.fmean(scores),
            "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        }
    return by_side


def _seconds(run: Found) -> float:
    return float(run["seconds"])


def _later(run: Found) -> float:
    """Of an epoch after the first."""
    return statistics.median(run["epochs"][1:])


def describe(by_side: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as Markdown."""
    rows = []
    for side, mine in by_side.items():
        rival = side != OURS
        rows.append(
            [
                f"{side} ({mine['version']})" if rival else side,
                spread(mine["seconds"], 1),
                spread(mine["ratio"]) if rival else "–",
                spread(mine["later"]),
                spread(mine["ratio_later"]) if rival else "–",
                f"{mine['accuracy']:.4f} ± {mine['deviation']:.4f}",
            ]
        )
    head = [
        "side",
        "seconds in all",
        "ours is faster by",
        "seconds of an epoch after the first",
        "ours is faster by",
        "test accuracy, mean ± s.d.",
    ]
    lines = [
        f"{args.epochs} epochs, {common.place(args.device, args.threads)}; {args.repeats} "
        f"repeats. {by_side[OURS]['set_up'][1]:.1f} of our seconds went into asking the teacher "
        "and probing the precision; later students of the same teacher find the answers there.",
        common.markdown(head, rows),
    ]
    for side in (s for s in by_side if s != OURS):
        lines.append(common.verdict(f"Against {side}", by_side[side]["ratio"][1], TARGET, unit="×"))
    if ON not in by_side:
        lines.append("The cached side was not run: it needs torchdistill 1.1.4.")
    return "\n\n".join(lines)


def main() -> None:
    """Lets the sides take turns, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="2 at the least")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--older", help="folder with torchdistill 1.1.4, for its cache")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    runs: dict[str, list[Found]] = {
        side: [] for side in (OURS, OFF, ON) if side != ON or args.older
    }
    for turn in range(args.repeats):
        for side in runs if turn % 2 == 0 else reversed(runs):
            runs[side].append(alone(side, turn, args))
            print(f"{turn + 1}/{args.repeats} {side}: {runs[side][-1]}", flush=True)
    by_side = figures(runs)
    results = {
        "machine": common.machine(args.device),
        "options": vars(args),
        "figures": by_side,
        "runs": runs,
    }
    name = common.name_on("against_torchdistill", args.device)
    common.write(name, results, describe(by_side, args))


if __name__ == "__main__":
    main()
