"""Sources of examples, their splits, and views of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nasdistill.data.sources import SOURCES, Files, Raw, Source, read_source, register_sources
from nasdistill.data.splits import Batch, ResidentSplit, Split, StreamingSplit, stratified
from nasdistill.data.views import Views
from nasdistill.errors import UserError
from nasdistill.options import Input

__all__ = [
    "SOURCES", "Batch", "Dataset", "Files", "Raw", "ResidentSplit", "Source", "Split",
    "StreamingSplit", "Views", "load_data", "register_sources",
]  # fmt: skip

RESIDENT_LIMIT = 4 << 30
VALIDATION_SHARE = 1 / 6
TEST_SHARE = 1 / 6
SMALL = 64


@dataclass(frozen=True)
class Dataset:
    """Examples in four splits, on a device.

    Attributes:
        name: What the user called it.
        classes: Names of the classes, by label.
        input: The shape at which students see an image.
        train: What students and teachers learn from.
        score: Half of the validation split: steers the search.
        audit: The other half: recommends a final.
        test: Touched once, by finals.
        mean: Of the training split by channel, in [0, 1] units.
        std: Of the training split by channel, in [0, 1] units.
        views: How views are drawn.
        fingerprint: Hash of content, labels, splits and views.
        attribution: Where the data come from.
    """

    name: str
    classes: tuple[str, ...]
    input: Input
    train: Split
    score: Split
    audit: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    views: Views
    fingerprint: str
    attribution: str


def load_data(
    spec: str,
    *,
    device: torch.device,
    seed: int = 0,
    image_size: int | None = None,
    root: str | None = None,
    skip_unreadable: bool = False,
    resident_limit: int = RESIDENT_LIMIT,
) -> Dataset:
    """Loads a source and splits it.

    Args:
        spec: `fashion-mnist-mini`, `fashion-mnist`, `folder:PATH`, `torchvision:NAME`, `npz:PATH`,
            or a name registered by the user's own file.
        device: Where examples and labels live.
        seed: Of the splits and the views.
        image_size: Side in pixels to which images are resized; by default their own size, or 224
            for folders of large images.
        root: Folder of a torchvision dataset.
        skip_unreadable: Whether unreadable images are left out instead of being an error.
        resident_limit: Bytes up to which images are kept on the device; more is streamed.

    Returns:
        The splits.

    Raises:
        UserError: If the data cannot be used; the message says why.
    """
    source = read_source(spec, root, image_size, skip_unreadable, resident_limit)
    parts = _split(source, seed, spec)
    shape = source.shape
    large = max(shape.size) > SMALL
    views = Views("crop" if large else "shift", seed, source.flip)
    splits: dict[str, Split] = {}
    for name, (raw, labels) in parts.items():
        if isinstance(raw, np.ndarray):
            splits[name] = ResidentSplit(torch.from_numpy(raw), labels, views, device)
        else:
            splits[name] = StreamingSplit(raw, labels, views, device, shape)
    mean, std = splits["train"].moments()
    return Dataset(
        name=spec,
        classes=source.classes,
        input=shape,
        train=splits["train"],
        score=splits["score"],
        audit=splits["audit"],
        test=splits["test"],
        mean=mean,
        std=std,
        views=views,
        fingerprint=_fingerprint(parts, source.classes, views),
        attribution=source.attribution,
    )


Parts = Mapping[str, tuple[Raw, "np.ndarray[tuple[int], np.dtype[np.int64]]"]]


def _split(source: Source, seed: int, spec: str) -> Parts:
    """Cuts validation (and test, where there is none) off the training examples."""
    train, train_labels = source.train, source.train_labels
    test, test_labels = source.test, source.test_labels
    if test is None or test_labels is None:
        rest, held = stratified(train_labels, TEST_SHARE, seed, spec)
        test, test_labels = train[held], train_labels[held]
        train, train_labels = train[rest], train_labels[rest]
    validation, validation_labels = source.validation, source.validation_labels
    if validation is None or validation_labels is None:
        rest, held = stratified(train_labels, VALIDATION_SHARE, seed + 1, spec, least=2)
        validation, validation_labels = train[held], train_labels[held]
        train, train_labels = train[rest], train_labels[rest]
    score, audit = stratified(validation_labels, 0.5, seed + 2, spec)
    missing = set(range(len(source.classes))) - set(train_labels.tolist())
    if missing:
        names = ", ".join(source.classes[i] for i in sorted(missing))
        raise UserError(f"data {spec!r}: no training example of {names}")
    return {
        "train": (train, train_labels),
        "score": (validation[score], validation_labels[score]),
        "audit": (validation[audit], validation_labels[audit]),
        "test": (test, test_labels),
    }


def _fingerprint(parts: Parts, classes: tuple[str, ...], views: Views) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((classes, views)).encode())
    for name, (raw, labels) in parts.items():
        digest.update(f"{name} {labels.shape}".encode())
        digest.update(np.ascontiguousarray(labels).tobytes())
        digest.update(raw.tobytes() if isinstance(raw, np.ndarray) else raw.identity())
    return digest.hexdigest()
