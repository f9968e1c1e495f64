"""Queries, keys and values: each library's attention, computed again from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

from nasdistill.common.types import Input
from nasdistill.losses.qkv import AttentionLayer, attention_layers, log_attention
from nasdistill.models import Classifier, vit
from nasdistill.models.hooks import LayerError, hooked
from nasdistill.space import Architecture

DEPTH, HEADS, WIDTH, SIDE = 3, 4, 32, 16


def ours() -> nn.Module:
    values = {"tokens": 4, "stem": {"type": "patch"}, "heads": HEADS, "head_width": WIDTH // HEADS}
    return vit.build(
        Architecture("vit", values | {"depth": DEPTH, "mlp_ratio": 2}),
        Input(height=SIDE, width=SIDE, channels=3),
        classes=5,
    )


def timm_model(**options: Any) -> nn.Module:
    library = pytest.importorskip("timm.models.vision_transformer")
    model: nn.Module = library.VisionTransformer(
        img_size=SIDE,
        patch_size=4,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=5,
        **options,
    )
    return model


def torchvision_model() -> nn.Module:
    model: nn.Module = VisionTransformer(SIDE, 4, DEPTH, HEADS, WIDTH, 64, num_classes=5)
    return model


def transformers_model(name: str, **options: Any) -> nn.Module:
    library = pytest.importorskip("transformers")
    sizes = {
        "image_size": SIDE,
        "patch_size": 4,
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 64,
        "num_labels": 5,
    }
    config = getattr(library, f"{name}Config")(**(sizes | options))
    suffix = "ForObjectDetection" if name == "Yolos" else "ForImageClassification"
    model: nn.Module = getattr(library, f"{name}{suffix}")(config)
    return model


# How to build a model, the name of its first attention, of that attention's last projection, and
# of the projection that its queries come from.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "ours": (ours, "blocks.0.attention", "out", "q.weight"),
    "ours in a Classifier": (
        lambda: Classifier(ours(), (0.5,) * 3, (0.2,) * 3),
        "blocks.0.attention",
        "out",
        "q.weight",
    ),
    "timm": (timm_model, "blocks.0.attn", "proj", "qkv.weight"),
    "timm, normed": (lambda: timm_model(qk_norm=True), "blocks.0.attn", "proj", "q_norm.weight"),
    "torchvision": (
        torchvision_model,
        "encoder.layers.encoder_layer_0.self_attention",
        "out_proj",
        "in_proj_weight",
    ),
    **{
        name: (
            lambda name=name: transformers_model(name),  # type: ignore[misc]
            f"{path}.0.attention",
            "o_proj",
            "q_proj.weight",
        )
        for name, path in (
            ("ViT", "vit.layers"),
            ("DeiT", "deit.layers"),
            ("Beit", "beit.layers"),
            ("Dinov2", "dinov2.encoder.layer"),
            ("Dinov2WithRegisters", "dinov2_with_registers.encoder.layer"),
            ("ViTMSN", "vit.layers"),
            ("IJepa", "ijepa.layers"),
        )
    },
    "Yolos": (
        lambda: transformers_model("Yolos", num_detection_tokens=2, image_size=[SIDE, SIDE]),
        "vit.encoder.layer.0.attention.attention",
        "",
        "query.weight",
    ),
}


def inner(model: nn.Module) -> nn.Module:
    return model.net if isinstance(model, Classifier) else model


def images() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def read(model: nn.Module) -> tuple[tuple[AttentionLayer, ...], dict[str, Tensor]]:
    """One forward pass, with all that all layers need, and each attention's output."""
    layers = attention_layers(model)
    names = [name for layer in layers for name in layer.layers]
    with hooked(model, [*names, *(layer.name for layer in layers)]) as features:
        model(images())
    return layers, features


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, str, str, str]:
    torch.manual_seed(0)
    build, first, out, query = MODELS[request.param]
    model = build()
    with torch.no_grad():  # so that attention is far from even
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)
            assert parameter.requires_grad, name
    return model.eval(), first, out, query


