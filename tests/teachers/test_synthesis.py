"""Images from a tiny teacher with batch norm, trained here on three bright bars."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import Classifier
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.synthesis import (
    LossWeights,
    Progress,
    batch_norm_loss,
    diversity_loss,
    record_moments,
    synthesise,
)

CLASSES = 3


def bars(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    images = 0.3 * torch.rand(count, 1, 16, 16, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 + 4 * int(label) : 6 + 4 * int(label), 3:13] += 0.6
    return images, labels


def as_teacher(module: nn.Module) -> Teacher:
    module = module.eval().requires_grad_(False)
    return Teacher("tiny", module, Input(1, 16, 16), CLASSES, weights_hash(module), {})


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )
    module = Classifier(net, (0.22,), (0.22,))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        images, labels = bars(48, generator)
        optimiser.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    return as_teacher(module)


def small(teacher: Teacher, **more: object) -> tuple[Tensor, Tensor]:
    settings = {"count": 40, "steps": 30, "seed": 0, "batch": 16, **more}
    return synthesise(teacher, **settings)  # type: ignore[arg-type]


def test_the_loss_of_a_batch_norm_worked_by_hand() -> None:
    layer = nn.BatchNorm2d(2, eps=0.0).eval()
    layer.running_mean.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[union-attr]
    layer.running_var.copy_(torch.tensor([4.0, 1.0]))  # type: ignore[union-attr]
    first = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)  # mean 3, variance 4
    second = torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1)  # mean 0, variance 4
    with record_moments(layer) as moments:
        layer(torch.cat([first, second], dim=1))
    # (4/4 + 2²/4 - 1 - log 1) / 2 = 1/2 and (4/1 + 0 - 1 - log 4) / 2.
    expected = (0.5 + (3 - math.log(4)) / 2) / 2
    assert float(batch_norm_loss(moments)) == pytest.approx(expected)


def test_it_is_nothing_for_what_the_layers_remember_and_for_no_layers() -> None:
    layer = nn.BatchNorm1d(3, momentum=1.0)
    rows = torch.randn(50, 3)
    layer.train()(rows)
    layer.eval().running_var.mul_(49 / 50)  # type: ignore[union-attr] # they remember the unbiased one
    with record_moments(layer) as moments:
        layer(rows)
    assert float(batch_norm_loss(moments)) == pytest.approx(0, abs=1e-6)
    assert float(batch_norm_loss([])) == 0


def test_gradients_reach_every_pixel(teacher: Teacher) -> None:
    images = torch.rand(8, 1, 16, 16, requires_grad=True)
    with record_moments(teacher.module) as moments:
        teacher.module(images)
        (gradient,) = torch.autograd.grad(batch_norm_loss(moments), images)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99


def test_diversity_is_lacking_by_log_k_where_one_class_is_all() -> None:
    assert float(diversity_loss(torch.tensor([[90.0, 0.0], [90.0, 0.0]]))) == pytest.approx(
        math.log(2)
    )
    assert float(diversity_loss(torch.tensor([[90.0, 0.0], [0.0, 90.0]]))) == pytest.approx(
        0, abs=1e-6
    )


def test_images_are_uint8_balanced_and_taken_for_their_classes(teacher: Teacher) -> None:
    images, labels = small(teacher, steps=80)
    assert images.dtype == torch.uint8 and images.shape == (40, 1, 16, 16)
    assert images.device.type == labels.device.type == "cpu"
    assert int(images.max()) - int(images.min()) > 100
    assert labels.dtype == torch.int64 and labels.bincount().tolist() == [14, 13, 13]
    assert (teacher.logits(images).argmax(1) == labels).float().mean() > 0.9


def test_batch_norms_see_what_they_remember_more_than_in_noise(teacher: Teacher) -> None:
    images, _ = small(teacher, count=64, steps=80, batch=64)
    losses = []
    for batch in (images, torch.randint(256, images.shape, dtype=torch.uint8)):
        with record_moments(teacher.module) as moments:
            teacher.module(batch)
        losses.append(float(batch_norm_loss(moments)))
    assert losses[0] < losses[1] / 10


def test_images_of_a_class_differ(teacher: Teacher) -> None:
    images, labels = small(teacher)
    same_class = images[labels == 0].float().flatten(1)
    assert torch.pdist(same_class).min() > 100


def test_the_teacher_is_left_as_it_was(teacher: Teacher) -> None:
    state = {name: tensor.clone() for name, tensor in teacher.module.state_dict().items()}
    small(teacher)
    after = teacher.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in state.items())
    assert weights_hash(teacher.module) == teacher.weights_hash
    assert not any(part.training or part._forward_pre_hooks for part in teacher.module.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())


def test_hooks_are_off_after_an_error(teacher: Teacher) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(teacher, on_progress=stop)
    assert not any(part._forward_pre_hooks for part in teacher.module.modules())


def test_same_seed_same_images(teacher: Teacher) -> None:
    first, again, other = small(teacher), small(teacher), small(teacher, seed=1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_more_images_begin_with_the_fewer(teacher: Teacher) -> None:
    few, more = small(teacher, count=20), small(teacher, count=40)
    assert torch.equal(few[0], more[0][:20]) and torch.equal(few[1], more[1][:20])


def test_interrupted_and_resumed_equals_whole(teacher: Teacher, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.images == 16 and progress.step == 25:  # within the second batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(teacher, folder=tmp_path, on_progress=stop)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    reports: list[Progress] = []
    resumed = small(teacher, folder=tmp_path, on_progress=reports.append)
    assert reports[0].images == 16 and math.isnan(reports[0].loss)  # read
    assert reports[-1].images == 40 and math.isfinite(reports[-1].loss)  # made
    whole = small(teacher)
    assert torch.equal(resumed[0], whole[0]) and torch.equal(resumed[1], whole[1])


def test_a_second_call_only_reads(teacher: Teacher, tmp_path: Path) -> None:
    first = small(teacher, folder=tmp_path)
    reports: list[Progress] = []
    again = small(teacher, folder=tmp_path, on_progress=reports.append)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert [report.images for report in reports] == [16, 32, 40]
    assert all(math.isnan(report.loss) for report in reports)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_spoilt_file_is_made_anew(teacher: Teacher, tmp_path: Path) -> None:
    first = small(teacher, folder=tmp_path)
    path = sorted(tmp_path.rglob("*.npz"))[1]
    path.write_bytes(path.read_bytes()[:200])
    again = small(teacher, folder=tmp_path)
    assert torch.equal(first[0], again[0])


def test_other_settings_lie_elsewhere(teacher: Teacher, tmp_path: Path) -> None:
    small(teacher, count=16, folder=tmp_path)
    small(teacher, count=16, folder=tmp_path, weights=LossWeights(diversity=0.1))
    small(teacher, count=16, folder=tmp_path, seed=1)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_teacher_without_batch_norm_works_and_is_told_of() -> None:
    torch.manual_seed(0)
    teacher = as_teacher(nn.Sequential(nn.Flatten(), nn.LayerNorm(256), nn.Linear(256, CLASSES)))
    reports: list[Progress] = []
    images, labels = small(teacher, steps=80, on_progress=reports.append)
    assert "no batch norm" in reports[0].warning
    assert not any(report.warning for report in reports[1:])
    assert (teacher.logits(images.float() / 255).argmax(1) == labels).float().mean() > 0.9


def test_a_loss_that_is_not_finite_is_told_of() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, CLASSES))
    module[1].weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="the loss became nan by step 25"):
        small(as_teacher(module))


@pytest.mark.parametrize("wrong", [{"count": 0}, {"steps": 0}, {"batch": 1}])
def test_numbers_that_make_no_sense_are_refused(teacher: Teacher, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        small(teacher, **wrong)
