"""Pairs of layers, and the shapes in which they are compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_helpers import GREY, bound, conv, former, loss_of, pictures, term
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.losses.features import Features
from nasdistill.losses.layer_pairs import (
    OnLayers,
    Pair,
    as_map,
    at_one_size,
    by_depth,
    projector,
)
from nasdistill.models import Classifier
from nasdistill.models.hooks import LayerError, forward, summarise
from nasdistill.teachers.pretrained import LogitsOnly


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
    for special in (1, 2, 5):
        before = torch.full((1, special, 2), -1.0)
        assert torch.equal(as_map(torch.cat([before, tokens], dim=1), special), as_map(tokens))
    assert as_map(torch.zeros(3, 7, 2)).shape == (3, 2, 7, 1)
    assert as_map(torch.zeros(3, 8, 2), 1).shape == (3, 2, 7, 1)
    assert as_map(torch.zeros(3, 5)).shape == (3, 5, 1, 1)
    assert as_map(torch.zeros(3, 1, 5)).shape == (3, 5, 1, 1)


def pair_of(student: Tensor, *teachers: Tensor, special: tuple[int, int] = (0, 0)) -> Pair:
    """A pair of layers with these outputs, and so many special tokens on each side."""
    shapes = tuple(tuple(t.shape[1:]) for t in teachers)
    names = tuple(f"b{i}" for i in range(len(teachers)))
    of_teacher = (special[1],) * len(teachers)
    return Pair("a", names, tuple(student.shape[1:]), shapes, special[0], of_teacher)


def test_tokens_of_the_same_number_stay_as_they_are() -> None:
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    for special in (0, 1):
        alike = pair_of(student, teacher, special=(special, special))
        mine, theirs = alike.maps(student.half(), [teacher], "mean")
        assert mine.shape == (2, 3, 5, 1) and theirs.shape == (2, 4, 5, 1)
        assert mine.dtype == torch.float32 and alike.places == 5
    other = torch.randn(2, 4, 4)
    mine, theirs = pair_of(student, other, special=(1, 0)).maps(student, [other], "mean")
    assert mine.shape == (2, 3, 2, 2) and theirs.shape == (2, 4, 2, 2)
    # Nine patches against four and five registers: as many tokens, but not the same.
    student, teacher = torch.randn(2, 9, 3), torch.randn(2, 9, 4)
    unlike = pair_of(student, teacher, special=(0, 5))
    mine, theirs = unlike.maps(student, [teacher], "mean")
    assert mine.shape == (2, 3, 3, 3) and theirs.shape == (2, 4, 2, 2) and unlike.places == 4


def transformer(kind: str) -> nn.Module:
    """A small transformer of a library, of 4x4 patches."""
    torch.manual_seed(0)
    if kind.startswith("transformers"):
        library = pytest.importorskip("transformers")
        name = kind.split()[1]
        config = getattr(library, f"{name}Config")(
            image_size=16,
            patch_size=4,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=3,
        )
        made = getattr(library, f"{name}ForImageClassification")(config)
        return Classifier(LogitsOnly(made), (0.4,) * 3, (0.25,)).eval()
    library = pytest.importorskip("timm.models")
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    more: dict[str, Any] = {"class token": {}, "registers": {"reg_tokens": 4}}.get(kind, {})
    if kind == "registers alone":
        more = {"reg_tokens": 4, "class_token": False, "global_pool": "avg"}
    of = library.deit if kind == "distillation token" else library.vision_transformer
    name = "VisionTransformerDistilled" if kind == "distillation token" else "VisionTransformer"
    net = getattr(of, name)(num_classes=3, **sizes, **more)
    return Classifier(net, (0.4,) * 3, (0.25,)).eval()


@pytest.mark.parametrize(
    ("kind", "special"),
    [
        ("class token", 1),
        ("distillation token", 2),
        ("registers", 5),
        ("registers alone", 4),
        ("transformers ViT", 1),
        ("transformers DeiT", 2),
        ("transformers Dinov2WithRegisters", 5),
    ],
)
def test_special_tokens_of_libraries_are_left_out(kind: str, special: int) -> None:
    colour = Input(3, 16, 16)
    student, teacher = conv((4, 6, 8), channels=3), transformer(kind)
    summary = summarise(teacher, "teacher", colour)
    last = summary.blocks[-1]
    assert summary.shapes[last] == (16 + special, 24) and summary.special_tokens(last) == special
    for name in ("features", "attention", "gram", "nst", "similarity"):
        made = bound(term(name, layers={1: -1}), student, teacher, colour)
        assert isinstance(made, OnLayers) and made.pairs[0].places == 16
        images = pictures(3, colour)
        with torch.no_grad():
            read = forward(teacher, images, made.teacher_layers)
            (tokens,) = read.features.values()
            _, theirs = made.pairs[0].maps(torch.zeros(3, 6, 4, 4), [tokens], "mean")
        assert torch.equal(theirs, tokens[:, special:].mT.reshape(3, 24, 4, 4))
    for of in ("matrices", "values"):
        learner = former(2, 6, 2, input=colour)
        made = bound(term("attention", of=of, loss="kl"), learner, teacher, colour)
        assert loss_of(made, learner, teacher, pictures(3, colour)).min() > 0


def test_the_number_of_special_tokens_is_guessed_where_a_model_does_not_tell() -> None:
    class Bare(nn.Module):
        """Puts tokens before its patches that are no parameters."""

        def __init__(self, special: int) -> None:
            super().__init__()
            self.special, self.blocks = special, nn.Sequential(nn.Linear(16, 8))
            self.head = nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            patches = nn.functional.unfold(images.float(), 4, stride=4).mT
            logits: Tensor = self.head(
                self.blocks(nn.functional.pad(patches, (0, 0, self.special, 0))).mean(dim=1)
            )
            return logits

    for special in (0, 1, 2, 4, 5):
        summary = summarise(Bare(special), "teacher", GREY)
        assert summary.special is None and summary.special_tokens("blocks.0") == special
    assert summarise(Bare(3), "teacher", GREY).special_tokens("blocks.0") == 0


@pytest.mark.parametrize("name", ["attention", "gram", "nst"])
def test_a_single_place_has_nothing_to_relate(name: str) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3))
    advice = r"Name layers whose maps are larger than 1x1, or use features, similarity, rkd or crd"
    for student, teacher, layers in (
        (flat, flat, {0: 0}),
        (flat, conv(), {0: 0}),
        (conv(), flat, {0: 0}),
        (conv((4, 6, 8, 8, 8)), conv((4, 6, 8, 8, 8)), {"stages.4": "stages.4"}),  # 1x1
    ):
        with pytest.raises(LayerError, match=f"{name} relates the places of a map.*{advice}"):
            bound(term(name, layers=layers), as_float(student), as_float(teacher))
        for other in ("features", "similarity", "rkd", "crd"):
            bound(term(other, layers=layers), as_float(student), as_float(teacher))


def as_float(model: nn.Module) -> nn.Module:
    return model if isinstance(model, Classifier) else Classifier(model, (0.4,), (0.25,))


def test_several_maps_meet_at_the_size_of_the_first() -> None:
    first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    second = torch.arange(16.0).reshape(1, 1, 4, 4)
    pooled = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    pair = pair_of(first, first, second)
    _, mean = pair.maps(first, [first, second], "mean")
    assert torch.equal(mean, (first + pooled) / 2)
    _, joined = pair.maps(first, [first, second], "concat")
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
