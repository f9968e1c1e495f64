"""The trees for large pictures: every net of them runs, and they reach the sizes people need."""

from __future__ import annotations

import random

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import Classifier, build
from nasdistill.models.counts import count_architecture, count_params
from nasdistill.models.export import quick_onnx
from nasdistill.models.hooks import summarise
from nasdistill.space import Architecture, SearchSpace
from nasdistill.space.nodes import parameters_of

NAMES = ("mobile", "resnet", "vit")
CLASSES = 10


def large(name: str) -> SearchSpace:
    return SearchSpace.load(name).for_pictures(128)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_sample_learns(name: str, seed: int) -> None:
    architecture = large(name).random(random.Random(seed))
    torch.manual_seed(0)
    net = build(architecture, Input(3, 96, 112), CLASSES).train()
    logits = net(torch.randn(2, 3, 96, 112))
    assert logits.shape == (2, CLASSES) and logits.isfinite().all()
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 6])).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ["mobile", "resnet"])
@pytest.mark.parametrize(("pixels", "last"), [(96, 3), (128, 4), (224, 7), (256, 8)])
def test_the_last_maps_have_a_32nd_of_the_side(name: str, pixels: int, last: int) -> None:
    architecture = large(name).random(random.Random(pixels))
    input = Input(3, pixels, pixels)
    with torch.device("meta"):
        net = build(architecture, input, CLASSES).eval()
        shapes = summarise(net, "student", input).shapes
    stages = [key for key in shapes if key.startswith("stage") and "." not in key]
    assert shapes[stages[-1]][1:] == (last, last)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_has_students_of_every_size(name: str) -> None:
    """Of uniform draws enough keep a tenth of a small teacher, and the largest passes 4 M."""
    rng, space, shape = random.Random(0), large(name), Input(3, 224, 224)
    sizes = [count_params(space.random(rng), shape, CLASSES) for _ in range(150)]
    share = [sum(size < most for size in sizes) / len(sizes) for most in (350_000, 2_500_000)]
    assert share[0] >= 0.05 and 0.6 <= share[1] <= 0.95
    assert min(sizes) < 200_000 and max(sizes) > 4_000_000


def test_the_largest_of_mobile_passes_10_m() -> None:
    space = large("mobile")
    block = {"type": "mbconv", "expansion": 6, "kernel": 5, "squeeze_excite": True}
    widths = [24, 32, 56, 96, 128, 224, 320]
    stages = [
        {"type": "present", "stride": stride, "width": width, "depth": 1, "block": block}
        for stride, width in zip([1, 2, 2, 2, 1, 2, 1], widths, strict=True)
    ]
    for place in (1, 2, 3, 5):
        del stages[place]["type"]
    stages[5]["depth"], stages[6]["depth"] = 4, 2
    values = {
        "activation": {"type": "silu"},
        "stem": 32,
        "stages": stages,
        "head": {"type": "hidden", "width": 1280, "features": 1280},
    }
    assert parameters_of(space.root, values)  # a point of the space
    net = Architecture("mobile", values)
    assert count_architecture(net, Input(3, 224, 224), CLASSES).params > 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_designs_to_try_first_go_from_small_to_large(name: str) -> None:
    space, shape = large(name), Input(3, 128, 128)
    designs = [space.sample(FixedTrial(dict(each))) for each in space.start]
    sizes = [count_params(design, shape, CLASSES) for design in designs]
    assert sizes == sorted(sizes) and len(sizes) >= 4 and sizes[0] < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_onnx_agrees_with_torch(name: str) -> None:
    space, input = large(name), Input(3, 96, 96)
    torch.manual_seed(1)
    for place in (2, 3):  # MobileNetV3-Small, EfficientNet-Lite0; ViT-Tiny
        design = space.sample(FixedTrial(dict(space.start[place])))
        module = Classifier(build(design, input, CLASSES), (0.3,) * 3, (0.4,) * 3).eval()
        session = onnxruntime.InferenceSession(quick_onnx(module, input))
        images = torch.rand(2, 3, 96, 96)
        (exported,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(exported, module(images).numpy(), atol=1e-4)


def test_a_class_token_is_known_as_one() -> None:
    space, input = large("vit"), Input(3, 96, 96)
    design = space.sample(FixedTrial(dict(space.start[3])))
    summary = summarise(build(design, input, CLASSES), "student", input)
    assert summary.special == 1
    assert summary.shapes[summary.blocks[-1]] == (24 * 24 + 1, 192)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": {"type": "wide", "width": 8}}, "needs the key 'wide'"),
        ({"activation": {"type": "hardswish", "early": "tanh"}}, "needs the key 'tanh'"),
        ({"stride": 3}, "stride: found 3, allowed: 1 to 2"),
    ],
)
def test_values_that_no_space_gives(changes: dict[str, object], reason: str) -> None:
    space = large("mobile")
    values = dict(space.sample(FixedTrial(dict(space.start[0]))).values)
    if "stride" in changes:
        values["stages"] = [{**stage, **changes} for stage in values["stages"]]
    else:
        values |= changes
    with pytest.raises(UserError, match=reason):
        build(Architecture("mobile", values), Input(3, 96, 96), CLASSES)
