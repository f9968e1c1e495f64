"""A small study that tests share: data of three bars, a teacher that reads them, a space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nasdistill.trials.context import StudyContext

OpenContext = Callable[..., StudyContext]
"""The fixture `opened`: opens the small study, with some keys of its recipe changed."""

KILLED_SEARCH = Path(__file__).parent / "killed_search.py"
"""Runs the recipe below in a process of its own, which dies where it is told to."""


def write_blobs(
    path: Path, train: int = 600, test: int = 200, size: int = 16, uneven: bool = False
) -> Path:
    """Writes an npz of three classes of grey images: a bright bar at one of three places.

    Each has a third of the images; where uneven, the first has 80 % and the last 5 %.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (train + test, size, size), dtype=np.uint8)
    labels = np.arange(train + test) % 3
    if uneven:
        labels = np.array([0] * 16 + [1] * 3 + [2])[np.arange(train + test) % 20]
    for image, label in zip(images, labels, strict=True):
        row = 3 + 4 * int(label) + int(rng.integers(-1, 2))
        image[row : row + 2, 3:13] += 55
    np.savez(
        path,
        images=images[:train],
        labels=labels[:train],
        test_images=images[train:],
        test_labels=labels[train:],
    )
    return path


TINY = """\
name: tiny
family: mlp
description: A few multi-layer perceptrons.
parameters:
  activation: {choice: [relu, gelu]}
  dropout: {choice: [0.0, 0.1]}
  layers:
    choice:
      one: {widths: [{choice: [8, 12, 16, 24, 32, 64]}]}
      two: {widths: [{choice: [16, 32, 64]}, {choice: [16, 32]}]}
"""

TEACHER = """\
import torch
from torch import nn


def bars(classes, input):
    linear = nn.Linear(input.height * input.width, classes)
    weight = torch.zeros(classes, input.height, input.width)
    for label in range(classes):
        weight[label, 2 + 4 * label : 6 + 4 * label, 3:13] = 0.3
    with torch.no_grad():
        linear.weight.copy_(weight.flatten(1))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear)
"""

RECIPE = """\
space: tiny.yaml
data: npz:blobs.npz
import: own.py
teacher: bars
study: small
trials: 7
top_k: 2
minimize: [params]
max_params: 10k
min_accuracy: 0.5
rungs: {first: 200 images, eta: 2, count: 3}
final_budget: 4 epochs
batch_size: 50
views: 2
precision: fp32
device: cpu
workers: 1
"""


def prepare(folder: Path, recipe: str = RECIPE) -> Path:
    """Fills a folder with all that a small search needs."""
    write_blobs(folder / "blobs.npz")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "own.py").write_text(TEACHER)
    (folder / "recipe.yaml").write_text(recipe)
    return folder
