"""Tiny models, batches and runs that the tests of terms and teachers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.data import Batch, Dataset
from nasdistill.losses import Objective, Term, objective_of
from nasdistill.losses.layer_pairs import OnLayers
from nasdistill.models import Classifier, vit
from nasdistill.models.hooks import Outputs, forward, summarise
from nasdistill.recipe import ObjectiveOptions
from nasdistill.space import Architecture
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.targets import TeacherTargets
from nasdistill.training import BatchStream, LRSchedule, Run, seed_weights

GREY = Input(channels=1, height=16, width=16)
PACE = LRSchedule(0.01, 100, None, 2000)


class Net(nn.Module):
    """Three resolutions; batch norm and dropout."""

    def __init__(self, widths: Sequence[int], classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        inside = [channels, *widths]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
            )
            for a, b in zip(inside, inside[1:], strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(self.dropout(x.mean(dim=(2, 3))))
        return logits


def conv(
    widths: Sequence[int] = (4, 6, 8),
    *,
    classes: int = 3,
    seed: int = 0,
    channels: int = 1,
    dropout: float = 0.0,
    mean: float = 0.4,
) -> Classifier:
    seed_weights(seed, "conv", tuple(widths))
    return Classifier(Net(widths, classes, channels, dropout), (mean,) * channels, (0.25,))


def former(
    heads: int = 2,
    head_width: int = 8,
    depth: int = 3,
    *,
    classes: int = 3,
    seed: int = 0,
    tokens: int = 4,
    input: Input = GREY,
) -> Classifier:
    """One of our vision transformers, with attention that is far from even."""
    seed_weights(seed, "former", heads, depth)
    values = {
        "tokens": tokens,
        "stem": {"type": "patch"},
        "heads": heads,
        "head_width": head_width,
        "depth": depth,
        "mlp_ratio": 2,
    }
    net = vit.build(Architecture("vit", values), input, classes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Classifier(net, (0.4,) * input.channels, (0.25,))


def objective(*terms: Mapping[str, Any], **more: Any) -> Objective:
    """The objective that a recipe with these terms describes."""
    return objective_of(ObjectiveOptions.model_validate({"terms": list(terms), **more}))


def term(name: str, **options: Any) -> Term:
    """A term as a recipe makes it, not yet bound."""
    return objective({"term": "labels"}, {"term": name, **options}).terms[-1].term


def batch_of(images: Tensor, classes: int = 3) -> Batch:
    ids = torch.arange(len(images))
    return Batch(images, ids % classes, ids, ids, 0)


def pictures(count: int = 6, input: Input = GREY, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, input.channels, *input.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def compared(
    made: OnLayers,
    student: Tensor,
    teacher: Tensor,
    helper: nn.Module | None = None,
    progress: float = 0.0,
    labels: Tensor | None = None,
) -> Tensor:
    """The loss of one pair of maps, as `OnLayers` compares them; no class twice by default."""
    ids = torch.arange(len(student))
    batch = Batch(student, ids if labels is None else labels, ids, ids, 0)
    return made.compare(student.float(), teacher.float(), batch, helper, progress)


def bound(made: Term, student: nn.Module, teacher: nn.Module, input: Input = GREY) -> Term:
    return made.bind(summarise(student, "student", input), summarise(teacher, "teacher", input))


def loss_of(
    made: Term,
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    auxiliary: nn.Module | None = None,
    progress: float = 0.0,
) -> Tensor:
    """The loss of a bound term on some images."""
    student_outputs = forward(student, images, made.student_layers)
    with torch.no_grad():
        teacher_outputs = forward(teacher, images, made.teacher_layers)
    return made(student_outputs, teacher_outputs, batch_of(images), progress, auxiliary)


def outputs(**features: Tensor) -> Outputs:
    count = len(next(iter(features.values())))
    return Outputs(torch.zeros(count, 3), features)


def teacher_of(module: nn.Module, input: Input = GREY, classes: int = 3) -> Teacher:
    frozen = module.eval().requires_grad_(False)
    return Teacher("it", frozen, input, classes, weights_hash(frozen), {})


def run_of(
    data: Dataset,
    students: Sequence[nn.Module],
    objective: Objective,
    teachers: Mapping[str, TeacherTargets] | None = None,
    *,
    horizon: int = 500,
    seed: int = 3,
) -> Run:
    return Run(
        students,
        BatchStream(data, 50, 2, 7),
        objective,
        horizon=horizon,
        lr_schedule=PACE,
        seed=seed,
        targets=teachers,
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    tensors = (key for key in left if isinstance(left[key], Tensor))
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) for key in tensors
    )


class Shuffled(nn.Module):
    """Channels in another order, which tracing does not see."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 32, 1), nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x).flip(1)).mean((2, 3)))
        return logits
