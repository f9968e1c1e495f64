"""Small data and spaces that the tests of the main job share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

SPACE = """\
name: tiny
family: mlp
description: A few multi-layer perceptrons.
parameters:
{parameters}
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write_blobs(path: Path, train: int = 600, test: int = 200, size: int = 16) -> Path:
    """Writes an npz of three classes of grey images: a bright bar at one of three places."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (train + test, size, size), dtype=np.uint8)
    labels = np.arange(train + test) % 3
    for image, label in zip(images, labels, strict=True):
        row = 3 + 4 * int(label) + int(rng.integers(-1, 2))
        image[row : row + 2, 3:13] = np.maximum(image[row : row + 2, 3:13], 140)
    np.savez(
        path,
        images=images[:train],
        labels=labels[:train],
        test_images=images[train:],
        test_labels=labels[train:],
    )
    return path
