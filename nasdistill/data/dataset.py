"""Datasets: examples in four splits, with a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.types import Input
from nasdistill.data.pictures import FULL_DEPTH, Preparation
from nasdistill.data.raw import Labels, Raw
from nasdistill.data.sources import check_part
from nasdistill.data.splits import ResidentSplit, Split, joined
from nasdistill.data.views import Views

Parts = Mapping[str, tuple[Raw, Labels]]


@dataclass(frozen=True)
class Origins:
    """The places of the training examples in their source.

    Attributes:
        rows: int64 `[N]`, their row numbers among the source's own training examples.
        names: Of all of those; None where their row numbers are their names.
    """

    rows: NDArray[np.int64]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """Examples in four splits, on a device.

    Attributes:
        name: The user's name of it.
        classes: Names of the classes, by label.
        input: The shape at which students see an image.
        train: The examples that students and teachers are trained on; may be empty, see
            `has_training`.
        score: Half of the validation split: steers the search.
        audit: The other half: recommends a final.
        test: Touched once, by finals.
        mean: Of the training split by channel, in [0, 1] units; of `score` where that is empty.
        std: As `mean`.
        views: The views that the training split shows.
        fingerprint: Hash of content, labels, splits and views.
        attribution: Credits of the data.
        origins: Places of the training examples in their source; None where they are all of a
            source's, in its order.
        bits: In use in pictures of more than 8 bits a channel; see `Preparation`.
        notes: What was done to examples or left out, a sentence each.
        has_own_splits: Whether its source says which examples are for validation, or for the test.
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
    origins: Origins | None = field(default=None, repr=False, compare=False)
    bits: int = FULL_DEPTH
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    has_own_splits: bool = field(default=True, repr=False, compare=False)

    @property
    def has_training(self) -> bool:
        """Whether there are training examples; without, students learn from synthetic ones."""
        return len(self.train) > 0

    @property
    def sample(self) -> Split:
        """The split that gives images to time and compare things on: `train`, else `score`."""
        return self.train if self.has_training else self.score

    @property
    def preparation(self) -> Preparation:
        """The way from a picture's file to the pixels that students see."""
        return Preparation(self.input.channels, self.input.size, self.score.stored, self.bits)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the training examples in their source, in order of their ids.

        The path of a file, relative to the source's folder; else the row number in the
        source's training array, as text. Validation and test examples that were cut off it count.
        """
        origins = self.origins or Origins(np.arange(len(self.train)))
        if origins.names is None:
            return tuple(map(str, origins.rows.tolist()))
        return tuple(origins.names[row] for row in origins.rows.tolist())

    @property
    def everything(self) -> Split:
        """The examples of all splits."""
        return joined([self.train, self.score, self.audit, self.test])

    def tell_notes(self, emit: Emit, stage: str = "teacher") -> None:
        """Tells the user the notes."""
        for text in self.notes:
            emit(Event("warning", f"data {self.name}: {text}", stage=stage))

    def with_views(self, views: Views) -> Dataset:
        """The same data, not copied, whose training split shows other views.

        Args:
            views: The views; the other splits are only ever shown plain.

        Returns:
            A dataset with a fingerprint of its own; this one if these are its views already.
        """
        if views == self.views:
            return self
        fingerprint = _digest(self.fingerprint.encode(), repr(views).encode())
        train = self.train.with_views(views)
        return replace(self, train=train, views=views, fingerprint=fingerprint)

    def with_training(self, images_NCHW: Tensor, labels: Labels, name: str) -> Dataset:
        """Other images to learn from, beside the same validation and test splits.

        Args:
            images_NCHW: uint8, with the dataset's channels; kept on its device.
            labels: int64 `[N]`, indices of its classes.
            name: Name of the new dataset.

        Returns:
            A dataset with moments and a fingerprint of its own; its training examples are named
            by their row numbers.

        Raises:
            UserError: If images or labels don't fit this dataset.
        """
        content = images_NCHW.cpu().contiguous().numpy()
        check_part(f"data {name!r}, training images", content, labels, self.classes)
        if images_NCHW.shape[1] != self.input.channels:
            raise UserError(
                f"data {name!r}: training images have {images_NCHW.shape[1]} channel(s), those of "
                f"{self.name!r} have {self.input.channels}"
            )
        labels = labels.astype(np.int64)
        train = ResidentSplit(images_NCHW, labels, self.views, self.train.labels.device)
        mean, std = train.moments()
        labelled = repr((content.shape, labels.tolist())).encode()
        return replace(
            self,
            name=name,
            train=train,
            mean=mean,
            std=std,
            origins=None,
            fingerprint=_digest(self.fingerprint.encode(), labelled, content.data),
        )


def fingerprint_of(parts: Parts, classes: tuple[str, ...], views: Views) -> str:
    """Hash of a dataset.

    Args:
        parts: Images and labels by the name of their split.
        classes: Names by label.
        views: The views that the training split shows.

    Returns:
        32 hexadecimal digits.
    """
    chunks: list[bytes | memoryview] = [repr((classes, views)).encode()]
    for name, (raw, labels) in parts.items():
        chunks.append(f"{name} {labels.shape}".encode())
        chunks.append(np.ascontiguousarray(labels).tobytes())
        if isinstance(raw, np.ndarray):
            chunks.append(np.ascontiguousarray(raw).data)
        else:
            chunks.append(raw.identity())
    return _digest(*chunks)


def _digest(*chunks: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
