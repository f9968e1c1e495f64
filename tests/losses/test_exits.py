"""Shallow layers' classifiers: against plain sums."""

from __future__ import annotations

import math

import pytest
import torch
from model_helpers import GREY, batch_of, conv, former, outputs, pictures, term
from torch import nn

from nasdistill.losses.exits import ExitLayer, Exits
from nasdistill.losses.schedules import constant
from nasdistill.models.hooks import LayerError, Outputs, forward, summarise


def test_two_exits_against_plain_sums() -> None:
    layers = ExitLayer("a", 2), ExitLayer("b", 3, special=1)
    made = Exits(soft=0.3, temperature=constant(2.0), exits=layers, classes=3)
    torch.manual_seed(0)
    heads = made.auxiliary()
    assert isinstance(heads, nn.ModuleList)
    student = outputs(a=torch.randn(4, 2, 3, 3), b=torch.randn(4, 5, 3))  # a map and tokens
    student = Outputs(torch.randn(4, 3), student.features)
    batch = batch_of(pictures(4))
    with torch.no_grad():
        loss_B = made(student, None, batch, 0.0, heads)
        exits = [
            heads[0](student.features["a"].mean(dim=(2, 3))),
            heads[1](student.features["b"][:, 1:].mean(dim=1)),  # 5 tokens: 4 and a class token
        ]
    for row in range(4):
        worked = 0.0
        own = [math.exp(x / 2) for x in student.logits[row].tolist()]
        own = [x / sum(own) for x in own]
        for logits in exits:
            hard = [math.exp(x) for x in logits[row].tolist()]
            soft = [math.exp(x / 2) for x in logits[row].tolist()]
            soft = [x / sum(soft) for x in soft]
            worked += 0.7 * -math.log(hard[int(batch.labels[row])] / sum(hard))
            worked += 0.3 * 4 * sum(a * math.log(a / b) for a, b in zip(own, soft, strict=True))
        assert float(loss_B[row]) == pytest.approx(worked / 2, rel=1e-4)


def test_the_last_layer_is_not_pulled_to_the_exits() -> None:
    student = conv().eval()
    made = term("exits", soft=1.0).bind(summarise(student, "student", GREY), None)
    assert made.student_layers == ("stages.0", "stages.1")
    heads = made.auxiliary()
    images = pictures(4)
    loss = made(forward(student, images, made.student_layers), None, batch_of(images), 0.0, heads)
    torch.autograd.backward(loss.mean())
    assert all(p.grad is None for p in student.net.get_submodule("head").parameters())
    assert all(p.grad is None for p in student.net.get_submodule("stages.2").parameters())
    first = next(student.net.get_submodule("stages.0").parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_layers_are_named_or_numbered_and_must_be_there() -> None:
    seen = summarise(conv(), "student", GREY)
    assert term("exits", layers=[-1, "stages.0"]).bind(seen, None).student_layers == (
        "stages.2",
        "stages.0",
    )
    with pytest.raises(LayerError, match="has no layer 3: its 3 layers are"):
        term("exits", layers=[3]).bind(seen, None)
    with pytest.raises(LayerError, match="has but one layer"):
        term("exits").bind(summarise(former(depth=1), "student", GREY), None)
