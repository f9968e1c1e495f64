"""Named nets of libraries as students: their names, their shapes, grey images."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import Classifier, build
from nasdistill.models.counts import count_architecture
from nasdistill.models.pretrained import RepeatedGrey, inner_net, model_name
from nasdistill.space import Architecture, SearchSpace
from nasdistill.teachers.at_hand import own_weights
from nasdistill.teachers.heads import all_heads

MODELS = SearchSpace.load("pretrained").models


def of(model: str) -> Architecture:
    return Architecture("pretrained", {"model": model})


@pytest.mark.parametrize("model", MODELS)
def test_every_choice_has_weights_takes_pictures_and_differs_in_its_head_alone(model: str) -> None:
    assert own_weights(model).address.startswith("https://")
    counts = [count_architecture(of(model), Input(3, size, size), 10) for size in (64, 224)]
    assert counts[0].params == counts[1].params and counts[0].macs < counts[1].macs / 6
    with torch.device("meta"):
        thousand, ten = (build(of(model), Input(3, 96, 96), classes) for classes in (1000, 10))
    heads = tuple(f"{head.name}." for head in all_heads(ten))
    before, after = thousand.state_dict(), ten.state_dict()
    other = [name for name in after if after[name].shape != before[name].shape]
    assert other and all(name.startswith(heads) for name in other)
    assert before.keys() == after.keys() and not any("." not in name for name in heads)


@pytest.mark.parametrize(
    ("model", "published", "features"),
    [  # parameters with 1,000 classes as the libraries' tables have them, inputs of the head
        ("torchvision:squeezenet1_1", 1_235_496, 512),
        ("torchvision:mobilenet_v3_small", 2_542_856, 1024),
        ("torchvision:resnet18", 11_689_512, 512),
    ],
)
def test_parameters_are_the_published_ones(model: str, published: int, features: int) -> None:
    params = count_architecture(of(model), Input(3, 64, 64), 10).params
    assert params == published - 990 * (features + 1)


def test_grey_images_are_repeated() -> None:
    torch.manual_seed(0)
    net = build(of("timm:test_efficientnet"), Input(1, 16, 16), 3).eval()
    assert isinstance(net, RepeatedGrey) and count_architecture(
        of("timm:test_efficientnet"), Input(1, 16, 16), 3
    ).params == sum(p.numel() for p in net.parameters())
    grey = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    colour = Classifier(inner_net(net), mean, std)
    with torch.inference_mode():
        expected = colour(grey.repeat(1, 3, 1, 1))
        assert torch.allclose(Classifier(net, mean, std)(grey), expected, atol=1e-6)
        assert torch.allclose(net(grey / 255), inner_net(net)(grey.repeat(1, 3, 1, 1) / 255))
    assert not isinstance(build(of("timm:test_efficientnet"), Input(3, 16, 16), 3), RepeatedGrey)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("timm:lcnet_55", "timm has no model 'lcnet_55'"),
        ("torchvision:resnet19", "torchvision has no image classifier 'resnet19'"),
        ("timm:hf-hub:somebody/net", "timm has no model"),
        ("lcnet_050", "allowed: timm:NAME, torchvision:NAME"),
        ("tim:lcnet_050", "did you mean 'timm'"),
    ],
)
def test_names_that_are_none(model: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(of(model), Input(3, 64, 64), 10)
    with pytest.raises(UserError, match=reason):
        own_weights(model)


def test_what_has_no_weights_and_what_takes_no_such_image() -> None:
    assert model_name("timm:lcnet_035") == ("timm", "lcnet_035")
    with pytest.raises(UserError, match="timm has no pretrained weights for 'lcnet_035'"):
        own_weights("timm:lcnet_035")
    with pytest.raises(UserError, match="cannot take images of 3x28x28"):
        count_architecture(of("timm:convnext_atto"), Input(3, 28, 28), 10)
    with pytest.raises(UserError, match="2 channels; allowed: 1 or 3"):
        build(of("timm:lcnet_050"), Input(2, 64, 64), 10)


def test_weights_that_lie_here(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    away = own_weights("torchvision:resnet18")
    assert away.file is None
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir()
    file.write_bytes(b"")
    assert own_weights("torchvision:resnet18").file == file
    assert isinstance(timm.create_model("test_resnet"), nn.Module)