@pytest.mark.parametrize("graded", [True, False])
def test_attention_is_computed_again(case: tuple[nn.Module, str, str, str], graded: bool) -> None:
    model, _, out, _ = case
    with torch.set_grad_enabled(graded):
        layers, features = read(model)
    assert len(layers) == DEPTH
    for layer in layers:
        q, k, v = layer.qkv(model, features)
        assert q.shape == k.shape == v.shape
        assert q.shape[:2] == (2, HEADS) and HEADS * q.shape[-1] == layer.width == WIDTH
        part = inner(model).get_submodule(layer.name)
        scores = log_attention(q, k).exp()
        assert scores.dtype == torch.float32 and scores.std() > 0.01
        mixed = (scores @ v).transpose(1, 2).flatten(2)
        project = part.get_submodule(out) if out else nn.Identity()
        torch.testing.assert_close(project(mixed), features[layer.name], atol=1e-5, rtol=1e-5)


def test_layers_stand_in_order(case: tuple[nn.Module, str, str, str]) -> None:
    model, first, _, _ = case
    layers = attention_layers(model)
    expected = [
        first.replace(".0.", f".{i}.").replace("layer_0", f"layer_{i}") for i in range(DEPTH)
    ]
    assert [layer.name for layer in layers] == expected
    assert {layer.heads for layer in layers} == {HEADS}


def test_gradients_reach_the_queries(case: tuple[nn.Module, str, str, str]) -> None:
    model, _, _, query = case
    model.train()
    layers, features = read(model)
    q, _, _ = layers[-1].qkv(model, features)
    model.zero_grad()
    torch.autograd.backward(q.square().mean())
    part = inner(model).get_submodule(layers[-1].name)
    grad = part.get_parameter(query).grad
    assert grad is not None and grad.abs().sum() > 0
    first = inner(model).get_submodule(layers[0].name).get_parameter(query).grad
    assert first is not None and first.abs().sum() > 0


def test_scores_are_torchs_own_weights() -> None:
    model = torchvision_model().eval()
    layers, features = read(model)
    for layer in layers:
        part = model.get_submodule(layer.name)
        x = features[layer.layers[0]]
        _, weights = part(x, x, x, need_weights=True)
        q, k, _ = layer.qkv(model, features)
        torch.testing.assert_close(log_attention(q, k).exp().mean(dim=1), weights)


def test_a_torch_encoder_layer_is_read_without_gradients_too() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(SIDE * SIDE, WIDTH), layer).eval()
    with torch.inference_mode():
        layers, features = read(model)
        q, k, v = layers[0].qkv(model, features)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = layer.self_attn.out_proj(mixed)
    assert [layer.name for layer in layers] == ["2.self_attn"]
    torch.testing.assert_close(out, features["2.self_attn"])


def test_a_copy_has_values_of_its_own() -> None:
    model = torchvision_model().eval()
    other = copy.deepcopy(model)
    layers, features = read(model)
    with torch.no_grad():
        other.get_submodule(layers[0].name).get_parameter("in_proj_weight").mul_(2.0)
    q, _, _ = layers[0].qkv(model, features)
    doubled, _, _ = layers[0].qkv(other, features)
    torch.testing.assert_close(doubled, 2.0 * q)  # biases start at 0


def test_an_attention_alone_is_a_model_too() -> None:
    model = vit.Attention(8, 2)
    (layer,) = attention_layers(model)
    assert layer.name == "" and layer.layers == ("q", "k", "v")
    with hooked(model, layer.layers) as features:
        model(torch.randn(3, 5, 8))
    assert [x.shape for x in layer.qkv(model, features)] == [(3, 2, 5, 4)] * 3


