from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from model_helpers import Shuffled
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.models.cut_check import wrong_groups
from nasdistill.models.pruning import counts_of, cut, narrowed, structure_of
from nasdistill.space import Architecture

INPUT = Input(3, 32, 32)
RESNET = Architecture(
    "resnet",
    {
        "stem": {"type": "conv3", "width": 16},
        "stages": [
            {"block": {"type": "basic"}, "width": 24, "depth": 2},
            {"block": {"type": "basic"}, "width": 48, "depth": 2},
        ],
    },
)


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, hidden, 1)
        self.narrow = nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.narrow(torch.relu(self.wide(x))))


def two_blocks() -> nn.Sequential:
    parts: dict[str, nn.Module] = {
        "stem": nn.Conv2d(3, 32, 3, 2, 1),
        "first": Block(32, 64),
        "second": Block(32, 48),
        "mix": nn.Conv2d(32, 40, 1),
        "norm": nn.BatchNorm2d(40),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(40, 5),
    }
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    return net.eval()


def test_the_channels_of_two_blocks() -> None:
    structure = structure_of(two_blocks(), INPUT)
    (stage,) = structure.stages
    assert [block.name for block in stage.blocks] == ["first", "second"]
    assert stage.outer == ("stem",)
    assert stage.inner == ("first.wide", "second.wide")
    assert dict(structure.layers) == {"mix": "mix"}
    assert structure.whole == {"head": "these are the logits"}
    sizes = {name: group.channels for name, group in structure.groups.items()}
    assert sizes == {"stem": 32, "first.wide": 64, "second.wide": 48, "mix": 40, "head": 5}


def test_a_cut_net_has_the_shapes_that_its_attributes_say() -> None:
    net = two_blocks()
    structure = structure_of(net, INPUT)
    stages = [{"outer": 0.5, "inner": 0.25, "depth": 1}]
    kept = cut(net, structure, {"stages": stages, "layers": {"mix": 0.3}})
    # Multiples of 8, and never fewer: 0.25 of 48 is 12, 0.3 of 40 is 12, and 12 becomes 16.
    counts = {name: len(units) for name, units in kept.items()}
    assert counts == {"stem": 16, "first.wide": 16, "second.wide": 16, "mix": 16}
    first: Any = net.get_submodule("first")
    assert (first.wide.in_channels, first.wide.out_channels) == (16, 16)
    assert first.narrow.weight.shape == (16, 16, 3, 3)
    assert net.get_submodule("norm").num_features == 16
    assert net.get_submodule("head").in_features == 16
    assert not list(net.get_submodule("second").parameters())
    # stem 3·9·16+16, first 16·16+16 and 16·16·9+16, mix 16·16+16, norm 2·16, head 16·5+5
    assert sum(p.numel() for p in net.parameters()) == 448 + 272 + 2320 + 272 + 32 + 85
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_nothing_is_cut_where_all_is_kept() -> None:
    net = two_blocks()
    before = copy.deepcopy(net.state_dict())
    stages = [{"outer": 1.0, "inner": 1, "depth": 2}]
    assert cut(net, structure_of(net, INPUT), {"stages": stages, "layers": {}}) == {}
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_channels_that_nothing_reads_leave_the_logits_as_they_were() -> None:
    net = two_blocks()
    with torch.no_grad():
        for name in ("first.wide", "second.wide", "mix"):
            net.get_submodule(name).weight[8:] = 0  # type: ignore[operator]
            net.get_submodule(name).bias[8:] = 0  # type: ignore[operator]
        net.get_submodule("norm").bias[8:] = 0  # type: ignore[operator]
        net.get_submodule("norm").running_mean[8:] = 0  # type: ignore[operator]
    images = torch.randn(2, 3, 32, 32)
    expected = net(images)
    cut(net, structure_of(net, INPUT), {"stages": [{"inner": 0.01}], "layers": {"mix": 0.01}})
    assert net.get_submodule("mix").out_channels == 8
    torch.testing.assert_close(net(images), expected)


