"""Target: trials an hour grow with the workers, and memory does not grow with the trials.

Workers: some fixed architectures of `mobile`, drawn before anything is trained, are each distilled
for `--epochs` by a complete schedule and scored, by 1, 2 and 4 processes that take them from one
queue: on a CPU each with its share of the cores, on a card beside each other on it. Starting the
processes, loading data, filling the cache and a first short training in each are not counted; those
that have no part in a round wait.

Memory: a process of its own runs `nasdistill`'s search over trials of a few steps each (space
`mlp`, drawn at random, so that asking stays cheap), and reads what it holds (RSS; on a card also
what torch has reserved there) after 50, 250 and 500 trials, or as far as `--seconds` allow.

    python benchmarks/scaling.py                     # --architectures 8 --epochs 1 --repeats 3
    python benchmarks/scaling.py --device cuda --data npz:cifar10/train.npz --teacher folder:teacher

Targets: near linear in cores (at least 0.8 a core); at least 1.5 times as many with 4 processes on
a GPU; no growth of memory (at most 5 % between the first and the last mark). Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import common
import sides
import torch
from common import Setting, quartiles, spread

from nasdistill.common.events import Event
from nasdistill.common.machine import cores
from nasdistill.models.counts import count_architecture, count_module
from nasdistill.space import Architecture, SearchSpace
from nasdistill.training import LRSchedule

DRAW_SEED, WORKERS, MARKS = 2028, (1, 2, 4), (50, 250, 500)
ON_A_CARD, NO_GROWTH = 1.5, 1.05
SPAWN = multiprocessing.get_context("spawn")


def opened(args: argparse.Namespace) -> Setting:
    """The job, with its answers in the benchmarks' own cache."""
    return common.open_setting(device=args.device, spec=args.data, teacher=args.teacher)


def draw(setting: Setting, count: int) -> list[str]:
    """Architectures within the shipped limit, as JSON."""
    limit = count_module(setting.teacher.module, setting.teacher.input).params // 10
    space, rng = SearchSpace.load("mobile"), random.Random(DRAW_SEED)
    texts: list[str] = []
    while len(texts) < count:
        architecture = space.random(rng)
        counts = count_architecture(architecture, setting.data.input, len(setting.data.classes))
        if counts.params <= limit:
            texts.append(architecture.to_json())
    return texts


