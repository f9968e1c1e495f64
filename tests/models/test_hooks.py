"""Reading intermediate outputs by name, on our models and on those of three libraries."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from model_helpers import GREY, conv, former, pictures
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.models import Classifier, build
from nasdistill.models.hooks import INPUT, LayerError, body, forward, hooked, summarise
from nasdistill.space import SearchSpace
from nasdistill.teachers.pretrained import LogitsOnly

RGB = Input(3, 32, 32)


def timm_model(name: str, **options: Any) -> nn.Module:
    model: nn.Module = pytest.importorskip("timm").create_model(name, num_classes=5, **options)
    return model


def transformers_vit() -> nn.Module:
    library = pytest.importorskip("transformers")
    config = library.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=5,
    )
    return LogitsOnly(library.ViTForImageClassification(config))


def torchvision_vit() -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)
    return model


def torchvision_model(name: str) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, num_classes=5)
    return model


FOREIGN: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "torchvision resnet18": (
        lambda: torchvision_model("resnet18"),
        ("relu", "layer1", "layer2", "layer3"),
    ),
    "torchvision mobilenet_v3_small": (
        lambda: torchvision_model("mobilenet_v3_small"),
        ("features.0", "features.1", "features.3", "features.8"),
    ),
    "torchvision vit": (
        torchvision_vit,
        tuple(f"encoder.layers.encoder_layer_{i}" for i in range(3)),
    ),
    "timm resnet18": (lambda: timm_model("resnet18"), ("act1", "layer1", "layer2", "layer3")),
    "timm vit": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3),
        ("blocks.0", "blocks.1", "blocks.2"),
    ),
    "transformers vit": (transformers_vit, tuple(f"model.vit.layers.{i}" for i in range(3))),
}


def hooks_of(module: nn.Module) -> int:
    parts = list(module.modules())
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)


@pytest.mark.parametrize("name", FOREIGN)
def test_any_librarys_model_is_read_by_number_and_name(name: str) -> None:
    make, blocks = FOREIGN[name]
    torch.manual_seed(0)
    model = make()
    summary = summarise(model, "teacher", RGB)
    assert summary.blocks == blocks and summary.classes == 5
    assert summary.params == sum(p.numel() for p in model.parameters())
    assert summary.layer("0") == blocks[0] and summary.layer("-1") == blocks[-1]
    assert summary.layer(blocks[1]) == blocks[1]
    images = torch.rand(2, 3, 32, 32)
    model.eval()
    read = forward(model, images, blocks)
    assert {key: tuple(x.shape[1:]) for key, x in read.features.items()} == {
        block: summary.shapes[block] for block in blocks
    }
    torch.testing.assert_close(read.logits, model(images))
    assert hooks_of(model) == 0
    # What was read last is what the rest of the model was given.
    sums = [x.float().sum() for x in read.features.values()]
    grads = torch.autograd.grad(
        torch.stack(sums).sum(), list(model.parameters()), allow_unused=True
    )
    assert any(grad is not None and grad.any() for grad in grads)


FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "mlp": (("linear0",),),
    "mobile": (("stage0", "mix"),),
    "resnet": (("stage1", "stage2"),),
    "vit": tuple(tuple(f"blocks.{i}" for i in range(depth)) for depth in range(1, 7)),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_of_our_families(name: str, seed: int) -> None:
    input = Input(1, 28, 28)
    architecture = SearchSpace.load(name).random(random.Random(seed))
    summary = summarise(Classifier(build(architecture, input, 5), (0.5,), (0.2,)), "student", input)
    if name == "mlp":
        hidden = len(architecture.values["layers"]["widths"])
        assert summary.blocks == tuple(f"linear{i}" for i in range(hidden))
    elif name == "vit":
        assert summary.blocks == tuple(f"blocks.{i}" for i in range(architecture.values["depth"]))
        assert len({summary.shapes[block] for block in summary.blocks}) == 1
    else:
        assert summary.blocks in FAMILIES[name]
        sides = [summary.shapes[block][1] for block in summary.blocks]
        assert sides == [14, 7]


def test_outputs_and_inputs_are_those_of_the_modules() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    with hooked(model, ["0", "1", f"2{INPUT}"]) as read:
        model(x)
    torch.testing.assert_close(read["0"], model[0](x))
    torch.testing.assert_close(read["1"], torch.tanh(model[0](x)))
    torch.testing.assert_close(read[f"2{INPUT}"], read["1"])


def test_what_the_next_module_changes_in_place_is_read_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(8, 4)
    with hooked(model, ["0", f"1{INPUT}", "1"]) as read:
        out = model(x)
    expected = model[0](x)
    assert (expected < 0).any()
    torch.testing.assert_close(read["0"], expected)
    torch.testing.assert_close(read[f"1{INPUT}"], expected)
    torch.testing.assert_close(read["1"], expected.relu())
    torch.autograd.backward(out.sum() + read["0"].square().sum())


def test_hooks_are_gone_after_an_error_too() -> None:
    model = conv()
    with pytest.raises(RuntimeError):
        forward(model, torch.zeros(1, 7, 16, 16), ["stages.0"])
    with pytest.raises(KeyError), hooked(model, ["stages.0", "nowhere"]):
        pass
    assert hooks_of(model) == 0
    forward(model, pictures(2), ["stages.0", f"head{INPUT}"])
    summarise(model, "student", GREY)
    assert hooks_of(model) == 0


def test_a_module_that_runs_twice_says_what_it_said_last() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.step(self.step(x))
            return out

    model, x = Twice(), torch.randn(3, 2)
    with hooked(model, ["step"]) as read:
        out = model(x)
    assert torch.equal(read["step"], out)


class Hidden:
    def __init__(self, state: Tensor) -> None:
        self.last_hidden_state = state


@pytest.mark.parametrize("wrap", [lambda x: (x, 1), lambda x: [[x]], Hidden])
def test_the_tensor_is_found_in_what_a_module_gives(wrap: Callable[[Tensor], Any]) -> None:
    class Giving(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return wrap(2 * x)

    giving, x = Giving(), torch.ones(2, 3)
    with hooked(giving, [""]) as read:
        giving(x)
    assert torch.equal(read[""], 2 * x)


def test_names_are_those_inside_our_classifier() -> None:
    model = conv()
    assert body(model) is model.net
    read = forward(model, pictures(2), ["stages.0"]).features["stages.0"]
    shown = (pictures(2).float() / 255 - 0.4) / 0.25
    torch.testing.assert_close(read, model.net.get_submodule("stages.0")(shown), atol=1e-5, rtol=0)


def test_looking_into_a_model_leaves_it_as_it_was() -> None:
    model = conv(dropout=0.5)
    model.train()
    model.net.get_submodule("stages.1").eval()
    modes = [part.training for part in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    summary = summarise(model, "student", GREY)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert summary.shapes["stages.1"] == (6, 4, 4) and summary.shapes["head"] == (3,)
    assert summary.blocks == ("stages.0", "stages.1", "stages.2")


def test_layers_that_are_not_there_are_told_with_those_that_are() -> None:
    summary = summarise(conv(), "student", GREY)
    with pytest.raises(LayerError, match="has no layer 3: its 3 layers are 0 stages.0, 1 stages.1"):
        summary.layer("3")
    with pytest.raises(LayerError, match="the student has no layer -4"):
        summary.layer("-4")
    with pytest.raises(LayerError) as caught:
        summary.layer("stages.0.3")
    message = str(caught.value)
    assert "did you mean 'stages.0.0'?" in message or "did you mean 'stages.0.2'?" in message
    assert "by number: 0 stages.0, 1 stages.1, 2 stages.2" in message and "head" in message


def test_of_many_layers_the_shorter_paths_are_told() -> None:
    summary = summarise(torchvision_model("mobilenet_v3_small"), "teacher", RGB)
    with pytest.raises(LayerError) as caught:
        summary.layer("featurs.1")
    message = str(caught.value)
    assert "did you mean 'features.1'?" in message
    names = message.split("by name: ")[1].split(", ")
    assert "features.12" in names and len(names) <= 40


def test_a_transformers_blocks_are_numbered() -> None:
    summary = summarise(former(2, 8, 5), "student", GREY)
    assert summary.blocks == tuple(f"blocks.{i}" for i in range(5))
    assert summary.shapes["blocks.0"] == (16, 16)