def test_the_highest_scores_are_kept_in_their_order() -> None:
    net = two_blocks()
    structure, whole = structure_of(net, INPUT), net.get_submodule("mix").weight.clone()  # type: ignore[operator]
    scores = torch.zeros(40)
    scores[[3, 30, 7, 8, 21, 39, 12, 5]] = torch.arange(1.0, 9.0)
    kept = cut(net, structure, {"layers": {"mix": 0.2}}, {"mix": scores})
    assert kept["mix"].tolist() == [3, 5, 7, 8, 12, 21, 30, 39]
    assert torch.equal(net.get_submodule("mix").weight, whole[kept["mix"]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "tf_efficientnet_lite0"),
        ("timm", "mobilenetv3_small_050"),
        ("timm", "ghostnet_100"),
        ("timm", "convnext_atto"),
        ("timm", "regnety_002"),
        ("timm", "mobilenetv4_conv_small"),
        ("timm", "lcnet_050"),
        ("torchvision", "mobilenet_v3_small"),
        ("torchvision", "resnet18"),
    ],
)
def test_cutting_what_nothing_reads_changes_nothing(library: str, name: str) -> None:
    from nasdistill.models import libraries

    make = libraries.timm_net if library == "timm" else libraries.torchvision_net
    net = make(name, 64, num_classes=4) if library == "timm" else make(name, 4, 64)
    structure = structure_of(net, Input(3, 64, 64))
    assert wrong_groups(net, structure, Input(3, 64, 64)) == {}
    assert set(structure.whole.values()) == {"these are the logits"}
    stages = [
        {"outer": 0.5, "inner": 0.5, "depth": stage.least_depth} for stage in structure.stages
    ]
    whole = sum(p.numel() for p in net.parameters())
    cut(net, structure, {"stages": stages, "layers": dict.fromkeys(structure.layers, 0.5)})
    assert net.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 4)
    assert sum(p.numel() for p in net.parameters()) < 0.5 * whole


def test_a_width_is_a_share_of_all_channels_wherever_they_are() -> None:
    structure = structure_of(build(RESNET, INPUT, 5), INPUT)
    counts = counts_of(structure, {"width": 0.5, "stages": [{"outer": 0.5}]})
    whole = {n: g.size for n, g in structure.groups.items() if not g.fixed}
    assert counts.keys() == whole.keys() and set(whole.values()) == {16, 24, 48}
    halves = {16: 8, 24: 16, 48: 24}  # multiples of 8; a quarter in the first stage's outer ones
    outer = set(structure.stages[0].outer)
    assert outer
    for name, count in counts.items():
        assert count == (8 if name in outer else halves[whole[name]]), name


def test_a_net_that_was_cut_is_cut_further_as_if_it_had_been_traced_anew() -> None:
    net = build(RESNET, INPUT, 5)
    whole = structure_of(net, INPUT)
    torch.manual_seed(0)
    scores = {name: torch.rand(group.size) for name, group in whole.groups.items()}
    kept = cut(net, whole, {"width": 0.75}, scores)
    now, traced = narrowed(whole, kept), structure_of(net, INPUT)
    assert now.groups.keys() == traced.groups.keys()
    for name, group in traced.groups.items():
        assert now.groups[name].size == group.size
        assert now.groups[name].members.keys() == group.members.keys()
        for side, member in group.members.items():
            own = now.groups[name].members[side]
            assert (own.channels == member.channels).all() and (own.units == member.units).all()
    direct = build(RESNET, INPUT, 5)
    keep = {"width": 0.5, "stages": [{}, {"inner": 0.5}]}
    cut(direct, whole, keep)
    cut(net, now, keep, whole=whole)
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (net, direct)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("distilled", [False, True])
def test_a_vision_transformer_is_cut_by_width_heads_and_layers(distilled: bool) -> None:
    import timm

    name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    net = timm.create_model(name, num_classes=4, img_size=32, depth=3)
    structure = structure_of(net, INPUT)
    (stage,) = structure.stages
    assert (len(stage.outer), len(stage.inner), len(stage.heads)) == (1, 3, 3)
    assert wrong_groups(net, structure, INPUT) == {}
    cut(net, structure, {"stages": [{"outer": 0.5, "inner": 0.25, "heads": 0.7, "depth": 2}]})
    attention: Any = net.get_submodule("blocks.0.attn")
    assert (attention.num_heads, attention.attn_dim) == (2, 128)
    assert attention.qkv.weight.shape == (3 * 128, 96)
    assert net.get_parameter("pos_embed").shape[-1] == 96
    assert net.get_submodule("blocks.1.mlp.fc1").out_features == 192
    assert net.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_a_transformer_of_transformers_is_cut_by_width_heads_and_layers(kind: str) -> None:
    config = {
        "model_type": kind,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "image_size": 32,
        "patch_size": 8,
    }
    net = build(Architecture("transformers", {"config": config}), INPUT, 4)
    structure = structure_of(net, INPUT)
    (stage,) = structure.stages
    assert (len(stage.outer), len(stage.inner), len(stage.heads)) == (1, 3, 3)
    assert wrong_groups(net, structure, INPUT) == {}
    cut(net, structure, {"stages": [{"outer": 0.5, "inner": 0.25, "heads": 0.5, "depth": 2}]})
    shapes = [v.shape for k, v in net.state_dict().items() if k.endswith("q_proj.weight")]
    assert shapes == [(32, 32)] * 2
    assert net.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 4)


