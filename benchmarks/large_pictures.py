"""Photographs on a CPU: by batch, by layout in memory, and by what becomes of freed memory.

A teacher (timm's EfficientNet-Lite0) is run forward, and a student of the space `mobile` trained,
at 128 pixels, on one thread. Processes that give freed memory back to the system, as glibc does,
and such as keep it (`common.machine.keep_freed_memory`) run in turn. Counted is each process's own
time, so that it hardly matters what else the machine does.

    python benchmarks/large_pictures.py

No target: it says what the probe of `models.inference` has to choose from.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import machine, markdown, place, write
from torch import Tensor, nn

from nasdistill.common import formats
from nasdistill.common.machine import keep_freed_memory
from nasdistill.common.types import Input
from nasdistill.models import Classifier, build
from nasdistill.models.counts import count_architecture
from nasdistill.models.inference import has_channels_last
from nasdistill.space import SearchSpace
from nasdistill.training.precision import Precision, autocast, set_precision

SIDE, CLASSES, REPEATS = 128, 10, 1
BATCHES, STEP = (16, 32, 64, 128, 500), 64
DRAWS, MOST_PARAMETERS = 20, 340_000
"""Students that are drawn; of those within the limit the one of most multiply-adds is taken."""
CPU = torch.device("cpu")


def teacher() -> nn.Module:
    """The network that photographs' teacher was tuned from, its weights drawn anew."""
    import timm

    net = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES)
    return Classifier(net, (0.5,) * 3, (0.5,) * 3).eval()


def student() -> nn.Module:
    """A large student of `mobile` within the limit."""
    shape, rng = Input(3, SIDE, SIDE), random.Random(0)
    space = SearchSpace.load("mobile")
    drawn = [space.random(rng) for _ in range(DRAWS)]
    counted = [(count_architecture(each, shape, CLASSES), each) for each in drawn]
    _, chosen = max(
        ((c.macs, a) for c, a in counted if c.params <= MOST_PARAMETERS), key=lambda pair: pair[0]
    )
    return Classifier(build(chosen, shape, CLASSES), (0.5,) * 3, (0.5,) * 3)


def forward(module: nn.Module, images: Tensor, precision: Precision) -> None:
    """One pass."""
    with torch.inference_mode(), autocast(CPU, precision):
        module(images)


def step(module: nn.Module, images: Tensor, precision: Precision) -> None:
    """Forward and backward; the optimiser's part is small."""
    with autocast(CPU, precision):
        loss = module(images).float().logsumexp(dim=1).sum()
    loss.backward()


def timed(run: Callable[[], None], images: int) -> tuple[float, int]:
    """Images a second of the second pass of two, and the process's highest memory in MB."""
    run()
    start = time.process_time()
    run()
    rate = images / (time.process_time() - start)
    return rate, peak()


def peak() -> int:
    """The most memory that this process had since `forget_peak`, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def forget_peak() -> None:
    """Begins to count anew."""
    Path("/proc/self/clear_refs").write_text("5")


def side(kept: bool) -> list[dict[str, Any]]:
    """All figures of one process; a small batch before a large one, since memory may be kept."""
    torch.set_num_threads(1)
    if kept and not keep_freed_memory():
        raise SystemExit("this needs glibc")
    rows = []
    for name, module, run, precisions in (
        ("student", student(), step, ("fp32", "bf16", "bf16-mixed")),
        ("teacher", teacher(), forward, ("fp32", "bf16")),
    ):
        for batch in BATCHES if name == "teacher" else (STEP,):
            images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)
            for layout in (torch.contiguous_format, torch.channels_last):
                module.to(memory_format=layout)
                for precision in precisions:
                    set_precision(module, precision)
                    module.train(name == "student")
                    forget_peak()
                    rate, most = timed(partial(run, module, images, precision), batch)
                    row = {"model": name, "batch": batch, "precision": precision}
                    last = has_channels_last(module)
                    rows.append({**row, "channels_last": last, "rate": rate, "mb": most})
    return rows


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("kept", "back"))
    chosen = parser.parse_args().side
    if chosen:
        json.dump(side(chosen == "kept"), sys.stdout)
        return
    rows_by_side: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for _ in range(REPEATS):
        for name in ("back", "kept"):
            command = [sys.executable, __file__, "--side", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for row in json.loads(output):
                last = "last" if row["channels_last"] else "first"
                key = f"{row['model']}, {row['precision']}, {row['batch']}, channels {last}"
                rows_by_side.setdefault(key, {}).setdefault(name, []).append(row)
    rows = []
    for key, sides in rows_by_side.items():
        rates = {name: statistics.median(r["rate"] for r in sides[name]) for name in sides}
        most = {name: max(r["mb"] for r in sides[name]) for name in sides}
        cells = [f"{rates[name]:,.0f} ({most[name]:,} MB)" for name in ("back", "kept")]
        rows.append([*key.split(", "), *cells, f"{rates['kept'] / rates['back']:.2f}"])
    head = ["model", "precision", "batch", "layout", "given back", "kept", "times as many"]
    text = "Images in a second of the process's own time, and its peak of memory so far, "
    text += f"{formats.counted(REPEATS, 'repeat')}, {place('cpu', 1)}.\n\n"
    write(
        "large_pictures", {"machine": machine(), "found": rows_by_side}, text + markdown(head, rows)
    )


if __name__ == "__main__":
    main()
