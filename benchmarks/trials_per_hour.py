"""Students tried an hour, against the loop most people write. Target: 8 times as many.

And 3 times as many as the same loop tuned. Conditions: shipped data, teacher and recipe; 24
architectures, 12 of `mobile` and 12 of `resnet`, drawn uniformly with a fixed seed among those with
at most a tenth of the teacher's parameters, before anything is trained. A trial builds a student,
distils it for `--epochs` with a complete schedule (warm-up, hold, cool-down) and scores it on the
score half. All sides have the same cores:

- `ours`: the engine as a search uses it: cached answers, precision probed once per kind of student,
  and as many workers as a search has on this machine (one of one thread for each core of a CPU);
- `common`: a DataLoader with two workers, PIL images, torchvision transforms, PyTorch's gradients
  of depthwise convolutions, the teacher's forward pass in every step, fp32;
- `tuned`: the same with channels_last, fused AdamW, workers that live on, TF32 on CUDA, and bf16
  for teacher and student, for the teacher alone or for none, whichever is fastest for the kind
  (found out before, not counted).

Each repeat is a study of its own. Ours begins with an empty cache: filling it, probing and starting
workers count. It trains every student in full in every repeat, and is timed as a whole, by the
clock on the wall. The two loops take turns, architecture by architecture; ours comes before them
in one repeat and after them in the next. The loops train in full in the first repeat, which gives
the accuracies, and for `--short` of it in the others, where the steps after the first are scaled up
to the full length. Starting a loop's workers, its first step and scoring are not scaled.

    python benchmarks/trials_per_hour.py                          # goes on where it stopped
    python benchmarks/trials_per_hour.py --device cuda
    python benchmarks/trials_per_hour.py --epochs 2 --repeats 3 --threads 1

Each measurement is a line of `benchmarks/trials_per_hour.jsonl`; only lines of the same options
count. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import sides
import torch
from common import Setting, quartiles, spread
from sides import CommonLoop, trial

from nasdistill.common.machine import cores, default_workers
from nasdistill.models.counts import count_architecture, count_module
from nasdistill.space import Architecture, SearchSpace
from nasdistill.training import Precision
from nasdistill.trials.autotune import kind_of

SPACES, COUNT, DRAW_SEED = ("mobile", "resnet"), 24, 2027
TARGETS = {"common": 8.0, "tuned": 3.0}
LOOPS = tuple(TARGETS)
Line = dict[str, Any]
Key = tuple[int, str, int | None]


def draw(setting: Setting, count: int) -> list[Architecture]:
    """Draws architectures of both spaces, in turn, within the shipped limit."""
    teacher = setting.teacher
    limit = count_module(teacher.module, teacher.input).params // 10
    drawn: list[list[Architecture]] = []
    for name in SPACES:
        space, rng = SearchSpace.load(name), random.Random(DRAW_SEED)
        in_space: list[Architecture] = []
        while len(in_space) < COUNT // len(SPACES):
            architecture = space.random(rng)
            if parameters(setting, architecture) <= limit:
                in_space.append(architecture)
        drawn.append(in_space)
    return [architecture for pair in zip(*drawn, strict=True) for architecture in pair][:count]


def parameters(setting: Setting, architecture: Architecture) -> int:
    """Of the student."""
    return count_architecture(architecture, setting.data.input, len(setting.data.classes)).params


class Table:
    """What was measured under some options, in a file that may hold more.

    Args:
        path: JSON lines.
        options: What the lines must have in common.
    """

    def __init__(self, path: Path, options: Line) -> None:
        self._path, self._options = path, options
        written = path.read_text().splitlines() if path.exists() else []
        lines = [json.loads(text) for text in written]
        self._lines = {key_of(line): line for line in lines if line["options"] == options}

    def __contains__(self, key: Key) -> bool:
        """Whether this was measured."""
        return key in self._lines

    def __getitem__(self, key: Key) -> Line:
        """The line of a measurement."""
        return self._lines[key]

    def add(self, **line: Any) -> None:
        """Writes one down."""
        self._lines[key_of(line)] = line
        with self._path.open("a") as file:
            file.write(json.dumps(line | {"options": self._options}) + "\n")
        print(line, flush=True)


def key_of(line: Line) -> Key:
    """Repeat, side, and number of the architecture; None for what is of all."""
    return line["repeat"], line["side"], line.get("architecture")


def measure(table: Table, args: argparse.Namespace, repeat: int) -> None:
    """Does what is left of one repeat."""
    with tempfile.TemporaryDirectory() as cache:
        setting = common.open_setting(device=args.device, cache=Path(cache))
        drawn = draw(setting, args.architectures)
        for ours in (True, False) if repeat % 2 == 0 else (False, True):
            if ours:
                measure_ours(table, args, repeat, setting, drawn, Path(cache))
            else:
                measure_loops(table, args, repeat, setting, drawn)


def measure_ours(
    table: Table,
    args: argparse.Namespace,
    repeat: int,
    setting: Setting,
    drawn: Sequence[Architecture],
    cache: Path,
) -> None:
    """All students, by as many workers as a search has."""
    if (repeat, "ours", None) in table:
        return
    pace = sides.pace_for(setting, args.epochs)
    begin = common.clock(setting.device)
    setting.setup.prepare(pace.end, 0)
    filled = common.clock(setting.device)
    threads = max(1, args.threads // args.workers)
    torch.set_num_threads(threads)
    precisions = {
        kind: sides.probe_ours(setting, one) for kind, one in by_kind(setting, drawn).items()
    }
    torch.set_num_threads(args.threads)
    probed = common.clock(setting.device)
    tasks = [
        (one.to_json(), args.epochs, precisions[kind_of([sides.build(setting, one)])])
        for one in drawn
    ]
    if args.workers == 1:
        trials = [try_ours(setting, *task) for task in tasks]
    else:
        arguments = (args.device, cache, threads)
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(args.workers, start_worker, arguments) as pool:
            trials = pool.map(try_in_worker, tasks, chunksize=1)
    table.add(
        repeat=repeat,
        side="ours",
        seconds=common.clock(setting.device) - begin,
        fill=filled - begin,
        probe=probed - filled,
        precisions=precisions,
        trials=trials,
        examples=pace.end,
    )


_opened: list[Setting] = []


def start_worker(device: str, cache: Path, threads: int) -> None:
    """Opens the job in a process of its own; the answers are in the cache."""
    torch.set_num_threads(threads)
    _opened.append(common.open_setting(device=device, cache=cache))


def try_in_worker(task: tuple[str, float, Precision]) -> Line:
    """One trial of ours, in such a process."""
    return try_ours(_opened[0], *task)


def try_ours(setting: Setting, text: str, epochs: float, precision: Precision) -> Line:
    """One trial of ours."""
    architecture, pace = Architecture.from_json(text), sides.pace_for(setting, epochs)
    return trial(
        setting.device,
        lambda: sides.start_ours(setting, architecture, pace, precision),
        lambda student: sides.score_ours(setting, student),
    )


def measure_loops(
    table: Table,
    args: argparse.Namespace,
    repeat: int,
    setting: Setting,
    drawn: Sequence[Architecture],
) -> None:
    """The two loops, architecture by architecture."""
    if all((repeat, side, n) in table for n in range(len(drawn)) for side in LOOPS):
        return
    loops = {side: CommonLoop(setting, tuned=side == "tuned") for side in LOOPS}
    if (0, "tuned", None) not in table:
        with sides.tf32(True):
            precisions = {
                kind: loops["tuned"].probe(x) for kind, x in by_kind(setting, drawn).items()
            }
        table.add(repeat=0, side="tuned", precisions=precisions)
    fastest = table[0, "tuned", None]["precisions"]
    whole, batch = sides.pace_for(setting, args.epochs), setting.recipe.batch_size
    pace = whole if repeat == 0 else sides.pace_for(setting, args.epochs * args.short)
    for number, architecture in enumerate(drawn):
        precision = fastest[kind_of([sides.build(setting, architecture)])]
        for side in LOOPS if (repeat + number) % 2 == 0 else LOOPS[::-1]:
            if (repeat, side, number) in table:
                continue
            loop = loops[side]
            with sides.tf32(loop.tuned):
                outcome = trial(
                    setting.device,
                    lambda loop=loop, one=architecture, how=precision: loop.start(
                        one, pace, how if loop.tuned else "fp32"
                    ),
                    loop.score,
                )
            scale = (whole.end - batch) / (pace.end - batch)
            table.add(repeat=repeat, side=side, architecture=number, scale=scale, **outcome)


def by_kind(setting: Setting, drawn: Sequence[Architecture]) -> dict[str, Architecture]:
    """The first architecture of each kind, on which its precision is probed."""
    return {kind_of([sides.build(setting, one)]): one for one in reversed(drawn)}


def seconds(line: Line) -> float:
    """Of a loop's trial, its steps scaled up where it was short."""
    return float(line["start"] + line["steps"] * line["scale"] + line["score"])


