"""The channels of a net that its parts have kept, and the terms that compare just these."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_helpers import GREY, former, loss_of, pictures, term
from torch import Tensor, nn

from nasdistill.models import Classifier, build
from nasdistill.models.classifier import Kept
from nasdistill.models.hooks import forward, summarise
from nasdistill.models.kept import composed, giving_sides, kept_channels, kept_heads
from nasdistill.models.pruning import Structure, cut, narrowed, structure_of
from nasdistill.space import Architecture

BLOCK = {"type": "basic"}
RESNET = Architecture(
    "resnet",
    {
        "stem": {"type": "conv3", "width": 16},
        "stages": [
            {"block": BLOCK, "width": 24, "depth": 2},
            {"block": BLOCK, "width": 32, "depth": 3},
        ],
    },
)


def resnet() -> Classifier:
    """A teacher whose norms number their channels, so that a part of it shows what it kept."""
    torch.manual_seed(0)
    net = Classifier(build(RESNET, GREY, 3), (0.4,), (0.25,)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(torch.arange(1.0, module.num_features + 1) / 10)
    return net


def number_of(norm: nn.Module) -> Tensor:
    assert isinstance(norm, nn.BatchNorm2d)
    return (norm.weight * 10 - 1).round().long()


def drawn(structure: Structure, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(g.size, generator=generator) for n, g in structure.groups.items()}


def parts(teacher: Classifier, *keeps: Mapping[str, Any]) -> Classifier:
    """A part of a net, cut in some steps by scores drawn at random."""
    first = structure = structure_of(teacher.net, GREY)
    student, units = copy.deepcopy(teacher), dict[str, Tensor]()
    for number, keep in enumerate(keeps):
        kept = cut(student.net, structure, keep, drawn(structure, number), first)
        structure, units = narrowed(structure, kept), composed(units, kept)
    sides = giving_sides(teacher.net, first, GREY)
    channels = kept_channels(teacher.net, first, sides, units)
    student.kept = Kept("the teacher", channels, kept_heads(first, units))
    return student


def bound_to(made: Any, student: Classifier, teacher: Classifier, weights: str) -> Any:
    whole = replace(summarise(teacher, "teacher", GREY), weights=weights)
    return made.bind(summarise(student, "student", GREY), whole)


@pytest.mark.parametrize("steps", [[{"width": 0.5}], [{"width": 0.75}, {"width": 0.5}]])
def test_features_are_compared_in_the_channels_that_were_kept(steps: list[Any]) -> None:
    teacher = resnet()
    student, images = parts(teacher, *steps), pictures()
    made = bound_to(term("features"), student, teacher, "the teacher")
    assert [(pair.student, pair.teachers) for pair in made.pairs] == [
        ("stage0", ("stage0",)),
        ("stage1", ("stage1",)),
    ]
    assert made.matched_layers == ("stage0", "stage1")
    assert made.auxiliary() is None  # no projection is learned
    worked = []
    with torch.no_grad():
        own, whole = (forward(m, images, ("stage0", "stage1")).features for m in (student, teacher))
        for stage, norm in (("stage0", "stage0.1.body.4"), ("stage1", "stage1.2.body.4")):
            numbers = number_of(student.net.get_submodule(norm)).tolist()
            assert len(numbers) == 16 and numbers != list(range(16))
            apart = own[stage] - torch.stack([whole[stage][:, n] for n in numbers], dim=1)
            worked.append(apart.square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(loss_of(made, student, teacher, images), sum(worked) / 2)


def test_what_needs_no_equal_channels_sees_all_of_the_teachers() -> None:
    teacher = resnet()
    student, images = parts(teacher, {"width": 0.5}), pictures()
    made = bound_to(term("attention"), student, teacher, "the teacher")
    assert made.matched_layers == ("stage0", "stage1")
    worked = []
    with torch.no_grad():
        for stage in ("stage0", "stage1"):
            maps = (forward(m, images, (stage,)).features[stage] for m in (student, teacher))
            rows = (x.square().mean(dim=1).flatten(1) for x in maps)
            a, b = (x / x.norm(dim=1, keepdim=True) for x in rows)
            worked.append((a - b).square().mean(dim=1))
    torch.testing.assert_close(loss_of(made, student, teacher, images), sum(worked) / 2)


def test_another_teacher_and_named_layers_are_compared_as_ever() -> None:
    teacher = resnet()
    student = parts(teacher, {"width": 0.5})
    plain = copy.deepcopy(student)
    plain.kept = None
    named = term("features", layers={"stage0": "stage0"})
    for made in (
        bound_to(term("features"), student, teacher, "another"),
        bound_to(term("features"), student, teacher, ""),
        bound_to(term("features"), plain, teacher, "the teacher"),
        bound_to(named, student, teacher, "the teacher"),
    ):
        helpers = made.auxiliary()
        assert tuple(helpers["0"].weight.shape[:2]) == (24, 16)
        assert made.matched_layers == ()


def test_blocks_that_were_left_out_are_compared_with_nothing() -> None:
    teacher = former(4, 8, 4)
    student = parts(teacher, {"width": 0.5, "stages": [{"outer": 0.5, "depth": 3}]})
    summary = summarise(student, "student", GREY)
    assert summary.blocks == ("blocks.0", "blocks.1", "blocks.2")
    for name in ("features", "attention"):
        more: dict[str, Any] = {"of": "matrices"} if name == "attention" else {}
        made = bound_to(term(name, **more), student, teacher, "the teacher")
        matched = [layer.partition(".attention")[0] for layer in made.matched_layers]
        pairs = [(p.student, p.teachers) for p in made.pairs]
        if name == "features":
            assert pairs == [(layer, (layer,)) for layer in matched]
            assert made.auxiliary() is None
        assert set(matched) <= {"blocks.0", "blocks.1", "blocks.2"}


def test_the_heads_that_were_kept_are_compared_one_by_one() -> None:
    teacher = former(4, 8, 3)
    student = parts(teacher, {"stages": [{"heads": 0.5}]})
    assert isinstance(student.kept, Kept)
    made = bound_to(term("attention", of="matrices"), student, teacher, "the teacher")
    (kept,) = {
        tuple(p.heads.tolist()) for p in made.pairs if p.student.name == "blocks.0.attention"
    }
    # The first block sees the same input, and what its heads make of it is not cut.
    first = replace(made, pairs=made.pairs[:1])
    assert len(kept) == 2 and kept != (0, 1)
    assert float(loss_of(first, student, teacher, pictures()).detach().abs().max()) < 1e-6


def test_a_block_whose_channels_are_shuffled_at_its_end_is_left_to_a_projection() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(1, 16, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.body(x)).flip(1)

    def net(first: nn.Module) -> nn.Sequential:
        rest = nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(first, *rest, nn.Linear(16, 3)).eval()

    turned, plain = net(Turned()), net(nn.Conv2d(1, 16, 3, 2, 1))
    assert set(giving_sides(turned, structure_of(turned, GREY), GREY)) == {"2"}
    sides = giving_sides(plain, structure_of(plain, GREY), GREY)
    assert {block: side.name for block, side in sides.items()} == {"0": "0", "2": "1"}
