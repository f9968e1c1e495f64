"""Parts of a teacher found by a search, against cuts at once, nets made by hand, other beginnings.

Takes the finals of finished searches, one study for each seed, and trains the rivals in the same
loop: the same images, teacher's answers, batches and epochs. Uniform cuts keep one share of all
channels, as large as the limit of multiply-adds allows. FastNAS is NVIDIA ModelOpt's
(`pip install nvidia-modelopt torchprofile==0.0.4`; left out where it is not installed): it looks
for the subnet that loses least, which is then distilled as the others are. Students are judged on
test images.

    nasdistill search --space pruned --data folder:photographs --image-size 128 \\
        --teacher folder:tuned --max-macs 35M --minimize macs,params --seed 0 --study pruned-0
    python benchmarks/pruned.py folder:photographs folder:tuned --image-size 128 \\
        --studies studies/pruned-0 studies/pruned-1 studies/pruned-2 studies/mobile-0

Rows that are in the results already are not measured again, so it goes on after a kill. Target:
with 10.2 M multiply-adds 82 % on test, with 35 M 88 %; two points ahead of each rival.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import HERE, ROOT, machine, markdown, met, no_further, save_picture, write
from torch import Tensor, nn

from nasdistill import training
from nasdistill.data import Dataset, load_data
from nasdistill.models import Classifier
from nasdistill.models.counts import count_module
from nasdistill.models.importance import importance
from nasdistill.models.libraries import timm_net
from nasdistill.models.pruning import Structure, cut, structure_of
from nasdistill.recipe import load_recipe
from nasdistill.teachers import load_teacher
from nasdistill.training import LRSchedule
from nasdistill.training.batch_norm import reestimate
from nasdistill.training.metrics import accuracy
from nasdistill.training.precision import emulates_bf16
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import TrainingSetup, open_setup

LIMITS = {10.2e6: 0.82, 35e6: 0.88}
"""Multiply-adds, and the accuracy on test images that is asked at most that many."""
AHEAD = 0.02
SEEDS = (0, 1, 2)
HALVINGS = 8
"""Steps of the search for a uniform cut."""
PAGE, PICTURE = ROOT / "docs" / "pruned.md", ROOT / "docs" / "pruned.png"


class Rival(NamedTuple):
    """A way to a student within a limit, other than a search.

    Attributes:
        rate: Peak learning rate.
        importance: Of channels of a uniform cut; None for fresh weights.
        model: timm's name of a net made by hand, begun fresh; None for a cut.
        fastnas: Whether the cut is FastNAS's.
    """

    rate: float
    importance: str | None = None
    model: str | None = None
    fastnas: bool = False


RIVALS: dict[str, Rival] = {
    "uniform cut at once, magnitude": Rival(3e-3, "magnitude"),
    "FastNAS's subnet": Rival(3e-3, fastnas=True),
    "MobileNetV3-Small × 0.5, fresh": Rival(8e-3, model="mobilenetv3_small_050"),
    "MobileNetV3-Small × 0.75, fresh": Rival(8e-3, model="mobilenetv3_small_075"),
}


def batches(dataset: Dataset, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some training images and their labels, the same ones each time."""
    ids = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    plan = [(part, None) for part in ids[: 32 * count].split(32)]
    for batch in dataset.train.batches(plan, dataset.input.size):
        yield batch.images, batch.labels


def uniform_cut(whole: Classifier, kind: Any, limit: float, dataset: Dataset) -> Classifier:
    """The largest uniform cut of a net within a limit, batch norm estimated anew."""
    structure = structure_of(whole.net, dataset.input)
    judged = copy.deepcopy(whole)
    scores = importance(kind, judged.net, structure, batches(dataset, 10), judged)
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        student = with_share(whole, structure, share, scores)
        if count_module(student, dataset.input).macs <= limit:
            low, best = share, student
        else:
            high = share
    assert best is not None, "no cut keeps the limit"
    reestimate(best, (images for images, _ in batches(dataset, 10)))
    return best


def with_share(whole: Classifier, structure: Structure, share: float, scores: Any) -> Classifier:
    """A net with a share of all its channels."""
    student = copy.deepcopy(whole)
    cut(student.net, structure, {"width": share}, scores)
    return student


