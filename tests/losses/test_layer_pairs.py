"""Pairs of layers, and the shapes in which they are compared."""

from __future__ import annotations

import pytest
import torch
from model_helpers import GREY, bound, conv, former, loss_of, term
from torch import nn

from nasdistill.losses.features import Features
from nasdistill.losses.layer_pairs import (
    OnLayers,
    Pair,
    as_map,
    as_maps,
    at_one_size,
    by_depth,
    projector,
)
from nasdistill.models.hooks import LayerError, summarise


@pytest.mark.parametrize(
    ("count", "share", "kept"),
    [
        # Six layers against twelve: 0, 2.2, 4.4, 6.6, 8.8, 11 rounded.
        (6, 0.04, [(0, 0), (1, 2)]),  # small: the first third
        (6, 0.1, [(2, 4), (3, 7)]),  # middle-sized: the middle third
        (6, 0.3, [(0, 0), (5, 11)]),  # large: first and last
        (3, 0.01, [(0, 0)]),
        (3, 0.19, [(1, 6)]),
        (3, 0.2, [(0, 0), (2, 11)]),
        (1, 0.01, [(0, 11)]),
        (1, 0.9, [(0, 11)]),
        (2, 0.05, [(0, 0)]),
    ],
)
def test_pairs_by_depth_and_size(count: int, share: float, kept: list[tuple[int, int]]) -> None:
    assert by_depth(range(count), range(12), share) == kept


def layer_names(made: object) -> list[tuple[str, tuple[str, ...]]]:
    assert isinstance(made, OnLayers)
    return [(pair.student, pair.teachers) for pair in made.pairs]


def test_auto_follows_the_size_of_the_student() -> None:
    teacher = conv((24, 32, 48))
    for widths, first in (((2, 3, 4), 0), ((6, 8, 10), 1)):
        student = conv(widths)
        share = sum(p.numel() for p in student.parameters()) / sum(
            p.numel() for p in teacher.parameters()
        )
        assert (share < 1 / 20, share < 1 / 5) == (first == 0, True)
        pair = (f"stages.{first}", (f"stages.{first}",))
        assert layer_names(bound(term("features"), student, teacher)) == [pair]
    pairs = layer_names(bound(term("features"), conv((16, 24, 32)), teacher))
    assert pairs == [(f"stages.{i}", (f"stages.{i}",)) for i in (0, 2)]
    assert layer_names(bound(term("rkd"), conv((2, 3, 4)), teacher)) == [
        ("stages.2", ("stages.2",))
    ]


