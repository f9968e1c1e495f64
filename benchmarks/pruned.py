"""Parts of a teacher as students, against cuts at once, nets made by hand, and other beginnings.

Every student sees the same training images, teacher's answers and number of epochs; what a step of
the cut costs comes on top and is counted in the seconds. Cuts are uniform: one share of all
channels, as large as the limit of multiply-adds allows.

    python benchmarks/pruned.py folder:photographs folder:teacher --image-size 128

Target: with 10.2 M multiply-adds 82 % on test, with 35 M 88 %; two points ahead of each rival.
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
from common import HERE, machine, no_further
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
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import TrainingSetup, open_setup

LIMITS = (10.2e6, 35e6)
SEEDS = (0, 1, 2)
HALVINGS = 8
"""Steps of the search for a uniform cut."""


class Way(NamedTuple):
    """A way to a student within a limit.

    Attributes:
        importance: Of channels; None for fresh weights in the same shape.
        steps: Cuts, with some distillation after each but the last.
        rate: Peak learning rate.
        model: timm's name of a net made by hand, begun fresh; None for a cut.
    """

    importance: str | None
    steps: int
    rate: float
    model: str | None = None


WAYS: dict[str, Way] = {
    "at once, magnitude": Way("magnitude", 1, 3e-3),
    "at once, activation": Way("activation", 1, 3e-3),
    "at once, Taylor": Way("taylor", 1, 3e-3),
    "three steps, Taylor": Way("taylor", 3, 3e-3),
    "three steps, Taylor, rate 0.006": Way("taylor", 3, 6e-3),
    "the same shape, fresh": Way(None, 1, 8e-3),
    "MobileNetV3-Small x0.5, fresh": Way(None, 1, 8e-3, "mobilenetv3_small_050"),
    "MobileNetV3-Small x0.75, fresh": Way(None, 1, 8e-3, "mobilenetv3_small_075"),
}


def batches(dataset: Dataset, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some training images and their labels, the same ones each time."""
    ids = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    plan = [(part, None) for part in ids[: 32 * count].split(32)]
    for batch in dataset.train.batches(plan, dataset.input.size):
        yield batch.images, batch.labels


def cut_to(whole: Classifier, way: Way, limit: float, dataset: Dataset) -> Classifier:
    """The largest uniform cut of a net within a limit, batch norm estimated anew."""
    structure, scores = structure_of(whole.net, dataset.input), None
    if way.importance is not None:
        judged = copy.deepcopy(whole)
        kind: Any = way.importance
        scores = importance(kind, judged.net, structure, batches(dataset, 10), judged)
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        student = uniform(whole, structure, share, scores)
        if count_module(student, dataset.input).macs <= limit:
            low, best = share, student
        else:
            high = share
    assert best is not None, "no cut keeps the limit"
    if way.importance is None:
        for module in best.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    reestimate(best, (images for images, _ in batches(dataset, 10)))
    return best


def uniform(whole: Classifier, structure: Structure, share: float, scores: Any) -> Classifier:
    """A net with a share of all its channels."""
    student = copy.deepcopy(whole)
    cut(student.net, structure, {"width": share}, scores)
    return student


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
        precision="fp32",
    )
    setup.prepare(total, 0)
    for _ in training.train(run, total):
        pass
    result = run.student.eval()
    assert isinstance(result, Classifier)
    return result


def measured(
    setup: TrainingSetup, teacher: Classifier, way: Way, limit: float, epochs: int, seed: int
) -> dict[str, Any] | None:
    """One student from its first cut to its test; None if a net made by hand is over the limit."""
    dataset, start = setup.stream.dataset, time.perf_counter()
    torch.manual_seed(seed)
    mean, std = (tuple(x.flatten().tolist()) for x in (teacher.mean, teacher.std))
    if way.model is not None:
        student = Classifier(timm_net(way.model, None, num_classes=len(dataset.classes)), mean, std)
        if count_module(student, dataset.input).macs > limit:
            return None
        student = trained(setup, student, epochs, way.rate, seed)
    else:
        student, whole = teacher, count_module(teacher, dataset.input).macs
        part = epochs / (way.steps + 1) if way.steps > 1 else 0.0
        for step in range(1, way.steps + 1):
            student = cut_to(student, way, whole * (limit / whole) ** (step / way.steps), dataset)
            left = part if step < way.steps else epochs - part * (way.steps - 1)
            student = trained(setup, student, left, way.rate, seed)
    counts = count_module(student, dataset.input)
    return {
        "test": accuracy(*training.predict(student, dataset.test, dataset.input.size)),
        "params": counts.params,
        "macs": counts.macs,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Measures every way with every seed, and writes what is done after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("teacher")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--cache", type=Path, default=Path("studies/.cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    data = load_data(options.data, device=device, seed=0, image_size=options.image_size)
    frozen = load_teacher(options.teacher, data, device=device)
    whole = frozen.module
    assert isinstance(whole, Classifier)
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for limit in LIMITS:
        for name, way in WAYS.items():
            for seed in options.seeds:
                recipe = load_recipe(None, {"seed": seed})
                teachers = TeacherPool(
                    data, frozen, {}, no_further, options.cache, lambda count, spent: None, print
                )
                setup = open_setup(recipe.final, recipe, teachers)
                row = measured(setup, copy.deepcopy(whole), way, limit, options.epochs, seed)
                if row is not None:
                    rows.append({"way": name, "limit": limit, "seed": seed, **row})
                    print(json.dumps(rows[-1]), flush=True)
            figures = {"epochs": options.epochs, "rows": rows, "machine": machine()}
            (HERE / "pruned.json").write_text(json.dumps(figures, indent=1) + "\n")
    for limit in LIMITS:
        for name in WAYS:
            tests = [r["test"] for r in rows if (r["way"], r["limit"]) == (name, limit)]
            if tests:
                print(f"{limit / 1e6:.1f} M, {name}: {statistics.fmean(tests):.4f}")


if __name__ == "__main__":
    main()
