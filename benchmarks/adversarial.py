"""The student's side of `adversarial`: a reversed gradient, or the non-saturating loss.

The student of `methods.py` is distilled by labels, `kl` and `adversarial` with either form: the
gradient of D's own loss turned round (Ganin et al., 2016), which fades where D is sure, or
−log σ(D) (Goodfellow et al., 2014). Printed for each run: test accuracy, and of the last epoch the
loss of D (1.39 where it cannot tell, 0 where it is sure) and the slope of the student's loss by D's
answer.

    python benchmarks/adversarial.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import no_further
from methods import BATCH, KL, LABELS, RATE, STUDENT, VIEWS
from torch import Tensor, nn
from torch.func import functional_call

from nasdistill import training
from nasdistill.data import load_data
from nasdistill.losses import adversarial
from nasdistill.recipe import load_recipe
from nasdistill.space import Architecture
from nasdistill.teachers import load_teacher
from nasdistill.training import LRSchedule, predict
from nasdistill.training.metrics import accuracy
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import open_setup

EPOCHS, SEEDS = 2, (0, 1, 2)
TERMS: tuple[dict[str, Any], ...] = (
    {"on": "logits", "weight": 0.1},
    {"on": "features", "weight": 0.5},
)
REVERSED = adversarial._sides
losses: list[float] = []
slopes: list[float] = []


def non_saturating(judge: nn.Module, student: Tensor, teacher: Tensor, strength: float) -> Tensor:
    """Each side lowers a loss of its own; the student's does not move D."""
    of_student = judge(student.detach()).float().squeeze(1)
    of_teacher = judge(teacher).float().squeeze(1)
    fixed = {name: p.detach() for name, p in judge.named_parameters()}
    fooled = functional_call(judge, fixed, (student,)).float().squeeze(1)
    return F.softplus(of_student) + F.softplus(-of_teacher) + strength * F.softplus(-fooled)


def noted(form: Any) -> Any:
    """The same form, which notes D's loss and the size of the gradient by D's output."""

    def sides(judge: nn.Module, student: Tensor, teacher: Tensor, strength: float) -> Tensor:
        with torch.no_grad():
            says = judge(student).float().squeeze(1)
            own = F.softplus(says) + F.softplus(-judge(teacher).float().squeeze(1))
            slope = torch.sigmoid(says if form is REVERSED else -says)
        losses.append(float(own.mean()))
        slopes.append(float(slope.mean()))
        loss: Tensor = form(judge, student, teacher, strength)
        return loss

    return sides


def main() -> None:
    """Measures both forms on each kind of term."""
    torch.set_num_threads(1)
    device, architecture = torch.device("cpu"), Architecture.from_json(json.dumps(STUDENT))
    cache = Path(tempfile.mkdtemp())
    for term in TERMS:
        for form in (REVERSED, non_saturating):
            adversarial._sides = noted(form)
            for seed in SEEDS:
                final = {"terms": [LABELS, KL, {"term": "adversarial", **term}]}
                options = {"final": final, "seed": seed, "batch_size": BATCH, "views": VIEWS}
                recipe = load_recipe(None, options)
                data = load_data("fashion-mnist-mini", device=device, seed=seed)
                teacher = load_teacher("shipped", data, device=device, precision="fp32")
                pool = TeacherPool(
                    data, teacher, {}, no_further, cache, lambda count, spent: None, print
                )
                setup = open_setup(recipe.final, recipe, pool)
                total = EPOCHS * 156 * BATCH
                run = setup.run(
                    setup.students(architecture, data, seed),
                    horizon=total,
                    lr_schedule=LRSchedule(RATE, 156 * BATCH, 156 * BATCH, total),
                    seed=seed,
                    precision="fp32",
                )
                setup.prepare(total, 0)
                losses.clear()
                slopes.clear()
                for _ in training.train(run, total):
                    pass
                student = run.students[0].eval()
                right = accuracy(*predict(student, data.test, data.input.size))
                of_d, slope = (statistics.fmean(x[-156:]) for x in (losses, slopes))
                print(
                    f"{term}, {form.__name__}, seed {seed}: accuracy {right:.4f}, loss of D "
                    f"{of_d:.3f}, slope {slope:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