def fastnas_cut(whole: Classifier, limit: float, dataset: Dataset, folder: Path) -> Classifier:
    """FastNAS's subnet of a net: its sensitivity analysis on the score half, channels by 8.

    timm's layers of their own (padding that depends on the size, activation within batch norm) are
    replaced by plain ones that compute the same, without which FastNAS finds nothing to cut.

    Raises:
        ImportError: If ModelOpt is not installed.
        ValueError: If its smallest subnet is over the limit.
    """
    from modelopt.torch import prune

    net = with_plain_layers(copy.deepcopy(whole.net)).eval()

    def shown(images: Tensor) -> Tensor:
        return (images.float() / 255 - whole.mean) / whole.std

    loader = [shown(images) for images, _ in batches(dataset, 20)]
    score = [
        (shown(batch.images), batch.labels)
        for batch in dataset.score.batches(
            [(ids, None) for ids in torch.arange(len(dataset.score)).split(64)], dataset.input.size
        )
    ]

    def score_of(model: nn.Module) -> float:
        with torch.inference_mode():
            right = [(model.eval()(images).argmax(1) == labels).sum() for images, labels in score]
        return float(sum(right)) / len(dataset.score)

    folder.mkdir(parents=True, exist_ok=True)
    subnet, _ = prune.prune(
        net,
        mode=[("fastnas", fastnas_rules())],
        constraints={"flops": 2 * limit},  # it counts a multiply-add as two
        dummy_input=loader[0][:1],
        config={
            "data_loader": loader,
            "collect_func": lambda images: images,
            "score_func": score_of,
            "checkpoint": str(folder / "fastnas.pth"),
        },
    )
    mean, std = (tuple(x.flatten().tolist()) for x in (whole.mean, whole.std))
    return Classifier(subnet, mean, std)


def fastnas_rules() -> dict[str, Any]:
    """FastNAS's own rules, but for channels in multiples of 8, as ours are, not of 32."""
    from modelopt.torch.prune.fastnas import FastNASConfig

    rules = FastNASConfig().model_dump()
    for by_name in rules.values():
        for rule in by_name.values():
            rule.update({key: 8 for key in rule if key.endswith("_divisor")})
    return rules


def with_plain_layers(module: nn.Module) -> nn.Module:
    """A net of timm without `Conv2dSame` (strides of 2, even sides) and `BatchNormAct2d`."""
    for name, child in list(module.named_children()):
        kind = type(child).__name__
        if kind == "Conv2dSame":
            before = (child.kernel_size[0] - 2) // 2
            after = child.kernel_size[0] - 2 - before
            conv = nn.Conv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size,
                child.stride,
                groups=child.groups,
                bias=child.bias is not None,
            )
            conv.load_state_dict(child.state_dict())
            setattr(module, name, nn.Sequential(nn.ZeroPad2d((before, after, before, after)), conv))
        elif kind == "BatchNormAct2d":
            norm = nn.BatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.load_state_dict({k: child.state_dict()[k] for k in norm.state_dict()})
            setattr(module, name, nn.Sequential(norm, child.drop, child.act))
        else:
            with_plain_layers(child)
    return module


def trained(
    setup: TrainingSetup, student: nn.Module, epochs: float, rate: float, seed: int
) -> Classifier:
    """A student after some epochs."""
    per_epoch = setup.stream.examples_per_epoch
    total, warm_up = int(epochs * per_epoch), int(min(1.0, epochs / 4) * per_epoch)
    run = setup.run(
        [student.requires_grad_(True)],
        horizon=total,
        lr_schedule=LRSchedule(rate, warm_up, warm_up, total),
        seed=seed,
        precision="fp32" if emulates_bf16(student) else "bf16",
    )
    setup.prepare(total, 0)
    for _ in training.train(run, total):
        pass
    result = run.student.eval()
    assert isinstance(result, Classifier)
    return result


def begun(rival: Rival, whole: Classifier, limit: float, dataset: Dataset) -> Classifier | None:
    """A rival's student before its first step; None if a net made by hand is over the limit."""
    if rival.fastnas:
        return fastnas_cut(whole, limit, dataset, ROOT / "build" / "fastnas")
    if rival.model is None:
        return uniform_cut(whole, rival.importance, limit, dataset)
    net = timm_net(rival.model, None, num_classes=len(dataset.classes))
    mean, std = (tuple(x.flatten().tolist()) for x in (whole.mean, whole.std))
    student = Classifier(net, mean, std)
    return student if count_module(student, dataset.input).macs <= limit else None


def measure_rivals(options: argparse.Namespace, rows: list[dict[str, Any]], save: Any) -> None:
    """Trains every rival with every seed, but those that `rows` has."""
    device = torch.device("cpu")
    data = load_data(options.data, device=device, seed=0, image_size=options.image_size)
    frozen = load_teacher(options.teacher, data, device=device)
    whole = frozen.module
    assert isinstance(whole, Classifier)
    options.cache.mkdir(parents=True, exist_ok=True)
    todo = [(seed, limit, name) for seed in options.seeds for limit in LIMITS for name in RIVALS]
    for seed, limit, name in todo:
        rival = RIVALS[name]
        same = [r for r in rows if (r["way"], r["seed"]) == (name, seed)]
        if any(r["limit"] == limit for r in same):
            continue
        if rival.model is not None and same and same[0]["macs"] <= limit:
            rows.append(same[0] | {"limit": limit})  # it does not depend on the limit
            continue
        start = time.perf_counter()
        torch.manual_seed(seed)
        try:
            student = begun(rival, whole, limit, data)
        except (ImportError, ValueError) as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        if student is None:
            continue
        recipe = load_recipe(None, {"seed": seed})
        teachers = TeacherPool(
            data, frozen, {}, no_further, options.cache, lambda count, spent: None, print
        )
        setup = open_setup(recipe.final, recipe, teachers)
        student = trained(setup, student, options.epochs, rival.rate, seed)
        counts = count_module(student, data.input)
        right = accuracy(*training.predict(student, data.test, data.input.size))
        row = {"way": name, "limit": limit, "seed": seed, "test": right}
        row |= {"params": counts.params, "macs": counts.macs}
        rows.append(row | {"seconds": time.perf_counter() - start})
        print(json.dumps(rows[-1]), flush=True)
        save()


