"""What a search ships, against well-known students made by hand.

Takes the finals of a finished study, and distils hand-made students with the same teacher, data,
terms, batches and budget of epochs: MobileNetV3-Small and a ResNet-20-like at several widths, and a
plain inverted-residual net at several widths. All are measured in one run, in turn, by ONNX Runtime
with one thread, at batch 1 and 256; accuracy is that on test images.

    nasdistill search --space mobile
    python benchmarks/headline.py [--study studies/mobile]

Target: a final at least 10 times smaller than the teacher and 3 times faster, with at least 97 % of
its accuracy; and the finals dominate the hand-made ones: each of these has a final that is no worse
in accuracy, parameters and milliseconds at both batches, and better in one. The table also says
which of them are as accurate as a final and smaller or faster. A study of CIFAR-10 is given in the
same way. Distilled students are kept in build/headline: a run that was cut off goes on there. They
are distilled by as many processes of one thread as a search would have workers. MobileNetV3-Small
in its full width has 1.5 times the shipped teacher's parameters, and is left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import CACHE, ROOT, Setting, machine, markdown, met, open_setting, write
from torch import nn

from nasdistill import training
from nasdistill.common.machine import default_workers
from nasdistill.models import Classifier, artifact, build
from nasdistill.models.counts import count_module
from nasdistill.models.latency import measure_latencies
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.space import Architecture
from nasdistill.training import LRSchedule, predict, seed_weights
from nasdistill.training.checkpoint import write_checkpoint
from nasdistill.training.metrics import accuracy

BATCHES = (1, 256)
KEPT = ROOT / "build" / "headline"


@dataclass(frozen=True)
class Entry:
    """A model of the table.

    Attributes:
        name: What it is called.
        kind: `teacher`, `final` or `hand-made`.
        params: Number of parameters.
        accuracy: On test images.
        ms: Median milliseconds of a call, by batch.
    """

    name: str
    kind: str
    params: int
    accuracy: float
    ms: dict[int, float]


def resnet_20(width: int) -> Architecture:
    """He et al.'s ResNet-20 for small images, 16 wide in its first stage originally."""
    stages = [{"width": width * 2**i, "depth": 3, "block": {"type": "basic"}} for i in range(3)]
    return Architecture("resnet", {"stem": {"type": "conv3", "width": width}, "stages": stages})


def inverted(width: int) -> Architecture:
    """Inverted residuals of expansion 3, twice as wide in each stage as in the one before."""
    block = {"type": "mbconv", "expansion": 3, "kernel": 3, "squeeze_excite": False}
    stages = [{"width": width * 2**i, "depth": 2, "block": block} for i in range(3)]
    values = {"activation": "relu", "stem": width, "stages": stages, "head": 8 * width}
    return Architecture("mobile", values)


def mobilenet_v3_small(width: float, setting: Setting) -> nn.Module:
    """torchvision's, with a first convolution for small images: their channels, stride 1."""
    from torchvision.models import mobilenet_v3_small as make

    net = make(num_classes=len(setting.data.classes), width_mult=width)
    stem = net.features[0][0]
    net.features[0][0] = nn.Conv2d(
        setting.data.input.channels, stem.out_channels, 3, 1, 1, bias=False
    )
    return net


def hand_made(setting: Setting, seed: int = 0) -> Iterator[tuple[str, Classifier]]:
    """Name and untrained student of each, its weights drawn from a seed."""
    data = setting.data
    for width in (0.15, 0.25, 0.5):
        seed_weights(seed, "mobilenet", width)
        net = mobilenet_v3_small(width, setting)
        yield f"MobileNetV3-Small × {width}", Classifier(net, data.mean, data.std)
    for name, make, widths in (
        ("ResNet-20-like", resnet_20, (4, 8, 16)),
        ("inverted residuals", inverted, (8, 12, 16)),
    ):
        for width in widths:
            seed_weights(seed, name, width)
            net = build(make(width), data.input, len(data.classes))
            yield f"{name}, {width} wide", Classifier(net, data.mean, data.std)


def kept(study: Path, epochs: int, name: str) -> Path:
    """Where the weights of a distilled student are."""
    return KEPT / f"{study.name}-{epochs}" / f"{name.replace(' ', '-')}.pt"


def opened(study: Path) -> tuple[Setting, Recipe, int]:
    """The study's job, and the epochs of its finals."""
    recipe, plain = load_recipe(str(study / "recipe.yaml"), {}), Recipe()
    for key in ("final", "teachers", "iterate", "batch_size", "views", "learning_rate"):
        if getattr(recipe, key) != getattr(plain, key):
            raise SystemExit(f"{study}: {key} is not the default's, as hand-made students have it")
    teacher = "shipped" if recipe.teacher == "auto" else recipe.teacher
    setting = open_setting(recipe.seed, spec=recipe.data, teacher=teacher, cache=CACHE)
    examples = recipe.final_budget.examples(len(setting.data.train))
    return setting, recipe, max(1, round(examples / setting.setup.stream.examples_per_epoch))


