"""Is a shared bank of weights worth its cost? An experiment, on the shared table.

The bank holds weights of which every student of `mobile` has a slice: the leading channels, the
middle of a kernel, of the block type and role in question (`stage1.0.mbconv.project`). It learns
like a student, from the same teacher by the same loop, for as long as six full runs: its forward
draws another architecture in each step. Then each architecture of the table (`full_runs.py`)
begins with its slice, batch norm re-estimated on twenty batches, and is scored as a trial is. How
well those scores rank, by themselves and in the search's forecast, is held against fresh students
at the same total cost, the bank's share included, for studies of several sizes; of the rungs in the
table, fresh students are given the last that costs no more.

    python benchmarks/bank.py --way uniform          # or sandwich, or slow: each 15 min on one core
    python benchmarks/bank.py --report

- uniform: architectures within the limits of a search, drawn alike;
- sandwich: in turn the smallest, the largest and one of those (Yu et al., BigNAS, 2020);
- slow: the bank of uniform, whose students begin at a third of the learning rate.

No full run has a part in the bank, and none in its own architecture's forecast.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import torch
from common import CACHE, HERE, ROOT, Setting, markdown, open_setting, write
from full_runs import EPOCHS, RUNGS, figures, run_trunk, total, train
from replay import Foretold, Table, ahead, forecasts, interval, left_out, mean_tau, near_tau
from torch import Tensor, nn
from torch.func import functional_call

from nasdistill.common.seeds import seed_of
from nasdistill.models import Classifier, build
from nasdistill.models.counts import count_architecture
from nasdistill.space import Architecture, SearchSpace
from nasdistill.training import LRSchedule
from nasdistill.training.batch_norm import reestimate
from nasdistill.training.checkpoint import write_checkpoint

FULL_RUNS = 6
DRAWN = 400
BATCHES = 20
WAYS = {"uniform": ("uniform", 1.0), "sandwich": ("sandwich", 1.0), "slow": ("uniform", 1 / 3)}
"""How the bank draws, and the students' learning rate beside a fresh one's."""
STUDIES = (48, 100, 200)
KEPT = ROOT / "build" / "bank"
ROLES = {
    "mbconv": ("expand", "depthwise", "squeeze_excite", "project"),
    "fused": ("expand", "project"),
    "separable": ("depthwise", "squeeze_excite", "project"),
    "ghost": ("expand", "depthwise", "project"),
}
"""Roles of a block's layers, in order, by its type."""
OPTIONAL = {"mbconv": "squeeze_excite", "separable": "squeeze_excite", "ghost": "depthwise"}
"""The role that a block may lack."""


def by_role(architecture: Architecture, net: nn.Module) -> dict[str, str]:
    """The name by role of each parameter, by its name in the net."""
    names = {}
    for name, _ in net.named_parameters():
        place, _, rest = name.partition(".")
        if place.startswith("stage"):
            number, body, layer, *inside = rest.split(".")
            stage = architecture.values["stages"][int(place.removeprefix("stage"))]
            kind = stage["block"]["type"]
            roles, layers = list(ROLES[kind]), net.get_submodule(f"{place}.{number}.{body}")
            assert isinstance(layers, nn.Sequential)
            if len(layers) < len(roles):
                roles.remove(OPTIONAL[kind])
            names[name] = "/".join([place, number, kind, roles[int(layer)], *inside])
        else:
            names[name] = name.replace(".", "/")
    return names


@dataclass(frozen=True)
class Student:
    """An architecture's net without weights, and its parameters' names by role."""

    net: nn.Module
    roles: Mapping[str, str]

    @classmethod
    def of(cls, architecture: Architecture, setting: Setting) -> Student:
        """Builds one, on no device."""
        with torch.device("meta"):
            net = build(architecture, setting.data.input, len(setting.data.classes))
        return cls(net.train(), by_role(architecture, net))


def part_of(weight: Tensor, shape: torch.Size) -> Tensor:
    """Leading channels, and the middle of a kernel."""
    places = [slice(0, size) for size in shape[:2]]
    for whole, size in zip(weight.shape[2:], shape[2:], strict=True):
        begin = (whole - size) // 2
        places.append(slice(begin, begin + size))
    return weight[tuple(places)]


