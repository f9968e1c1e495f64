"""Distilling on with fake quantisation, where 8 bits cost a final too much."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_study import prepare, write_blobs
from torch import nn

from nasdistill import api
from nasdistill.common.events import Event
from nasdistill.common.types import Input
from nasdistill.deployment import int8
from nasdistill.finals import quantised
from nasdistill.models import Classifier, artifact
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.export import export_onnx, quick_onnx, verify_onnx
from nasdistill.recipe import load_recipe
from nasdistill.training import fake_quantisation
from nasdistill.training.fake_quantisation import as_before, fake_quantise
from nasdistill.training.teacher import train_through

SPACE = """\
name: narrow
family: mlp
description: One perceptron.
parameters:
  activation: {choice: [relu]}
  dropout: {choice: [0.0]}
  layers: {choice: {one: {widths: [{choice: [32]}]}}}
"""
QUICK: dict[str, Any] = {
    "trials": 1,
    "top_k": 1,
    "min_accuracy": 0,
    "rungs": {"first": "100 images", "count": 1},
    "final_budget": "40 epochs",
    "experience": False,
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a study of one final."""
    folder, before = prepare(tmp_path_factory.mktemp("searched")), Path.cwd()
    os.chdir(folder)
    Path("tiny.yaml").write_text(SPACE)
    write_blobs(Path("blobs.npz"), train=3000)
    api.search(load_recipe("recipe.yaml", QUICK))
    os.chdir(before)
    yield folder


@pytest.fixture
def outlier(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A final in whose hidden layer one unit is a hundred times as large, and read as much less.

    It answers as before, but all units share one scale in 8 bits.
    """
    shutil.copytree(searched, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    folder = Path("studies/small/finals/1")
    weights = load_file(folder / "model.safetensors")
    first, second = (name for name, value in weights.items() if value.ndim == 2)
    size = 150
    weights[first][0] *= size
    weights[first.replace("weight", "bias")][0] *= size
    weights[second][:, 0] /= size
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    module = artifact.load(folder)
    export_onnx(module, artifact.input_of(folder), folder / "model.onnx")
    assert verify_onnx(module, artifact.input_of(folder), folder / "model.onnx").ok
    return folder


def test_a_final_that_8_bits_hurt_gains_by_distilling_on(
    outlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LAYER_SECONDS", -1.0)  # leaving layers in fp32 would mend it, too
    fp32 = [(outlier / name).read_bytes() for name in ("model.onnx", "model.safetensors")]
    recipe = load_recipe("recipe.yaml", {**QUICK, "formats": "onnx-int8"})
    whole = train_through

    def killed(*args: Any) -> Iterator[int]:
        for epoch in whole(*args):
            yield epoch
            raise KeyboardInterrupt

    checkpoint = outlier.parent / ".quantised-1.pt"
    with monkeypatch.context() as patch:
        patch.setattr(quantised, "train_through", killed)
        with pytest.raises(KeyboardInterrupt):
            api.search(recipe)
    assert checkpoint.exists() and not (outlier / "model-int8.onnx").exists()
    events: list[Event] = []
    final = api.search(recipe, on_event=events.append).record.finals[0]
    trained = [e.text for e in events if "with fake quantisation: epoch" in e.text]
    assert "epoch 2 of 8" in trained[0] and "epoch 8 of 8" in trained[-1]
    assert not checkpoint.exists()
    record = final.metrics["files"]["onnx-int8"]
    outcome = record["remarks"]["quantisation_aware"]
    assert outcome["kept"] and outcome["score"] > outcome["score_before"] + 0.03
    assert record["remarks"]["score"] == outcome["score"]
    assert fp32 == [(outlier / name).read_bytes() for name in ("model.onnx", "model.safetensors")]
    assert "distilled on with fake quantisation" in Path("reports/small/index.html").read_text()


def test_what_scores_no_better_is_not_kept(outlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LAYER_SECONDS", -1.0)
    monkeypatch.setattr(quantised, "RATE", 0.0)  # it learns nothing
    final = api.search(load_recipe("recipe.yaml", {**QUICK, "formats": "onnx-int8"})).record.finals
    remarks = final[0].metrics["files"]["onnx-int8"]["remarks"]
    assert not remarks["quantisation_aware"]["kept"]
    assert remarks["score"] == remarks["quantisation_aware"]["score_before"]
    assert remarks["text"][-1].endswith("not kept")


def test_an_export_says_that_a_search_would_distil_on(
    outlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LAYER_SECONDS", -1.0)
    made = api.export("small/1", format="onnx-int8")
    assert "a search with --formats onnx-int8 distils on" in made["remarks"]["text"][-1]


def net() -> Classifier:
    """All that is rounded: dense and depthwise convolutions, a hard swish, a linear layer."""
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(DepthwiseConv2d(8, 3, 1), nn.BatchNorm2d(8), nn.Hardswish()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)),
    ]
    return Classifier(nn.Sequential(*layers), (0.5,), (0.25,))


def test_a_student_computes_as_its_int8_file_does() -> None:
    module, input = net(), Input(1, 16, 16)
    pictures = np.random.default_rng(0).integers(0, 256, (64, 1, 16, 16), dtype=np.uint8)
    images = torch.from_numpy(pictures)
    batch_norm = module.net[1]
    batch_norm.weight.data[0] = 40  # one channel is much larger than those that share its scale
    for _ in range(30):
        module(images)  # batch norm's averages are those of these pictures
    module.eval()
    fp32 = module(images).detach()
    content = int8.quick_int8(quick_onnx(module, input), pictures)
    session = onnxruntime.InferenceSession(content)
    quantised_logits = torch.from_numpy(
        session.run(None, {"images": pictures.astype(np.float32) / 255})[0]
    )
    names = list(module.state_dict())
    fake_quantise(module)
    for part in module.modules():
        part.training = isinstance(part, fake_quantisation._RoundedInput)
    module(images)  # the first batch sets the ranges
    module.eval()
    rounded = module(images)
    before, after = ((x - quantised_logits).abs().mean() for x in (fp32, rounded))
    assert after < 0.5 * before
    rounded.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    as_before(module)
    assert sorted(module.state_dict()) == sorted(names) and torch.equal(module(images), fp32)