def finals_of(study: Path) -> Iterator[dict[str, Any]]:
    """The figures of a study's finals."""
    recipe = load_recipe(str(study / "recipe.yaml"), {})
    for folder in sorted(path for path in (study / "finals").iterdir() if path.name.isdigit()):
        metrics = json.loads((folder / "metrics.json").read_text())
        yield {
            "way": f"search, {json.loads((folder / 'architecture.json').read_text())['family']}",
            "study": study.name,
            "seed": recipe.seed,
            "audit": metrics["audit_accuracy"],
            "test": metrics["test_accuracy"],
            "params": metrics["params"],
            "macs": metrics["macs"],
        }


def best_within(limit: float, finals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The final of each study within a limit that is best on the audit half, not on test images."""
    best: dict[str, dict[str, Any]] = {}
    for final in sorted(finals, key=lambda final: final["audit"]):
        if final["macs"] <= limit:
            best[final["study"]] = final
    return list(best.values())


def report(rows: list[dict[str, Any]], finals: list[dict[str, Any]], epochs: int) -> str:
    """Text and table."""
    lines, table = [], []
    for limit, target in LIMITS.items():
        by_way: dict[str, list[dict[str, Any]]] = {}
        for row in [*best_within(limit, finals), *(r for r in rows if r["limit"] == limit)]:
            by_way.setdefault(row["way"], []).append(row)
        means = {way: statistics.fmean(r["test"] for r in its) for way, its in by_way.items()}
        ours = means.pop("search, pruned", float("nan"))
        rival = max(means, key=lambda way: means[way])
        lines.append(
            f"At most {limit / 1e6:g} M multiply-adds: {ours:.1%} (target {target:.0%}, "
            f"{met(ours >= target)}); best rival {rival}, {means[rival]:.1%} (target two points "
            f"below, {met(ours >= means[rival] + AHEAD)})."
        )
        for way, its in by_way.items():
            tests = " / ".join(f"{r['test']:.1%}" for r in sorted(its, key=lambda r: r["seed"]))
            macs, params = (statistics.fmean(r[key] for r in its) for key in ("macs", "params"))
            mean = statistics.fmean(r["test"] for r in its)
            table.append(
                [f"{limit / 1e6:g} M", way, f"{macs / 1e6:.1f} M", f"{params / 1e3:.0f} k"]
                + [tests, f"{mean:.1%}"]
            )
    head = ["limit", "way", "multiply-adds", "parameters", "test accuracy by seed", "mean"]
    text = f"{epochs} epochs each. " + " ".join(lines)
    return f"{text}\n\n{markdown(head, table)}"


def draw(rows: list[dict[str, Any]], finals: list[dict[str, Any]]) -> None:
    """Accuracy on test images against multiply-adds: a mark for each student."""
    import plotly.graph_objects as go

    students: dict[str, list[tuple[float, float]]] = {}
    for row in [*finals, *rows]:
        point = row["macs"] / 1e6, 100 * row["test"]
        students.setdefault(row["way"], []).append(point)
    figure = go.Figure()
    for way, points in students.items():
        symbol = "circle" if way.startswith("search") else "x-thin-open"
        x, y = zip(*sorted(set(points)), strict=True)
        marker = {"size": 10, "symbol": symbol, "line": {"width": 2}}
        figure.add_scatter(x=x, y=y, mode="markers", name=way, marker=marker)
    figure.update_layout(
        template="plotly_white",
        width=900,
        height=480,
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
        font={"size": 14},
        xaxis={
            "title": "million multiply-adds",
            "type": "log",
            "tickvals": [2, 3, 5, 7, 10, 20, 30, 50, 100],
        },
        yaxis={"title": "accuracy on test images (%)"},
    )
    save_picture(figure, PICTURE)


def main() -> None:
    """Measures what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("teacher")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--studies", type=Path, nargs="*", default=())
    parser.add_argument("--cache", type=Path, default=ROOT / "studies" / ".cache")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "pruned.json"
    stored = json.loads(path.read_text()) if path.exists() else {"rows": [], "finals": []}
    rows, finals = stored["rows"], stored["finals"]
    given = {study.name for study in options.studies}
    finals = [final for final in finals if final["study"] not in given]
    finals += [final for study in options.studies for final in finals_of(study)]

    def save() -> None:
        figures = {"epochs": options.epochs, "rows": rows, "finals": finals, "machine": machine()}
        path.write_text(json.dumps(figures, indent=1) + "\n")

    save()
    measure_rivals(options, rows, save)
    draw(rows, finals)
    write("pruned", json.loads(path.read_text()), report(rows, finals, options.epochs), PAGE)


if __name__ == "__main__":
    main()