def work(args: argparse.Namespace, orders: Queue[Any], todo: Queue[Any], done: Queue[Any]) -> None:
    """A process: at each order takes architectures until the queue gives None."""
    setting = opened(args)
    lr_schedule = sides.pace_for(setting, args.epochs)
    setting.setup.prepare(lr_schedule.end, 0)
    text = draw(setting, 1)[0]
    precision = sides.probe_ours(setting, Architecture.from_json(text))
    train(setting, text, sides.pace_for(setting, min(0.05, args.epochs)), precision)
    done.put(None)
    while True:
        torch.set_num_threads(max(1, args.threads // orders.get()))
        while (text := todo.get()) is not None:
            done.put(train(setting, text, lr_schedule, precision))


def train(setting: Setting, text: str, lr_schedule: LRSchedule, precision: Any) -> float:
    """One trial; gives its score."""
    student, steps = sides.start_ours(setting, Architecture.from_json(text), lr_schedule, precision)
    for _ in steps:
        pass
    return sides.score_ours(setting, student)


class WorkerPool:
    """Processes that wait for work, so that starting them is not counted.

    Args:
        args: Options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._todo, self._done = SPAWN.Queue(), SPAWN.Queue()
        self._orders = [SPAWN.Queue() for _ in range(WORKERS[-1])]
        self._processes = [
            SPAWN.Process(target=work, args=(args, orders, self._todo, self._done), daemon=True)
            for orders in self._orders
        ]
        for process in self._processes:
            process.start()
        for _ in self._processes:
            self._done.get(timeout=300)

    def trials_an_hour(self, drawn: list[str], workers: int) -> float:
        """With some of the processes at once, the others waiting."""
        begin = time.perf_counter()
        for orders in self._orders[:workers]:
            orders.put(workers)
        for text in [*drawn, *[None] * workers]:
            self._todo.put(text)
        for _ in drawn:
            self._done.get(timeout=900)
        return 3600 * len(drawn) / (time.perf_counter() - begin)

    def end(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.terminate()
            process.join()


def search(args: argparse.Namespace, marks: Queue[Any]) -> None:
    """A process: runs a search in a folder of its own, and tells what it holds at each mark."""
    from nasdistill import api

    held_by_trials: dict[int, tuple[float, float]] = {}

    def look(event: Event) -> None:
        if event.kind == "trial":
            held_by_trials[len(held_by_trials) + 1] = held(args.device)

    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            api.search(
                space="mlp",
                trials=args.trials,
                sampler="random",
                minimize="params,macs",
                max_params="10M",
                rungs={"first": "640 images", "eta": 2, "count": 1},
                views=1,
                final_budget="640 images",
                top_k=1,
                time_limit=f"{args.seconds:.0f}s",
                device=args.device,
                on_event=look,
            )
            os.chdir("/")
    finally:
        marks.put(
            {n: mark for n, mark in held_by_trials.items() if n in (*MARKS, len(held_by_trials))}
        )


def held(device: str) -> tuple[float, float]:
    """MB that this process holds in memory, and that torch has reserved on the card."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    reserved = torch.cuda.memory_reserved() if device.startswith("cuda") else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, reserved / 1e6


def memory(args: argparse.Namespace) -> dict[int, tuple[float, float]]:
    """MB by the number of trials."""
    marks = SPAWN.Queue()
    process = SPAWN.Process(target=search, args=(args, marks), daemon=True)
    process.start()
    held_by_trials: dict[int, tuple[float, float]] = marks.get(timeout=args.seconds + 300)
    process.join()
    return held_by_trials


def describe(figures: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as Markdown."""
    by_workers = figures["trials_an_hour"]
    rows = [
        [n, spread(quartiles(rates), 0), spread(common.ratios(rates, by_workers[WORKERS[0]]))]
        for n, rates in by_workers.items()
    ]
    gains = {n: common.ratios(r, by_workers[WORKERS[0]])[1] for n, r in by_workers.items()}
    lines = [
        f"{args.architectures} students of `mobile`, {args.epochs:g} epochs of {args.data}, "
        f"{common.place(args.device, args.threads)}; {args.repeats} repeats.",
        common.markdown(["processes", "trials an hour", "times one process"], rows),
    ]
    if args.device.startswith("cuda"):
        lines.append(common.verdict("4 processes on one card", gains[4], ON_A_CARD, unit="×"))
    else:
        most = max(n for n in WORKERS if n <= max(1, args.threads))
        lines.append(
            common.verdict(f"{most} processes on {most} cores", gains[most], 0.8 * most, unit="×")
        )
    rows = [[n, f"{rss:,.0f}", f"{card:,.0f}"] for n, (rss, card) in figures["memory"].items()]
    lines.append(common.markdown(["trials", "RSS, MB", "reserved on the card, MB"], rows))
    marks = sorted(figures["memory"])
    if len(marks) > 1:
        first, last = (figures["memory"][mark][0] for mark in (marks[0], marks[-1]))
        what = f"RSS after {marks[-1]} trials ÷ after {marks[0]}"
        lines.append(common.verdict(what, last / first, NO_GROWTH, at_most=True))
    return "\n\n".join(lines)


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data", default="fashion-mnist-mini")
    parser.add_argument("--teacher", default="shipped")
    parser.add_argument("--architectures", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=500, help="of the search for memory")
    parser.add_argument("--seconds", type=float, default=900.0, help="that search's, at most")
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    setting = opened(args)
    drawn = draw(setting, args.architectures)
    setting.setup.prepare(sides.pace_for(setting, args.epochs).end, 0)
    del setting
    rates: dict[int, list[float]] = {n: [] for n in WORKERS}
    pool = WorkerPool(args)
    for repeat in range(args.repeats):
        for n in WORKERS if repeat % 2 == 0 else WORKERS[::-1]:
            rates[n].append(pool.trials_an_hour(drawn, n))
            print(f"{n} processes: {rates[n][-1]:,.0f} trials an hour", flush=True)
    pool.end()
    figures = {"trials_an_hour": rates, "memory": memory(args)}
    results = {"machine": common.machine(args.device), "options": vars(args), **figures}
    common.write(common.name_on("scaling", args.device), results, describe(figures, args))


if __name__ == "__main__":
    main()
