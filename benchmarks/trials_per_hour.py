"""Students tried an hour, against the loop most people write. Target: 8 times as many.

And 3 times as many as the same loop tuned. Conditions: shipped data, teacher and recipe; 24
architectures, 12 of `mobile` and 12 of `resnet`, drawn uniformly with a fixed seed among those with
at most a tenth of the teacher's parameters, before anything is trained. A trial builds a student,
distils it for `--epochs` with a complete schedule (warm-up, hold, cool-down) and scores it on the
score half. Three sides take turns, architecture by architecture:

- `ours`: the engine as a trial uses it: cached answers, precision probed once per kind of student;
- `common`: a DataLoader with two workers, PIL images, torchvision transforms, the teacher's forward
  pass in every step, fp32;
- `tuned`: the same with channels_last, fused AdamW, workers that live on, TF32 on CUDA, and bf16
  for teacher and student, for the teacher alone or for none, whichever is fastest for the kind
  (found out before, not counted).

Each repeat is a study of its own: it begins with an empty cache. What filling it and probing took
is shared out over its trials and counts as ours. The first repeat trains every student in full, and
gives the accuracies; the others train `--short` of it, and the steps after the first are scaled up
to the full length. Starting workers, the first step and scoring are not scaled.

    python benchmarks/trials_per_hour.py                          # goes on where it stopped
    python benchmarks/trials_per_hour.py --device cuda
    python benchmarks/trials_per_hour.py --epochs 2 --repeats 3 --threads 1

Each measurement is a line of `benchmarks/trials_per_hour.jsonl`; only lines of the same options
count. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
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

from nasdistill import profile
from nasdistill.distillation import Pace
from nasdistill.machine import cores
from nasdistill.space import Architecture, SearchSpace

SPACES, COUNT, DRAW_SEED = ("mobile", "resnet"), 24, 2027
SIDES = ("ours", "common", "tuned")
TARGETS = {"common": 8.0, "tuned": 3.0}
Line = dict[str, Any]
Key = tuple[int, str, int | None]


def draw(setting: Setting, count: int) -> list[Architecture]:
    """Draws architectures of both spaces, in turn, within the shipped limit."""
    teacher = setting.teacher
    limit = profile.count_module(teacher.module, teacher.input).params // 10
    drawn: list[list[Architecture]] = []
    for name in SPACES:
        space, rng = SearchSpace.load(name), random.Random(DRAW_SEED)
        found: list[Architecture] = []
        while len(found) < COUNT // len(SPACES):
            architecture = space.random(rng)
            if parameters(setting, architecture) <= limit:
                found.append(architecture)
        drawn.append(found)
    return [architecture for pair in zip(*drawn, strict=True) for architecture in pair][:count]


def parameters(setting: Setting, architecture: Architecture) -> int:
    """Of the student."""
    return profile.count(architecture, setting.data.input, len(setting.data.classes)).params


def set_up(setting: Setting, drawn: Sequence[Architecture], pace: Pace, tuned: CommonLoop) -> Line:
    """Fills the empty cache and probes precisions; times what is ours."""
    kinds = {sides.kind_of(sides.build(setting, one)): one for one in reversed(drawn)}
    begin = common.clock(setting.device)
    setting.course.prepare(pace.end, 0)
    filled = common.clock(setting.device)
    precisions = {kind: sides.probe_ours(setting, one) for kind, one in kinds.items()}
    end = common.clock(setting.device)
    with sides.tf32(True):
        theirs = {kind: tuned.probe(one) for kind, one in kinds.items()}
    return {
        "side": "set-up", "fill": filled - begin, "probe": end - filled,
        "precisions": {
            "ours": precisions, "common": dict.fromkeys(kinds, "fp32"), "tuned": theirs,
        },
    }  # fmt: skip


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
    """Repeat, side, and number of the architecture; None for the set-up of all."""
    return line["repeat"], line["side"], line.get("architecture")


def measure(table: Table, asked: argparse.Namespace, repeat: int) -> None:
    """Does what is left of one repeat."""
    if all((repeat, side, n) in table for n in range(asked.architectures) for side in SIDES):
        return
    with tempfile.TemporaryDirectory() as cache:
        setting = common.open_setting(device=asked.device, cache=Path(cache))
        drawn = draw(setting, asked.architectures)
        loops = {side: CommonLoop(setting, tuned=side == "tuned") for side in SIDES[1:]}
        whole = sides.pace_for(setting, asked.epochs)
        if (repeat, "set-up", None) not in table:
            table.add(repeat=repeat, **set_up(setting, drawn, whole, loops["tuned"]))
        precisions = table[repeat, "set-up", None]["precisions"]
        setting.course.prepare(whole.end, 0)  # the cache is empty again when a repeat goes on
        batch = setting.recipe.batch_size
        pace = whole if repeat == 0 else sides.pace_for(setting, asked.epochs * asked.short)
        for number, architecture in enumerate(drawn):
            kind = sides.kind_of(sides.build(setting, architecture))
            for side in SIDES if (repeat + number) % 2 == 0 else SIDES[::-1]:
                if (repeat, side, number) in table:
                    continue
                found = one(setting, loops, side, architecture, pace, precisions[side][kind])
                table.add(
                    repeat=repeat, side=side, architecture=number, family=architecture.family,
                    params=parameters(setting, architecture), examples=pace.end,
                    scale=(whole.end - batch) / (pace.end - batch), **found,
                )  # fmt: skip


def one(
    setting: Setting, loops: dict[str, CommonLoop], side: str, architecture: Architecture,
    pace: Pace, precision: Any,
) -> Line:  # fmt: skip
    """One trial of one side."""
    if side == "ours":
        return trial(
            setting.device,
            lambda: sides.start_ours(setting, architecture, pace, precision),
            lambda student: sides.score_ours(setting, student),
        )
    with sides.tf32(side == "tuned"):
        loop = loops[side]
        return trial(setting.device, lambda: loop.start(architecture, pace, precision), loop.score)


def seconds(table: Table, line: Line, trials: int) -> float:
    """Of a whole trial: its steps scaled up where it was short, and its share of the set-up."""
    own = float(line["start"] + line["steps"] * line["scale"] + line["score"])
    if line["side"] != "ours":
        return own
    before = table[line["repeat"], "set-up", None]
    return own + float(before["fill"] + before["probe"]) / trials


def figures(table: Table, trials: int, repeats: int) -> dict[str, Any]:
    """What the lines say, side by side."""
    lines = {
        side: [table[r, side, n] for r in range(repeats) for n in range(trials)] for side in SIDES
    }
    took = {side: [seconds(table, line, trials) for line in lines[side]] for side in SIDES}
    family = [line["family"] for line in lines["ours"]]
    found: dict[str, Any] = {}
    for side in SIDES:
        pairs = zip(lines["ours"][:trials], lines[side][:trials], strict=True)
        apart = [b["accuracy"] - a["accuracy"] for a, b in pairs]
        ratio = [b / a for a, b in zip(took["ours"], took[side], strict=True)]
        by_repeat = [took[side][r * trials : (r + 1) * trials] for r in range(repeats)]
        found[side] = {
            "per_hour": quartiles([3600 / statistics.fmean(x) for x in by_repeat]),
            "seconds": quartiles(took[side]),
            "ratio": quartiles(ratio),
            "ratio_in_full": quartiles(ratio[:trials]),
            "ratio_by_family": {
                name: quartiles([x for x, y in zip(ratio, family, strict=True) if y == name])
                for name in SPACES
            },
            "accuracy": statistics.fmean(line["accuracy"] for line in lines[side][:trials]),
            "difference": statistics.fmean(apart),
            "error": statistics.stdev(apart) / trials**0.5,
        }
    before = [table[r, "set-up", None] for r in range(repeats)]
    found["set-up"] = {key: quartiles([x[key] for x in before]) for key in ("fill", "probe")}
    found["precisions"] = [x["precisions"] for x in before]
    return found


def describe(found: dict[str, Any], asked: argparse.Namespace, examples: int) -> str:
    """The figures as Markdown."""
    rows = []
    for side in SIDES:
        mine = found[side]
        ratios = [mine["ratio"], mine["ratio_in_full"], *mine["ratio_by_family"].values()]
        apart = f"{mine['difference']:+.4f} ± {mine['error']:.4f}"
        compared = [*map(spread, ratios), f"{mine['accuracy']:.4f}", apart]
        if side == "ours":
            compared = ["–"] * len(ratios) + [f"{mine['accuracy']:.4f}", "–"]
        rows.append([side, spread(mine["per_hour"], 0), spread(mine["seconds"]), *compared])
    head = [
        "side", "trials an hour", "seconds a trial", "ours is faster by", "in the full repeat",
        *(f"for `{name}`" for name in SPACES), "score accuracy", "difference from ours ± s.e.",
    ]  # fmt: skip
    fill, probe = (found["set-up"][key][1] for key in ("fill", "probe"))
    short = f", the others at {asked.short:.0%} of the steps and scaled up"
    lines = [
        f"{asked.architectures} students, {examples:,} examples each, "
        f"{common.place(asked.device, asked.threads)}; {asked.repeats} repeats, the first in full"
        f"{short if asked.repeats > 1 else ''}. Filling the cache took {fill:.1f} s and probing "
        f"precisions {probe:.1f} s; each trial of ours bears "
        f"{(fill + probe) / asked.architectures:.2f} s of it.",
        common.markdown(head, rows),
    ]
    for side, target in TARGETS.items():
        mine = found[side]
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
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    options = {k: v for k, v in vars(asked).items() if k != "repeats"}
    options["place"] = common.place(asked.device, asked.threads)
    table = Table(common.HERE / "trials_per_hour.jsonl", options)
    for repeat in range(asked.repeats):
        measure(table, asked, repeat)
    found = figures(table, asked.architectures, asked.repeats)
    results = {"machine": common.machine(asked.device), "options": vars(asked), "figures": found}
    text = describe(found, asked, table[0, "ours", 0]["examples"])
    common.write(common.name_on("trials_per_hour", asked.device), results, text)


if __name__ == "__main__":
    main()
