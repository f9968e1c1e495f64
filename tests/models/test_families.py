"""Every architecture of every shipped space is a network that runs, learns and exports."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import FAMILIES, Classifier, build, register_families
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.export import quick_onnx
from nasdistill.models.layers import down_sampling_plan
from nasdistill.space import Architecture, SearchSpace

SHIPPED = ("mlp", "mobile", "resnet", "vit")
INPUTS = (Input(3, 16, 16), Input(1, 28, 28), Input(3, 40, 40))
GREY = Input(1, 28, 28)


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdistill.models.families._USER_FAMILIES", {})


def drawn(name: str, seed: int = 0) -> Architecture:
    return SearchSpace.load(name).random(random.Random(seed))


def perceptron(*widths: int) -> Architecture:
    label = {1: "one", 2: "two", 3: "three"}[len(widths)]
    layers = {"type": label, "widths": list(widths)}
    return Architecture("mlp", {"activation": "relu", "dropout": 0.0, "layers": layers})


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_sample_runs_forward_and_backward(name: str, seed: int) -> None:
    architecture = drawn(name, seed)
    for input in INPUTS:
        torch.manual_seed(0)
        net = build(architecture, input, 7).train()
        logits = net(torch.randn(2, input.channels, *input.size))
        assert logits.shape == (2, 7) and logits.isfinite().all()
        nn.functional.cross_entropy(logits, torch.tensor([0, 6])).backward()
        for key, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("input", [Input(1, 16, 16), Input(3, 17, 33), Input(3, 224, 224)])
def test_every_family_takes_every_resolution(name: str, input: Input) -> None:
    for seed in range(2):
        with torch.device("meta"):
            net = build(drawn(name, seed), input, 3).eval()
            assert net(torch.empty(1, input.channels, *input.size)).shape == (1, 3)


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [
        ((512, 256), 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10),
        ((128, 64), 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10),
    ],
)
def test_classic_points_of_mlp(widths: tuple[int, int], parameters: int) -> None:
    net = build(perceptron(*widths), GREY, 10)
    sizes = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(784, widths[0]), widths, (widths[1], 10)]
    assert sum(p.numel() for p in net.parameters()) == parameters
    options = SearchSpace.load("mlp").to_dict()["parameters"]["layers"]["choice"]["two"]["widths"]
    assert widths[0] in options[0]["choice"] and widths[1] in options[1]["choice"]


@pytest.mark.parametrize("name", SHIPPED)
def test_onnx_agrees_with_torch(name: str) -> None:
    torch.manual_seed(1)
    module = Classifier(build(drawn(name, 3), GREY, 10), (0.3,), (0.4,)).eval()
    session = onnxruntime.InferenceSession(quick_onnx(module, GREY))
    for batch in (1, 5):
        images = torch.rand(batch, 1, 28, 28)
        (exported,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(exported, module(images).numpy(), atol=1e-4)


def test_unknown_family_and_missing_key() -> None:
    with pytest.raises(UserError, match="'mobil'; did you mean 'mobile'.*--import"):
        build(Architecture("mobil", {}), GREY, 10)
    with pytest.raises(UserError, match="'mlp' needs the key 'activation'"):
        build(Architecture("mlp", {}), GREY, 10)


@pytest.mark.parametrize("widths", [3, ["x"], None])
def test_values_of_the_wrong_kind(widths: Any) -> None:
    layers = {"type": "one", "widths": widths}
    values = {"activation": "relu", "dropout": 0.0, "layers": layers}
    with pytest.raises(UserError, match="'mlp' cannot be built"):
        build(Architecture("mlp", values), GREY, 10)


def test_a_users_family(families: None) -> None:
    def linear(architecture: Architecture, input: Input, classes: int) -> nn.Module:
        assert architecture.family == "line"
        inside = input.channels * input.height * input.width
        return nn.Sequential(nn.Flatten(), nn.Linear(inside, classes, architecture.values["bias"]))

    register_families({"line": linear})
    net = build(Architecture("line", {"bias": False}), GREY, 4)
    assert net(torch.zeros(2, 1, 28, 28)).tolist() == [[0.0] * 4] * 2
    assert "line" not in FAMILIES


def test_hooks_read_queries_keys_and_values() -> None:
    values = {
        "tokens": 4,
        "stem": {"type": "patch"},
        "heads": 2,
        "head_width": 16,
        "depth": 3,
        "mlp_ratio": 1,
    }
    net = build(Architecture("vit", values), Input(3, 16, 16), 5).eval()
    seen: dict[str, torch.Tensor] = {}
    for name, module in net.named_modules():
        if name.rpartition(".")[2] in ("q", "k", "v"):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: output})
            )
    net(torch.randn(2, 3, 16, 16))
    assert sorted(seen) == [f"blocks.{i}.attention.{x}" for i in range(3) for x in "kqv"]
    tokens = {tuple(output.shape) for output in seen.values()}
    assert len(tokens) == 1 and tokens.pop()[::2] == (2, 32)


def test_attention_matches_its_formula() -> None:
    from nasdistill.models.vit import Attention

    torch.manual_seed(0)
    attention, x_BND = Attention(8, 2), torch.randn(1, 5, 8)
    q, k, v = (layer(x_BND)[0] for layer in (attention.q, attention.k, attention.v))
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weight = (q[:, part] @ k[:, part].T / 2).softmax(dim=1)
        heads.append(weight @ v[:, part])
    torch.testing.assert_close(attention(x_BND)[0], attention.out(torch.cat(heads, dim=1)))


def test_depthwise_keeps_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    layer, x_BCHW = DepthwiseConv2d(4, 3, 1), torch.randn(2, 4, 8, 8)
    plain = layer(x_BCHW)
    assert DepthwiseConv2d.keep_fp32 is False and layer.groups == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x_BCHW).dtype == torch.bfloat16
        layer.keep_fp32 = True
        kept, given_half = layer(x_BCHW), layer(x_BCHW.bfloat16())
    assert kept.dtype == given_half.dtype == torch.float32
    assert torch.equal(kept, plain)


@pytest.mark.parametrize("side", [16, 24, 28, 32, 40, 64, 96, 128, 224, 256])
def test_down_sampling_plan(side: int) -> None:
    stem, strides = down_sampling_plan(Input(3, side, side), 3)
    last = side
    for stride in [stem, *strides]:
        last = -(-last // stride)
    assert 4 <= last <= 8 and stem in (1, 2, 4, 8)
    assert strides == sorted(strides)


def test_classifier_normalises_inside() -> None:
    module = Classifier(nn.Flatten(), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    images = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert module(images).tolist() == [[1.0, 3.0, 1.0]]
    assert module(images / 255).tolist() == [[1.0, 3.0, 1.0]]
    assert set(module.state_dict()) == {"mean", "std"}