class Bank(nn.Module):
    """The shared weights; its forward is that of an architecture drawn anew in each step.

    Args:
        students: Of the architectures to draw from; the first two are the smallest and the largest.
        way: `uniform` or `sandwich`.
        seed: Of weights and draws.
    """

    steps: Tensor

    def __init__(self, students: list[Student], way: str, seed: int) -> None:
        super().__init__()
        self._students, self._way, self._seed = students, way, seed
        shapes: dict[str, list[int]] = {}
        for student in students:
            for name, parameter in student.net.named_parameters():
                known = shapes.setdefault(student.roles[name], [0] * parameter.ndim)
                known[:] = [max(pair) for pair in zip(known, parameter.shape, strict=True)]
        torch.manual_seed(seed)
        self.weights = nn.ParameterDict(
            {role: nn.Parameter(initial(role, shape)) for role, shape in sorted(shapes.items())}
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of this step's architecture."""
        step = int(self.steps)
        self.steps += 1
        if self._way == "sandwich" and step % 3 < 2:
            student = self._students[step % 3]
        else:
            student = random.Random(seed_of(self._seed, "bank", step)).choice(self._students)
        logits: Tensor = functional_call(student.net, self.slice_of(student), (x_BCHW,))
        return logits

    def slice_of(self, student: Student) -> dict[str, Tensor]:
        """A student's parameters out of the bank, and fresh statistics of batch norm."""
        state = {
            name: part_of(self.weights[student.roles[name]], parameter.shape)
            for name, parameter in student.net.named_parameters()
        }
        for name, buffer in student.net.named_buffers():
            ones = name.endswith("running_var")
            state[name] = (torch.ones if ones else torch.zeros)(buffer.shape, dtype=buffer.dtype)
        return state


def initial(role: str, shape: list[int]) -> Tensor:
    """First weights: kernels as PyTorch draws them, of norms 1, biases 0."""
    weight = torch.empty(shape)
    if len(shape) > 1:
        nn.init.kaiming_uniform_(weight, a=5**0.5)
    else:
        weight.fill_(1.0 if role.endswith("weight") else 0.0)
    return weight


@lru_cache
def setting_of(seed: int) -> Setting:
    """The shipped job."""
    torch.set_num_threads(1)
    return open_setting(seed, cache=CACHE)


def drawn(setting: Setting, table: Table) -> list[Architecture]:
    """The smallest and the largest of those within the limits, and further ones of these.

    The table's own are among those that the bank may draw no oftener than any other.
    """
    limits = [max(table.known("params")), max(table.known("macs"))]
    space, rng = SearchSpace.load("mobile"), random.Random(seed_of(0, "bank's architectures"))
    found: list[tuple[int, Architecture]] = []
    while len(found) < DRAWN:
        architecture = space.random(rng)
        counts = count_architecture(architecture, setting.data.input, len(setting.data.classes))
        if counts.params <= limits[0] and counts.macs <= limits[1]:
            found.append((counts.macs, architecture))
    ordered = [architecture for _, architecture in sorted(found, key=lambda pair: pair[0])]
    return [ordered[0], ordered[-1], *ordered[1:-1], *architectures(table)]


def architectures(table: Table) -> Iterator[Architecture]:
    """Those of the table."""
    for number in table.numbers:
        yield Architecture.from_json(json.dumps(table.about[number]["architecture"]))


def learned(setting: Setting, students: list[Student], draws: str, seed: int) -> tuple[Bank, float]:
    """A bank after its training, kept in build/bank, and what that cost in seconds."""
    path = KEPT / f"{draws}-{seed}.pt"
    bank = Bank(students, draws, seed)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        bank.load_state_dict(kept["bank"])
        return bank, float(kept["seconds"])
    end, epoch = total(setting, FULL_RUNS), setting.setup.stream.examples_per_epoch
    schedule = LRSchedule(setting.recipe.rate(), epoch, epoch, end)
    setting.setup.prepare(end, 0)
    run = setting.setup.run(
        [Classifier(bank, setting.data.mean, setting.data.std)],
        horizon=end,
        lr_schedule=schedule,
        seed=seed,
        precision="fp32",
    )
    seconds = 0.0
    for epochs in range(1, FULL_RUNS * EPOCHS + 1):
        seconds += train(run, min(end, epochs * epoch))
        print(f"{draws}: epoch {epochs} of {FULL_RUNS * EPOCHS}, {seconds:.0f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint({"bank": bank.state_dict(), "seconds": seconds}, path)
    return bank, seconds


def begin(setting: Setting, architecture: Architecture, bank: Bank, seed: int) -> Classifier:
    """A student that begins with its slice of the bank."""
    student = setting.setup.students(architecture, setting.data, seed)[0]
    bank_slice = bank.slice_of(Student.of(architecture, setting))
    student.net.load_state_dict({name: part.detach() for name, part in bank_slice.items()})
    steps = setting.setup.stream.plan(0, BATCHES)
    batches = setting.data.train.batches(steps, setting.data.input.size)
    reestimate(student, (batch.images for batch in batches))
    return student


def measure(way: str, seed: int) -> None:
    """Trains a bank, and scores the table's architectures that begin with it."""
    path = KEPT / f"{way}-{seed}.json"
    if path.exists():
        return
    setting, table = setting_of(seed), Table.read("mobile")
    students = [Student.of(architecture, setting) for architecture in drawn(setting, table)]
    draws, rate = WAYS[way]
    bank, seconds = learned(setting, students, draws, seed)
    lines = []
    for number, architecture in zip(table.numbers, architectures(table), strict=True):
        student = begin(setting, architecture, bank, seed)
        untrained = {"0.0": figures(setting, student)}
        trained = run_trunk(setting, architecture, seed, student, rate)
        lines.append({"architecture": number, "at": {**untrained, **trained}})
        scored = lines[-1]["at"]
        accuracies = ", ".join(
            f"{share} {scored[share]['score']['accuracy']:.3f}" for share in scored
        )
        print(f"{way}, seed {seed}, architecture {number}: {accuracies}", flush=True)
    path.write_text(json.dumps({"seconds": seconds, "runs": lines}))


def ranked(
    table: Table, scores: list[float], losses: list[float], share: float, foretold: Foretold
) -> dict[str, list[list[float]]]:
    """The score and the loss (less is better: negative), and what the search makes of the score."""
    return {
        "score": [scores],
        "loss": [losses],
        "without": forecasts(table, [scores], share),
        "forecast": forecasts(table, [scores], share, foretold),
    }


@dataclass(frozen=True)
class Side:
    """What students that begin alike are scored at one share of a full run.

    Attributes:
        begins: `fresh`, or the name of a bank.
        share: Of a full run.
        bank: What the bank cost, in full runs.
        scores: Of each seed, by name: score, loss, forecast without experience and with it.
    """

    begins: str
    share: float
    bank: float
    scores: Mapping[str, list[list[float]]]


def sides_of(table: Table) -> Iterator[Side]:
    """Fresh students, then those of each bank."""
    foretold = left_out(table)
    for share in (0.05, 0.10):
        each = [
            ranked(
                table,
                table.figure("trunk", share, seed, "accuracy"),
                table.figure("trunk", share, seed, "loss"),
                share,
                foretold,
            )
            for seed in table.scored("trunk")
        ]
        yield Side("fresh", share, 0.0, {k: [one[k][0] for one in each] for k in each[0]})
    full = fmean(table.seconds("full", 1.0))
    for path in sorted(KEPT.glob("*.json")):
        content = json.loads(path.read_text())
        for share in (0.0, 0.05, 0.10):
            of_students = [run["at"][str(share)]["score"] for run in content["runs"]]
            scores = [one["accuracy"] for one in of_students]
            losses = [-one["loss"] for one in of_students]
            of_share = ranked(table, scores, losses, share or RUNGS[0], foretold)
            yield Side(path.stem, share, content["seconds"] / full, of_share)


def report() -> None:
    """Writes the table."""
    table = Table.read("mobile")
    truth, macs, sides = table.truth("test"), table.known("macs"), list(sides_of(table))
    rows, results = [], []
    for side in sides:
        taus = {name: mean_tau(scores, truth) for name, scores in side.scores.items()}
        near = near_tau(side.scores["forecast"], truth, macs)[0]
        low, high = interval(side.scores["forecast"], truth)
        accuracy = fmean(fmean(scores) for scores in side.scores["score"])
        about = {"begins": side.begins, "share": side.share, "bank": side.bank}
        results.append({**about, "accuracy": accuracy, **taus, "near": near})
        cells = [side.begins, f"{side.share:.0%}", f"{side.bank:.1f}", f"{accuracy:.3f}"]
        cells += [f"{taus[name]:.2f}" for name in ("score", "loss", "without")]
        cells += [f"{taus['forecast']:.2f} ({low:.2f} to {high:.2f})"]
        rows.append([*cells, f"{near:.2f}"])
    head = ["begins", "scored at", "bank, in full runs", "mean score", "τ of score"]
    head += ["of loss", "of forecast", "with experience (95 %)", "that at equal MACs"]
    text = markdown(head, rows) + "\n\n" + markdown(*equal_cost(sides, truth))
    write("bank", {"rows": results}, text, HERE.parent / "docs" / "scoring.md")


def equal_cost(sides: Iterable[Side], truth: Sequence[float]) -> tuple[list[str], list[list[str]]]:
    """Banks, scored at 5 %, against fresh students that cost as much in all, by trials."""
    every = list(sides)
    fresh = {side.share: side.scores for side in every if side.begins == "fresh"}
    rows = []
    for side in every:
        if side.begins == "fresh" or side.share != 0.05:
            continue
        for trials in STUDIES:
            each = side.share + side.bank / trials
            share = max((s for s in fresh if s <= each + 0.005), default=min(fresh))
            cells = [side.begins, f"{trials}", f"{each:.1%}", f"{share:.0%}"]
            for name in ("without", "forecast"):
                rival = fresh[share][name]
                ours = side.scores[name] * len(rival)
                lead = mean_tau(ours, truth) - mean_tau(rival, truth)
                low, high = ahead(ours, rival, truth)
                cells.append(f"{lead:+.2f} ({low:+.2f} to {high:+.2f})")
            rows.append(cells)
    head = ["bank", "trials", "each costs, bank included", "fresh ones scored at"]
    return [*head, "forecast ahead (95 %)", "with experience (95 %)"], rows


def main() -> None:
    """Measures, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.way is not None:
        measure(args.way, args.seed)
    if args.report:
        report()


if __name__ == "__main__":
    main()
