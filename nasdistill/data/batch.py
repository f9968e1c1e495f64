"""Batches: some examples in one view, at one or more sizes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Size = tuple[int, int]  # (height, width) in pixels.


@dataclass(frozen=True)
class Batch:
    """Some examples in one view.

    Attributes:
        images: uint8 `[B, C, H, W]` on the device.
        labels: int64 `[B]` on the device.
        ids: int64 `[B]` on the device: which examples of the split.
        ids_host: The same on the CPU.
        view: Number of the view; None for the plain image.
        partners: int64 `[B]` on the device: labels of the examples that these are mixed with;
            None where they are not mixed.
        share: float32 `[B]` on the device, in [0, 1]: the part of each picture that is the example
            itself.
        at: The same pictures in further sizes, by `(height, width)` in pixels.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    ids_host: Tensor
    view: int | None
    partners: Tensor | None = None
    share: Tensor | None = None
    at: Mapping[Size, Tensor] = field(default_factory=dict)

    def parts(self, most: int | None) -> list[Batch]:
        """The same examples in consecutive parts of nearly equal size, nothing copied.

        Args:
            most: Examples in a part, at most; None for one part with all.
        """
        if most is None or most >= len(self.ids_host):
            return [self]
        rows = torch.arange(len(self.ids_host)).tensor_split(-(-len(self.ids_host) // most))
        return self.split([len(part) for part in rows])

    def split(self, sizes: Sequence[int]) -> list[Batch]:
        """The same examples in consecutive parts of these sizes, nothing copied."""
        ends = itertools.accumulate(sizes)
        return [self._rows(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]

    def _rows(self, rows: slice) -> Batch:
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            ids=self.ids[rows],
            ids_host=self.ids_host[rows],
            partners=None if self.partners is None else self.partners[rows],
            share=None if self.share is None else self.share[rows],
            at={size: images[rows] for size, images in self.at.items()},
        )

    def images_at(self, size: Size) -> Tensor:
        """The pictures at one of the sizes that the batch was made with.

        Args:
            size: `(height, width)` in pixels.

        Returns:
            uint8 `[B, C, height, width]` on the device.
        """
        size = (size[0], size[1])
        if tuple(self.images.shape[-2:]) == size:
            return self.images
        assert size in self.at, f"{size} is not among the sizes of this batch"
        return self.at[size]
