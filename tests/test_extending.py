"""What the README says one can add without touching the package, each tried once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nasdistill
from nasdistill.recipe import load_recipe

OWN = '''
import numpy as np
import torch
from torch import nn

from nasdistill.common.types import Input
from nasdistill.data import Source
from nasdistill.data.sources import Request


def stripes(request: Request) -> Source:
    """Pictures with a bright stripe at one of three places, made up."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (480, 1, 16, 16), dtype=np.uint8)
    labels = np.arange(480) % 3
    for image, label in zip(images, labels):
        image[0, 2 + 5 * label : 5 + 5 * label] += 100
    return Source(images, labels, ("top", "middle", "bottom"), Input(1, 16, 16), flip=False)


def reader(classes, input):
    """Reads the stripe by its rows."""
    linear = nn.Linear(input.height * input.width, classes)
    weight = torch.zeros(classes, input.height, input.width)
    for label in range(classes):
        weight[label, 2 + 5 * label : 5 + 5 * label] = 0.1
    with torch.no_grad():
        linear.weight.copy_(weight.flatten(1))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear)


def comb(architecture, input, classes):
    """One hidden layer."""
    width = architecture.values["width"]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(input.channels * input.height * input.width, width), nn.ReLU(),
        nn.Linear(width, classes),
    )


FAMILIES = {"comb": comb}
SOURCES = {"stripes": stripes}
'''

SPACE = """\
name: combs
family: comb
parameters:
  width: {int: [4, 24], step: 4}
start:
  - {width: 12}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "combs.yaml").write_text(SPACE)
    return tmp_path


def test_a_space_a_family_a_source_and_a_teacher_of_ones_own(own: Path) -> None:
    recipe = load_recipe(
        None,
        {
            "space": "combs.yaml",
            "import": "own.py",
            "data": "stripes",
            "teacher": "reader",
            "study": "own",
            "trials": 2,
            "top_k": 1,
            "minimize": "params",
            "max_params": "4k",
            "min_accuracy": 0,
            "rungs": {"first": "200 images", "count": 1},
            "final_budget": "2 epochs",
            "batch_size": 20,
            "precision": "fp32",
            "device": "cpu",
            "workers": 1,
        },
    )
    record = nasdistill.search(recipe).record
    tried = [c for c in record.candidates if c.state == "complete"]
    assert tried[0].architecture == {"family": "comb", "values": {"width": 12}}
    # 256 pixels to 12 units to 3 classes.
    assert tried[0].params == 256 * 12 + 12 + 12 * 3 + 3
    assert record.data["classes"] == ["top", "middle", "bottom"]
    assert record.teacher["source"] == "import" and record.teacher["test_accuracy"] > 0.9
    (final,) = record.finals
    model = nasdistill.load(final.folder)  # this process knows the family
    picture = torch.zeros(1, 1, 16, 16)
    picture[0, 0, 7:10] = 1.0
    assert model(picture).argmax().item() == 1