def figures(table: Table, trials: int, repeats: int) -> dict[str, Any]:
    """What the lines say, side by side."""
    ours = [table[r, "ours", None] for r in range(repeats)]
    took = {"ours": [line["seconds"] / trials for line in ours]}
    right = {"ours": [trial["accuracy"] for trial in ours[0]["trials"]]}
    for side in LOOPS:
        lines = [[table[r, side, n] for n in range(trials)] for r in range(repeats)]
        took[side] = [statistics.fmean(map(seconds, each)) for each in lines]
        right[side] = [line["accuracy"] for line in lines[0]]
    by_side: dict[str, Any] = {}
    for side, each in took.items():
        apart = [b - a for a, b in zip(right["ours"], right[side], strict=True)]
        by_side[side] = {
            "per_hour": quartiles([3600 / x for x in each]),
            "seconds": quartiles(each),
            "ratio": common.ratios(each, took["ours"]),
            "accuracy": statistics.fmean(right[side]),
            "difference": statistics.fmean(apart),
            "error": statistics.stdev(apart) / trials**0.5,
        }
    by_side["set-up"] = {
        key: quartiles([line[key] for line in ours]) for key in ("seconds", "fill", "probe")
    }
    by_side["precisions"] = {
        "ours": ours[0]["precisions"],
        "tuned": table[0, "tuned", None]["precisions"],
    }
    return by_side