def distil(task: tuple[Path, str]) -> None:
    """The schedule of finals, for one hand-made student."""
    study, name = task
    torch.set_num_threads(1)
    setting, _, epochs = opened(study)
    student = dict(hand_made(setting))[name]
    epoch = setting.setup.stream.examples_per_epoch
    end = epochs * epoch
    pace = LRSchedule(setting.recipe.rate(), epoch, epoch, end)
    setting.setup.prepare(end, 0)
    run = setting.setup.run([student], horizon=end, lr_schedule=pace, seed=0, precision="fp32")
    for _ in training.train(run, end):
        pass
    file = kept(study, epochs, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(student.state_dict(), file)
    print(name, flush=True)


def distil_missing(setting: Setting, study: Path, epochs: int) -> None:
    """Distils those hand-made students that were not before."""
    setting.setup.prepare(epochs * setting.setup.stream.examples_per_epoch, 0)
    names = [name for name, _ in hand_made(setting)]
    todo = [(study, name) for name in names if not kept(study, epochs, name).exists()]
    with multiprocessing.get_context("spawn").Pool(default_workers(setting.device)) as pool:
        pool.map(distil, todo, chunksize=1)


def entries(setting: Setting, study: Path, epochs: int) -> list[Entry]:
    """Everything measured, in turn."""
    models: dict[str, nn.Module] = {"teacher": setting.teacher.module.eval()}
    for folder in sorted(p for p in (study / "finals").iterdir() if p.name.isdigit()):
        models[f"final {folder.name}"] = artifact.load(folder).eval()
    for name, student in hand_made(setting):
        student.load_state_dict(torch.load(kept(study, epochs, name), weights_only=True))
        models[name] = student.eval()
    inputs = {name: setting.data.input for name in models} | {"teacher": setting.teacher.input}
    ms = {
        batch: measure_latencies(models, inputs, engine="onnxruntime", batch=batch, seconds=1.0)
        for batch in BATCHES
    }
    all_entries = []
    for name, model in models.items():
        right = accuracy(*predict(model, setting.data.test, inputs[name].size))
        kind = name.split()[0] if name.split()[0] in ("teacher", "final") else "hand-made"
        params = count_module(model, inputs[name]).params
        times = {batch: ms[batch][name].median_ms for batch in BATCHES}
        all_entries.append(Entry(name, kind, params, right, times))
    return all_entries


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "mobile")
    parser.add_argument("--name", default="headline", help="of the results and of their place")
    args = parser.parse_args()
    torch.manual_seed(0)
    setting, recipe, epochs = opened(args.study)
    distil_missing(setting, args.study, epochs)
    all_entries = entries(setting, args.study, epochs)
    results: dict[str, Any] = {
        "machine": machine(),
        "data": recipe.data,
        "epochs": epochs,
        "models": [vars(entry) for entry in all_entries],
    }
    write(args.name, json.loads(json.dumps(results)), report(all_entries, epochs))


def report(all_entries: list[Entry], epochs: int) -> str:
    """Text and table."""
    teacher = all_entries[0]
    finals = [e for e in all_entries if e.kind == "final"]
    others = [e for e in all_entries if e.kind == "hand-made"]

    def ships(entry: Entry) -> bool:
        return (
            teacher.params >= 10 * entry.params
            and teacher.ms[1] >= 3 * entry.ms[1]
            and entry.accuracy >= 0.97 * teacher.accuracy
        )

    def beats(other: Entry, final: Entry) -> bool:
        smaller, faster = other.params < final.params, other.ms[1] < final.ms[1]
        return other.accuracy >= final.accuracy and (smaller or faster)

    def figures(entry: Entry) -> list[float]:
        return [-entry.accuracy, entry.params, *entry.ms.values()]

    def dominates(final: Entry, other: Entry) -> bool:
        pairs = list(zip(figures(final), figures(other), strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    better = [(o.name, f.name) for o in others for f in finals if beats(o, f)]
    dominated = [o for o in others if any(dominates(f, o) for f in finals)]
    text = f"{epochs} epochs each, one seed, so half a point either way says little. "
    text += f"10 times smaller, 3 times faster, 97 % retained: {met(any(map(ships, finals)))}. "
    text += f"Finals dominate the hand-made ones: {len(dominated)} of {len(others)}, "
    text += met(len(dominated) == len(others)) + ". As accurate as a final and smaller or faster: "
    text += "; ".join(f"{other} than {final}" for other, final in better) or "none of them"
    rows = [
        [
            e.name,
            f"{e.params / 1000:.1f} k (÷{teacher.params / e.params:.1f})",
            *(f"{e.ms[b]:.3f} ms (÷{teacher.ms[b] / e.ms[b]:.1f})" for b in BATCHES),
            f"{e.accuracy:.4f}",
            f"{e.accuracy / teacher.accuracy:.1%}",
        ]
        for e in sorted(all_entries, key=lambda e: (e.kind != "teacher", -e.accuracy))
    ]
    head = ["model", "parameters", *(f"batch {b}" for b in BATCHES), "test accuracy", "retained"]
    return f"{text}.\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    main()
