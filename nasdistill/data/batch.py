"""Batches: some examples in one view, at one or more sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        share: float32 `[B]` on the device, in [0, 1]: what of each picture is the example itself.
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

    def images_at(self, size: Size) -> Tensor:
        """The pictures at a size that the batch was asked for.

        Args:
            size: `(height, width)` in pixels.

        Returns:
            uint8 `[B, C, height, width]` on the device.
        """
        size = (size[0], size[1])
        if tuple(self.images.shape[-2:]) == size:
            return self.images
        assert size in self.at, f"{size} was not among the sizes asked for"
        return self.at[size]
