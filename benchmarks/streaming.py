"""How long training waits for pictures that do not fit. Target on a GPU: at most 10 % of the time.

A folder of JPEG files (256 pixels a side, quality 90, clouds of colour drawn with a fixed seed) is
read as any folder of photographs: students see crops of 224 pixels, decoded in worker processes and
sent ahead. The same run trains by turns on the stream and on the same batches kept on the device;
what it takes longer on the stream is what it waited. Labels alone: whatever teaches is remembered.
Students of `mobile` at several widths: the smaller the student, the harder to stream.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --device cuda

On a CPU decoding takes the cores that training would have: the share tells what that costs, and
there is no target.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    clock,
    in_turn,
    machine,
    markdown,
    name_on,
    place,
    quartiles,
    spread,
    verdict,
    write,
)
from kd_overhead import mobile
from PIL import Image

from nasdistill import training
from nasdistill.common.machine import cores
from nasdistill.data import Batch, Dataset, load_data
from nasdistill.losses import Objective
from nasdistill.models import Classifier, build
from nasdistill.models.counts import count_module
from nasdistill.space import Architecture
from nasdistill.training import BatchStream, LRSchedule, Run

SIDE, BATCH, CLASSES, TARGET = 256, 64, 4, 0.10
STUDENTS = {"narrow": ((16, 1), (32, 1), (48, 1)), "wide": ((32, 2), (64, 3), (128, 3))}


def draw_folder(root: Path, count: int) -> None:
    """Writes JPEG files whose content costs as much to decode as a photograph's."""
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (SIDE, SIDE, 3))
        noisy = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        folder = root / f"class{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(folder / f"{index:05d}.jpg", quality=90)


def start(data: Dataset, widths: tuple[tuple[int, int], ...], steps: int) -> Run:
    """A run on labels alone, in bf16 on a GPU."""
    training.seed_weights(0)
    net = build(Architecture(**mobile(*widths)), data.input, CLASSES)
    device = data.train.labels.device
    return Run(
        [Classifier(net, data.mean, data.std).to(device)],
        BatchStream(data, BATCH, views=4, seed=0),
        Objective.labels(),
        horizon=steps * BATCH,
        lr_schedule=LRSchedule(0.004, BATCH, None, steps * BATCH),
        seed=0,
        precision="bf16-mixed" if device.type == "cuda" else "fp32",
    )


def train(run: Run, batches: Iterator[Batch]) -> float:
    """Trains on the batches, and gives the seconds for one."""
    count, begin = 0, clock(run.device)
    for batch in batches:
        run.train_step(batch)
        count += 1
    return (clock(run.device) - begin) / count


def compare(data: Dataset, run: Run, steps: int, repeats: int) -> dict[str, list[float]]:
    """Both sides in turn; both train, and the stream begins anew each time."""
    run.students.train()
    plan = list(run.stream.plan(0, steps))
    kept = list(data.train.batches(plan[:8], run.size))
    train(run, iter(kept))
    return in_turn(
        {
            "kept": lambda: train(run, (kept[i % len(kept)] for i in range(steps))),
            "stream": lambda: train(run, data.train.batches(plan, run.size)),
        },
        repeats,
    )


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, help="of a repeat (20; on a GPU 300)")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    steps = args.steps or (300 if device.type == "cuda" else 20)
    torch.set_num_threads(cores())
    students: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        draw_folder(Path(root), args.images)
        data = load_data(f"folder:{root}", device=device, image_size=224, resident_limit=0)
        for name, widths in STUDENTS.items():
            run = start(data, widths, steps)
            seconds = compare(data, run, steps, args.repeats)
            waited = [1 - k / s for k, s in zip(seconds["kept"], seconds["stream"], strict=True)]
            params = count_module(run.student, data.input).params
            students[name] = {"params": params, "seconds": seconds, "waited": waited}
    rows = [
        [
            name,
            f"{one['params']:,}",
            spread(quartiles([BATCH / s for s in one["seconds"]["kept"]]), 0),
            spread(quartiles([BATCH / s for s in one["seconds"]["stream"]]), 0),
            spread(quartiles([100 * share for share in one["waited"]]), 0),
        ]
        for name, one in students.items()
    ]
    where = place(args.device, torch.get_num_threads())
    text = (
        f"{args.images:,} files, {steps} steps of {BATCH} at 224 pixels, {args.repeats} repeats, "
        f"{where}.\n\n"
    )
    head = ["student", "parameters", "images/s, kept", "images/s, stream", "waited, %"]
    text += markdown(head, rows)
    if device.type == "cuda":
        most = max(quartiles(one["waited"])[1] for one in students.values())
        text += "\n\n" + verdict("Longest wait", most, TARGET, at_most=True)
    write(
        name_on("streaming", args.device),
        {"machine": machine(args.device), "students": students},
        text,
    )


if __name__ == "__main__":
    main()