def describe(by_side: dict[str, Any], args: argparse.Namespace, examples: int) -> str:
    """The figures as Markdown."""
    rows = []
    for side in ("ours", *LOOPS):
        mine = by_side[side]
        compared = ["–", f"{mine['accuracy']:.4f}", "–"]
        if side != "ours":
            apart = f"{mine['difference']:+.4f} ± {mine['error']:.4f}"
            compared = [spread(mine["ratio"]), f"{mine['accuracy']:.4f}", apart]
        rows.append([side, spread(mine["per_hour"], 0), spread(mine["seconds"]), *compared])
    head = [
        "side",
        "trials an hour",
        "seconds a trial",
        "ours is faster by",
        "score accuracy",
        "difference from ours ± s.e.",
    ]
    fill, probe = (by_side["set-up"][key][1] for key in ("fill", "probe"))
    short = f"; the loops in full once, then {args.short:.0%} of the steps and scaled up"
    lines = [
        f"{args.architectures} students, {examples:,} examples each, "
        f"{common.place(args.device, args.threads)}, ours with {args.workers} workers; "
        f"{args.repeats} repeats{short if args.repeats > 1 else ''}. Of ours, filling the cache "
        f"took {fill:.1f} s of each repeat and probing precisions {probe:.1f} s.",
        common.markdown(head, rows),
    ]
    for side, target in TARGETS.items():
        mine = by_side[side]
        agree = "agree" if abs(mine["difference"]) <= 2 * mine["error"] else "do not agree"
        lines.append(
            common.verdict(f"Against `{side}`", mine["ratio"][1], target, unit="×")
            + f" Mean accuracies {agree} within two standard errors."
        )
    return "\n\n".join(lines)


def main() -> None:
    """Measures what is left, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short", type=float, default=0.2, help="share of steps after repeat 1")
    parser.add_argument("--architectures", type=int, default=COUNT, help="2 at the least")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--workers", type=int, help="of ours (default: as a search has)")
    args = parser.parse_args()
    if args.workers is None:
        args.workers = min(default_workers(torch.device(args.device)), args.threads)
    torch.set_num_threads(args.threads)
    options = {k: v for k, v in vars(args).items() if k != "repeats"}
    options["place"] = common.place(args.device, args.threads)
    table = Table(common.HERE / "trials_per_hour.jsonl", options)
    for repeat in range(args.repeats):
        measure(table, args, repeat)
    by_side = figures(table, args.architectures, args.repeats)
    results = {"machine": common.machine(args.device), "options": vars(args), "figures": by_side}
    text = describe(by_side, args, table[0, "ours", None]["examples"])
    common.write(common.name_on("trials_per_hour", args.device), results, text)


if __name__ == "__main__":
    main()
