"""How large each term's loss and gradient are: what weights have to bring together.

The student of `benchmarks/methods.py` is distilled for 60 steps on labels, `kl` and hardly any of
one more term; then that term's loss and the norm of its gradient by the student's parameters are
averaged over two batches. One seed: orders of magnitude. Printed is the table of docs/methods.md.

    python benchmarks/sizes.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import no_further, quick_precision
from methods import BATCH, KL, LABELS, RATE, ROOT, STUDENT

from nasdistill import training
from nasdistill.data import load_data
from nasdistill.losses import Objective
from nasdistill.recipe import load_recipe
from nasdistill.space import Architecture
from nasdistill.teachers import load_teacher
from nasdistill.training import LRSchedule, Run
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import TrainingSetup, open_setup

STEPS = 60
LITTLE = 1e-4
OTHERS: dict[str, dict[str, Any]] = {
    name: {"term": name, "weight": LITTLE}
    for name in (
        "reverse_kl",
        "js",
        "soft_ce",
        "mse_logits",
        "dkd",
        "dist",
        "features",
        "attention",
        "gram",
        "nst",
        "similarity",
        "rkd",
        "crd",
        "exits",
    )
}
OTHERS["dkd"]["others"] = 2


def measure(setup: TrainingSetup, run: Run, term: int) -> tuple[float, float]:
    """Loss and gradient norm of one term, the mean over two batches after `STEPS`."""
    for _ in training.train(run, STEPS * BATCH):
        pass
    only = Objective([*run.objective.terms])
    run.objective = Objective(
        [item if i == term else _off(item) for i, item in enumerate(only.terms)]
    )
    losses, norms = [], []
    plan = setup.stream.plan(STEPS, STEPS + 2)
    for batch in setup.stream.dataset.train.batches(plan, run.size, run.sizes):
        loss = run.loss(batch)
        gradients = torch.autograd.grad(loss, list(run.student.parameters()), allow_unused=True)
        weight = only.terms[term].weight(0.0)
        losses.append(float(loss.detach()) / weight)
        norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
        norms.append(float(norm) / weight)
    return fmean(losses), fmean(norms)


def _off(item: Any) -> Any:
    return type(item)(item.term, lambda progress: 0.0, item.teacher)


def main() -> None:
    """Measures every term and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", default=str(ROOT / "studies" / ".cache"))
    cache = Path(parser.parse_args().cache)
    device = torch.device("cpu")
    data = load_data("fashion-mnist-mini", device=device)
    teacher = load_teacher("shipped", data, device=device)
    teacher.precision = quick_precision(teacher)
    architecture = Architecture.from_json(json.dumps(STUDENT))
    print("| term | loss | gradient |\n|---|---|---|")
    cases = [("labels", OTHERS["js"], 0), ("kl", OTHERS["js"], 1)]
    cases += [(name, other, 2) for name, other in OTHERS.items()]
    for name, other, term in cases:
        options = {"final": {"terms": [LABELS, KL, other]}, "batch_size": BATCH, "views": 1}
        recipe = load_recipe(None, options)
        teacher_pool = TeacherPool(
            data, teacher, {}, no_further, cache, lambda count, spent: None, print
        )
        setup = open_setup(recipe.final, recipe, teacher_pool)
        total = 936 * BATCH
        run = setup.run(
            setup.students(architecture, data, 0),
            horizon=total,
            lr_schedule=LRSchedule(RATE, 156 * BATCH, None, total),
            seed=0,
            precision="fp32",
        )
        setup.prepare((STEPS + 2) * BATCH, 0)
        loss, norm = measure(setup, run, term)
        print(f"| `{name}` | {loss:.1g} | {norm:.1g} |", flush=True)


if __name__ == "__main__":
    main()
