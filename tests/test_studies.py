"""The recipes in `studies/`: each is read as it stands, and run with a budget of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nasdistill
from nasdistill.recipe import Recipe, load_recipe

STUDIES = Path(__file__).parents[1] / "studies"
RECIPES = sorted(path.stem for path in STUDIES.glob("*.yaml"))


TEACHER = """\
import torch
from torch import nn


def bands(classes, input):
    linear = nn.Linear(input.channels * input.height * input.width, classes)
    weight = torch.zeros(classes, input.channels, input.height, input.width)
    for label in range(classes):
        weight[label, :, 8 * label : 8 * label + 8] = 0.01
    with torch.no_grad():
        linear.weight.copy_(weight.flatten(1))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear)
"""


def write_photographs(folder: Path) -> None:
    """Three classes of small colour pictures: a bright bar at one of three places."""
    rng = np.random.default_rng(0)
    for label in range(3):
        (folder / str(label)).mkdir(parents=True)
        for number in range(30):
            picture = rng.integers(0, 100, (24, 24, 3), dtype=np.uint8)
            picture[8 * label : 8 * label + 8] += 150
            Image.fromarray(picture).save(folder / str(label) / f"{number}.png")


def test_there_are_some() -> None:
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_recipe(STUDIES / f"{name}.yaml", {})
    assert (own.trials, own.rungs, own.final_budget) != (
        Recipe().trials,
        Recipe().rungs,
        Recipe().final_budget,
    )
    write_photographs(tmp_path / "photographs")
    (tmp_path / "own.py").write_text(TEACHER)
    monkeypatch.chdir(tmp_path)
    tiny = {
        "data": "folder:photographs",
        "image_size": 24,
        "import": "own.py",
        "teacher": "bands",
        "trials": 2,
        "rungs": {"first": "60 images", "count": 2},
        "final_budget": "1 epoch",
        "top_k": 1,
        "min_accuracy": 0.01,
        "max_latency": "10s",
        "precision": "fp32",
        "workers": 1,
        "study": name,
    }
    if own.max_bytes is None:
        tiny["max_params"] = "1M"  # otherwise a share of the teacher's few
    outcome = nasdistill.search(load_recipe(STUDIES / f"{name}.yaml", tiny))
    (final,) = outcome.record.finals
    assert not final.broken_limits and outcome.report.exists()
    baseline = final.metrics["baseline"]
    assert (baseline is not None) == own.baseline
    for key in ("max_bytes", "max_macs"):
        limit = getattr(own, key)
        assert limit is None or final.metrics[key.removeprefix("max_")] <= limit
