"""The pictures by which a file is quantised, and those by which what was tried is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.common.types import ScoreName
from nasdistill.data import Dataset, Split

PICTURES = 256
"""That calibrate, at most."""
FEW_PICTURES = 8
"""That do where only a file's size and speed matter."""
MOST_BYTES = 256 << 20
"""Of the pictures of the score half that candidates are compared on, as uint8."""


@dataclass(frozen=True)
class Calibration:
    """Pictures for quantisation; see `calibration_of`.

    Attributes:
        pictures: uint8 `[N, C, H, W]`.
        about: What they are, in words.
        score_pictures: uint8 `[M, C, H, W]` of the score half.
        score_labels: int64 `[M]`.
        score: The score that candidates are compared by.
    """

    pictures: NDArray[np.uint8]
    about: str
    score_pictures: NDArray[np.uint8]
    score_labels: Tensor
    score: ScoreName


def calibration_of(dataset: Dataset, score: ScoreName, synthetic: bool) -> Calibration:
    """Takes pictures of all classes alike from the training split, always the same ones.

    A final that was trained on synthetic images, or without a training split, has seen no real
    picture to learn from, and is to see none: then the score half gives them.

    Args:
        dataset: The study's.
        score: The study's.
        synthetic: Whether the final learned from synthetic images.

    Raises:
        UserError: If they are all of one class.
    """
    real = dataset.has_training and not synthetic
    split, name = (dataset.train, "training") if real else (dataset.score, "score")
    ids = even_sample(split.labels.cpu(), PICTURES)
    classes = sorted({dataset.classes[label] for label in split.labels.cpu()[ids].tolist()})
    if len(classes) < 2:
        raise UserError(
            f"data {dataset.name!r}: the {len(ids)} pictures that int8 is calibrated by, from the "
            f"{name} split, are all of the class {classes[0]!r}; ranges of one class are no ranges "
            "of the others. Allowed: pictures of two classes or more"
        )
    size, score_half = dataset.input.size, dataset.score
    picture_bytes = dataset.input.channels * size[0] * size[1]
    scored = even_sample(score_half.labels.cpu(), max(PICTURES, MOST_BYTES // picture_bytes))
    why = "" if real else " (no real picture was learned from)"
    return Calibration(
        pictures_of(split, ids, size),
        f"{len(ids)} pictures of {len(classes)} classes from the {name} split{why}",
        pictures_of(score_half, scored, size),
        score_half.labels.cpu()[scored],
        score,
    )


def few_pictures(dataset: Dataset) -> NDArray[np.uint8]:
    """Pictures that give ranges where only a file's size and speed matter, uint8 `[N, C, H, W]`.

    Args:
        dataset: The study's; its score half gives them where it has no training split.
    """
    split = dataset.train if dataset.has_training else dataset.score
    ids = even_sample(split.labels.cpu(), FEW_PICTURES)
    return pictures_of(split, ids, dataset.input.size)


def even_sample(labels: Tensor, most: int) -> Tensor:
    """Indices of examples, the classes in turn, so that a small class is wholly in.

    Args:
        labels: int64 `[N]`.
        most: Examples at most.

    Returns:
        int64 indices, ascending.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    turns = torch.empty(len(labels), dtype=torch.int64)  # which of its class an example is
    for label in set(labels.tolist()):
        members = order[labels[order] == label]
        turns[members] = torch.arange(len(members))
    indices = order[turns[order].argsort(stable=True)][:most]
    return indices.sort().values


def pictures_of(split: Split, ids: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Examples as models see them, uint8 `[N, C, height, width]`.

    Args:
        split: Their split.
        ids: int64, which ones.
        size: `(height, width)` in pixels.
    """
    plan = [(part, None) for part in torch.split(ids, 256)]
    batches: Sequence[NDArray[np.uint8]] = [
        batch.images.cpu().numpy() for batch in split.batches(plan, size)
    ]
    return np.concatenate(batches)


def as_floats(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pictures in [0, 1], as files take them."""
    return pictures.astype(np.float32) / np.float32(255)