def test_two_blocks_of_a_teacher_for_each_of_the_students() -> None:
    pairs: dict[int, list[int]] = {i: [2 * i, 2 * i + 1] for i in range(6)}
    student, teacher = former(2, 4, 6), former(2, 8, 12, seed=1)
    for combine, width in (("mean", 16), ("concat", 32)):
        made = bound(term("features", layers=pairs, combine=combine), student, teacher)
        assert layer_names(made) == [
            (f"blocks.{i}", (f"blocks.{2 * i}", f"blocks.{2 * i + 1}")) for i in range(6)
        ]
        helpers = made.auxiliary()
        assert isinstance(helpers, nn.ModuleDict) and len(helpers) == 6
        assert {tuple(p.shape) for p in helpers.parameters()} == {(width, 8, 1, 1)}
        images = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
        loss = loss_of(made, student, teacher, images, helpers)
        with torch.no_grad():
            a, b = ({}, {})
            for model, read in ((student, a), (teacher, b)):
                x = model.net.stem((images / 255 - 0.4) / 0.25).flatten(2).transpose(1, 2)
                x = x + model.net.positions
                for number, block in enumerate(model.net.blocks):
                    x = read[number] = block(x)
            worked = []
            for i in range(6):
                two = (b[2 * i], b[2 * i + 1])
                theirs = sum(two) / 2 if combine == "mean" else torch.cat(two, dim=2)
                mine = a[i] @ helpers[str(i)].weight[:, :, 0, 0].T
                worked.append((mine - theirs).square().mean(dim=(1, 2)))
        torch.testing.assert_close(loss, sum(worked) / 6, rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_there_are_told_with_those_that_are() -> None:
    student, teacher = conv(), conv((6, 10, 12))
    with pytest.raises(LayerError, match="the student has no layer 7: its 3 layers are 0 stages.0"):
        bound(term("features", layers={7: 0}), student, teacher)
    with pytest.raises(LayerError, match=r"the teacher has no layer 'stges.1'; did you mean 'stag"):
        bound(term("features", layers={0: "stges.1"}), student, teacher)
    with pytest.raises(LayerError, match=r"different channels \(\(6, 8, 8\) and \(10, 4, 4\)\)"):
        bound(term("features", layers={0: [0, 1]}), student, teacher)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    with pytest.raises(LayerError, match="the student has no layers that could be found"):
        bound(term("features"), flat, teacher)
    with pytest.raises(LayerError, match="features needs a teacher whose layers can be read"):
        term("features").bind(summarise(student, "student", GREY), None)


def test_tokens_are_laid_out_in_a_square() -> None:
    tokens = torch.arange(8.0).reshape(1, 4, 2)
    assert as_map(tokens).tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]
    with_class = torch.cat([torch.full((1, 1, 2), -1.0), tokens], dim=1)
    assert torch.equal(as_map(with_class), as_map(tokens))
    assert as_map(torch.zeros(3, 7, 2)).shape == (3, 2, 7, 1)
    assert as_map(torch.zeros(3, 5)).shape == (3, 5, 1, 1)
    assert as_map(torch.zeros(3, 1, 5)).shape == (3, 5, 1, 1)


def test_tokens_of_the_same_number_stay_as_they_are() -> None:
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    mine, theirs = as_maps(student.half(), [teacher], "mean")
    assert mine.shape == (2, 3, 5, 1) and theirs.shape == (2, 4, 5, 1)
    assert mine.dtype == torch.float32
    mine, theirs = as_maps(student, [torch.randn(2, 4, 4)], "mean")
    assert mine.shape == (2, 3, 2, 2) and theirs.shape == (2, 4, 2, 2)


def test_several_maps_meet_at_the_size_of_the_first() -> None:
    first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    second = torch.arange(16.0).reshape(1, 1, 4, 4)
    pooled = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    _, mean = as_maps(first, [first, second], "mean")
    assert torch.equal(mean, (first + pooled) / 2)
    _, joined = as_maps(first, [first, second], "concat")
    assert torch.equal(joined, torch.cat([first, pooled], dim=1))


def test_sizes_meet_by_pooling_or_by_interpolation() -> None:
    small, large = torch.zeros(1, 1, 2, 2), torch.arange(16.0).reshape(1, 1, 4, 4)
    means = [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert at_one_size(small, large)[1].tolist() == means
    assert at_one_size(large, small)[0].tolist() == means
    mine, theirs = at_one_size(small, large, "bilinear")
    assert mine is small and theirs.tolist() == means  # midway between four pixels
    mine, theirs = at_one_size(large, torch.tensor([[[[0.0, 4.0]]]]).expand(1, 1, 2, 2), "bilinear")
    assert mine is large and theirs[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_a_projector_only_where_channels_differ() -> None:
    alike = Pair("a", ("b",), (4, 8, 8), ((4, 2, 2),))
    assert projector(alike, "mean") is None and Features().helper(alike) is None
    tokens = Pair("a", ("b", "c"), (16, 5), ((17, 7), (17, 7)))
    for combine, shape in (("mean", (7, 5, 1, 1)), ("concat", (14, 5, 1, 1))):
        helper = projector(tokens, combine)  # type: ignore[arg-type]
        assert isinstance(helper, nn.Conv2d) and tuple(helper.weight.shape) == shape
        assert helper.bias is None
