"""Threads that spin while they wait for each other, or give the core up, beside other work.

Steps of training in processes of their own: one thread, or two with several values of
GOMP_SPINCOUNT, of which 1,000 is the command's, 0 what OMP_WAIT_POLICY=PASSIVE means by itself, and
300,000 GNU OpenMP's default. All in turn, with nothing beside them and with as many endless loops
as cores.

    python benchmarks/waiting_threads.py        # --nets mobilenet_v3_small:96 resnet18:128
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import common
import torch
import torchvision
from common import ROOT, clock, in_turn

WAYS = {
    "one thread": (1, "0"),
    "two, spinning (300,000)": (2, "300000"),
    "10,000": (2, "10000"),
    "1,000": (2, "1000"),
    "two, passive (0)": (2, "0"),
}
BATCH = 32
LOOP = "while True: pass"


def step(net: str, side: int, threads: int, seconds: float) -> float:
    """Milliseconds of a step, the median over some seconds and at least three."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = getattr(torchvision.models, net)(num_classes=10)
    images, labels = torch.randn(BATCH, 3, side, side), torch.randint(0, 10, (BATCH,))
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    times, device = list[float](), torch.device("cpu")
    while len(times) < 4 or sum(times) < seconds:
        begin = clock(device)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
        times.append(clock(device) - begin)
    return 1000 * statistics.median(times[1:])


def in_a_process(net: str, way: str, seconds: float) -> float:
    """The same in a process of its own: OpenMP reads its settings once."""
    threads, spins = WAYS[way]
    command = [sys.executable, __file__, "--step", net, str(threads), str(seconds)]
    done = subprocess.run(
        command, env={**os.environ, "GOMP_SPINCOUNT": spins}, stdout=subprocess.PIPE, check=True
    )
    return float(done.stdout)


@contextmanager
def endless_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing but keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def describe(measured: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    rows = [
        [one["net"], one["loops"], *[f"{statistics.median(of):,.0f}" for of in one["ms"].values()]]
        for one in measured
    ]
    text = f"Milliseconds of a step of {BATCH} pictures, medians, {common.place('cpu', 2)}."
    return "\n\n".join([text, common.markdown(["net, pixels", "loops beside it", *WAYS], rows)])


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["mobilenet_v3_small:96", "resnet18:128"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        net, threads, seconds = options.step
        name, side = net.split(":")
        print(step(name, int(side), int(threads), float(seconds)))
        return
    measured = []
    for loops in (0, os.cpu_count() or 1):
        for net in options.nets:
            sides = {way: partial(in_a_process, net, way, options.seconds) for way in WAYS}
            with endless_loops(loops):
                times = in_turn(sides, options.repeats)
            measured.append({"net": net.replace(":", ", "), "loops": loops, "ms": times})
    results = {"machine": common.machine(), "options": vars(options), "measured": measured}
    common.write("waiting_threads", results, describe(measured), ROOT / "docs" / "time.md")


if __name__ == "__main__":
    main()