def test_scores_stay_float32_under_autocast() -> None:
    q, k = torch.randn(2, 1, 2, 5, 8).unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = log_attention(q, k).exp()
    torch.testing.assert_close(scores, log_attention(q, k).exp())
    torch.testing.assert_close(scores.sum(dim=-1), torch.ones(1, 2, 5))


def test_torchvision_swin_is_refused() -> None:
    model = torchvision.models.swin_t(num_classes=2)
    with pytest.raises(LayerError, match=r"ShiftedWindowAttention at 'features\.1\.0\.attn'"):
        attention_layers(model)


class Crossing(nn.Module):
    """Gives its attention different tensors, as no hook can see."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)


class Grouped(nn.Module):
    """Has heads and queries, and another name."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.to_q = nn.Linear(8, 8)
        self.to_kv = nn.Linear(8, 8)


class OurChild(vit.Attention):
    """May compute anything."""


@pytest.mark.parametrize(
    "model, name",
    [
        (Crossing(batch_first=True), "MultiheadAttention at 'attention'"),
        (Crossing(kdim=4, vdim=4, batch_first=True), "MultiheadAttention at 'attention'"),
        (nn.TransformerEncoderLayer(8, 2, 8), "MultiheadAttention at 'self_attn'"),
        (nn.TransformerDecoderLayer(8, 2, 8, batch_first=True), "MultiheadAttention at 'self_attn"),
        (nn.Sequential(Grouped()), "Grouped at '0'"),
        (nn.Sequential(OurChild(8, 2)), "OurChild at '0'"),
    ],
)
def test_what_is_not_understood_is_refused(model: nn.Module, name: str) -> None:
    with pytest.raises(LayerError, match=name) as raised:
        attention_layers(model)
    assert "torchvision's EncoderBlock" in str(raised.value)
    assert "timm's Attention" in str(raised.value)


@pytest.mark.parametrize(
    "name, refused",
    [
        ("swin_tiny_patch4_window7_224", "WindowAttention"),
        ("eva02_tiny_patch14_224", "EvaAttention"),
        ("xcit_nano_12_p16_224", "XCA"),
        ("cait_xxs24_224", "TalkingHeadAttn"),
        ("beit_base_patch16_224", "Attention"),
        ("botnet26t_256", "BottleneckAttn"),
        ("mobilevit_xxs", "Attention"),
        ("shvit_s1", "SHSA"),
    ],
)
def test_timms_other_attentions_are_refused(name: str, refused: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"), pytest.raises(LayerError, match=f"the {refused} at"):
        attention_layers(timm.create_model(name))


def test_timms_parallel_blocks_are_refused() -> None:
    blocks = pytest.importorskip("timm.models.vision_transformer")
    with pytest.raises(LayerError, match="ParallelScalingBlock at 'blocks.0'"):
        attention_layers(timm_model(block_fn=blocks.ParallelScalingBlock))


def test_timms_pooling_is_left_out() -> None:
    model = timm_model(global_pool="map", class_token=False)
    assert len(attention_layers(model)) == DEPTH


def test_beit_with_relative_positions_is_refused() -> None:
    with pytest.raises(LayerError, match="BeitAttention at 'beit.layers.0.attention'"):
        attention_layers(transformers_model("Beit", use_relative_position_bias=True))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_convolutional_nets_have_none(name: str) -> None:
    assert attention_layers(torchvision.models.get_model(name)) == ()


ATTENTION_TO_CHANNELS = ("se", "ese", "eca", "gc", "cbam", "lcbam", "sk", "splat", "coord")


@pytest.mark.parametrize("name", [*ATTENTION_TO_CHANNELS, "seresnet18", "bat_resnext26ts"])
def test_attention_to_channels_is_none(name: str) -> None:
    timm = pytest.importorskip("timm")
    layers = pytest.importorskip("timm.layers")
    if name in ATTENTION_TO_CHANNELS:
        model = nn.Sequential(layers.get_attn(name)(16))
    else:
        model = timm.create_model(name)
    assert attention_layers(model) == ()