def test_of_a_transformer_of_torchvision_only_perceptrons_and_layers_are_cut() -> None:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(32, 8, 12, 4, 64, 128, num_classes=4)
    for each in (net.heads.head, net.conv_proj):
        nn.init.normal_(each.weight)
    structure = structure_of(net, INPUT)
    (stage,) = structure.stages
    assert (len(stage.outer), len(stage.inner), len(stage.heads)) == (0, 12, 0)
    assert "MultiheadAttention, whose heads share the width" in structure.whole["conv_proj"]
    assert wrong_groups(net, structure, INPUT) == {}
    cut(net, structure, {"stages": [{"inner": 0.25, "depth": 5}]})
    assert net.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 4)


class Steep(nn.Module):
    """Makes ten million times as much of what its middle layer rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 2048, 1)
        self.narrow = nn.Conv2d(2048, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.wide(x)).mean(dim=(2, 3))
        return self.head(torch.sin(1e7 * x))


def test_rounding_is_not_taken_for_a_wrong_cut() -> None:
    net = Steep()
    structure = structure_of(net, INPUT)
    assert not structure.groups["wide"].fixed
    assert wrong_groups(net, structure, INPUT) == {}


def test_our_transformer_is_cut_like_any_other() -> None:
    values = {
        "tokens": 4,
        "stem": {"type": "convolutional", "channels": 16},
        "heads": 4,
        "head_width": 8,
        "depth": 2,
        "mlp_ratio": 2,
    }
    net = build(Architecture("vit", values), Input(1, 16, 16), 3)
    structure = structure_of(net, Input(1, 16, 16))
    assert wrong_groups(net, structure, Input(1, 16, 16)) == {}
    cut(net, structure, {"stages": [{"outer": 0.5, "heads": 0.75, "depth": 1}]})
    assert net.get_submodule("blocks.0.attention.q").weight.shape == (24, 16)
    assert net.eval()(torch.randn(1, 1, 16, 16)).shape == (1, 3)


def test_channels_that_do_not_belong_together_are_found_out() -> None:
    net = Shuffled(3, 4)
    wrong = wrong_groups(net, structure_of(net, INPUT), INPUT)
    assert wrong == {"first": "which of its channels belong together was not found"}


def test_tied_weights_are_left_whole() -> None:
    layers = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    net[2].weight = net[1].weight  # type: ignore[union-attr]
    whole = structure_of(net, INPUT).whole
    assert whole["0"] == "1 shares its weights with another layer"


def test_what_cannot_be_traced_is_named() -> None:
    class Sulks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not today")

    with pytest.raises(UserError, match=r"cannot be traced.*\(in module 1\): not today"):
        structure_of(nn.Sequential(nn.Conv2d(3, 8, 1), Sulks()), INPUT)


def test_the_module_is_named_whose_channels_cannot_be_followed() -> None:
    from nasdistill.models.libraries import torchvision_net

    net = torchvision_net("shufflenet_v2_x0_5", 4, 32)
    message = r"ShuffleNetV2 cannot be traced.*\(in module stage2, whose channels Torch-Prun"
    with pytest.raises(UserError, match=message):
        structure_of(net, INPUT)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"stages": [{"outer": 0}]}, r"keep.stages.0.outer: found 0, allowed: above 0, at most 1"),
        ({"stages": [{"outer": float("nan")}]}, "keep.stages.0.outer: found nan"),
        ({"stages": [{"depth": 0}]}, r"keep.stages.0.depth: found 0, allowed: 1 to 2"),
        ({"stages": [{}, {}]}, "a list of at most 1"),
        ({"stages": [{"width": 1}]}, "unknown key 'width'"),
        ({"layers": {"nose": 0.5}}, "no layer 'nose'"),
        ({"layers": {"mix": True}}, "found True"),
        ({"heads": 3}, "unknown key 'heads'"),
    ],
)
def test_what_does_not_fit_is_refused(keep: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counts_of(structure_of(two_blocks(), INPUT), keep)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UserError, match=r"pip install 'nasdistill\[pruning\]'"):
        structure_of(two_blocks(), INPUT)
