"""Views: augmented forms of one example, drawn by counting instead of by a running generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from nasdistill.data.counter import uniform
from nasdistill.data.mixing import Mix, Mixing
from nasdistill.data.pictures import fit_batch
from nasdistill.data.randaugment import RandAugment

SHIFT = 2
SMALLEST_CROP = 0.35
CUT_OUT_STREAM = 32


@dataclass(frozen=True)
class Boxes:
    """The part of the source image that each view shows, in its pixels.

    Attributes:
        top, left, height, width: float32 `[B]`; may reach over the edge.
        flip: bool `[B]`, mirrored left to right.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


@dataclass(frozen=True)
class Views:
    """The distribution that views are drawn from.

    Attributes:
        kind: `shift` by up to two pixels, for small images; `crop`, a random resized crop
            (Szegedy et al., 2015), for large ones; `none`.
        seed: Of the data, not of a trial.
        flip: Whether half the views are mirrored.
        mixing: The mixing of views with those of other examples; None for none.
        rand_augment: Operations on an image before it is cut or shifted; None for none.
        cut_out: Side of a square that is blackened in each view, as a share of the picture's, at a
            random place that may reach over the edge (DeVries and Taylor, "Improved Regularization
            of Convolutional Neural Networks with Cutout", 2017); None for none.
    """

    kind: Literal["shift", "crop", "none"]
    seed: int
    flip: bool = True
    mixing: Mixing | None = None
    rand_augment: RandAugment | None = None
    cut_out: float | None = None

    def __repr__(self) -> str:
        # Without what is None: this enters fingerprints, which are older than some attributes.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        parts = (f"{name}={value!r}" for name, value in values.items() if value is not None)
        return f"Views({', '.join(parts)})"

    @property
    def margin(self) -> int:
        """Pixels of zeros that `pad` puts on each side, and `render` expects."""
        return SHIFT if self.kind == "shift" else 0

    def pad(self, images: Tensor) -> Tensor:
        """Puts the margin around images `[N, C, H, W]`, once, so that shifts only have to cut."""
        return torch.nn.functional.pad(images, (self.margin,) * 4) if self.margin else images

    def boxes(self, ids: Tensor, view: int, height: int, width: int) -> Boxes:
        """Draws one view of each example.

        Args:
            ids: int64 `[B]`.
            view: Number of the view.
            height: Of the source images, in pixels.
            width: Of the source images, in pixels.
        """
        zeros = torch.zeros(len(ids), device=ids.device)
        full = Boxes(zeros, zeros, zeros + height, zeros + width, zeros.bool())
        if self.kind == "none":
            return full
        u = uniform(ids, view, self.seed, draws=3 if self.kind == "shift" else 5)
        flip = (u[0] < 0.5) & self.flip
        if self.kind == "shift":
            top, left = (u[1:3] * (2 * SHIFT + 1)).floor() - SHIFT
            return Boxes(top, left, full.height, full.width, flip)
        area = (SMALLEST_CROP + (1 - SMALLEST_CROP) * u[1]) * height * width
        ratio = torch.exp((u[2] * 2 - 1) * math.log(4 / 3))
        tall = (area / ratio).sqrt().clamp(max=height)
        wide = (area * ratio).sqrt().clamp(max=width)
        return Boxes(u[3] * (height - tall), u[4] * (width - wide), tall, wide, flip)

    def mix(self, ids: Tensor, view: int | None, count: int) -> Mix | None:
        """Draws the partners that examples are mixed with.

        Args:
            ids: int64 `[B]`.
            view: Number of the view; the plain image is never mixed.
            count: Examples in the split.

        Returns:
            Partners and shares, on the device of `ids`; None where examples are not mixed.
        """
        if self.mixing is None or view is None:
            return None
        return self.mixing.draw(ids, view, self.seed, count)

    def render(
        self,
        padded: Tensor,
        rows: Tensor,
        ids: Tensor,
        view: int | None,
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Shows examples, not mixed, each the same picture whatever the batch it is in.

        Args:
            padded: Source images as `pad` gives them, uint8 `[N, C, H + 2 margin, W + 2 margin]`.
            rows: int64 `[B]`, which of them.
            ids: int64 `[B]`, the examples that these are.
            view: Number of the view; None for the plain image, cut in the middle where a size has
                other proportions.
            sizes: `(height, width)` of the pictures, in pixels.

        Returns:
            uint8 `[B, C, height, width]` for each size.
        """
        images_by_size = self._drawn(padded, rows, ids, view, sizes)
        if self.cut_out is None or view is None:
            return images_by_size
        centres = uniform(ids, view, self.seed, 2, CUT_OUT_STREAM)
        return [blacken(images, centres, self.cut_out) for images in images_by_size]

    def _drawn(
        self,
        padded: Tensor,
        rows: Tensor,
        ids: Tensor,
        view: int | None,
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        edge, (tall, wide) = self.margin, padded.shape[-2:]
        height, width = tall - 2 * edge, wide - 2 * edge
        plain = padded[..., edge : edge + height, edge : edge + width]
        if view is not None and self.rand_augment is not None:
            plain = self.rand_augment.apply(plain[rows], ids, view, self.seed)
            padded, rows = self.pad(plain), torch.arange(len(rows), device=rows.device)
        if view is None or self.kind == "none":
            images = plain[rows]
            return [fit_batch(images, size) for size in sizes]
        boxes = self.boxes(ids, view, height, width)
        if self.kind == "shift":
            images = render_shift(padded, rows, boxes)
            return [cover(images, size) for size in sizes]
        source = padded[rows]
        return [render_crop(source, boxes, size) for size in sizes]


def render_shift(padded: Tensor, rows: Tensor, boxes: Boxes) -> Tensor:
    """Shifts and flips by whole pixels; the margin comes in at the edge.

    Args:
        padded: uint8 `[N, C, H + 2 SHIFT, W + 2 SHIFT]`.
        rows: int64 `[B]`, which of them.
        boxes: Of kind `shift`.

    Returns:
        uint8 `[B, C, H, W]`.
    """
    channels, tall, wide = padded.shape[1:]
    height, width = tall - 2 * SHIFT, wide - 2 * SHIFT
    down = (boxes.top.long() + SHIFT)[:, None] + torch.arange(height, device=padded.device)
    along = (boxes.left.long() + SHIFT)[:, None] + torch.arange(width, device=padded.device)
    along = torch.where(boxes.flip[:, None], along.flip(1), along)
    index = (down[:, :, None] * wide + along[:, None, :]).flatten(1)
    picked = padded.flatten(2)[rows].gather(2, index[:, None, :].expand(-1, channels, -1))
    return picked.view(len(rows), channels, height, width)


def render_crop(images: Tensor, boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Cuts boxes out and resizes them, averaging over the pixels that each output covers.

    Args:
        images: uint8 `[B, C, H, W]`.
        boxes: One for each image.
        size: `(height, width)` of the result in pixels.

    Returns:
        uint8 `[B, C, height, width]`.
    """
    from torchvision.ops import roi_align

    corners = torch.stack(
        [boxes.left, boxes.top, boxes.left + boxes.width, boxes.top + boxes.height], dim=1
    )
    number = torch.arange(len(images), device=images.device, dtype=torch.float32)
    rois = torch.cat([number[:, None], corners], dim=1)
    out = roi_align(images.float(), rois, size, aligned=True)
    out = torch.where(boxes.flip[:, None, None, None], out.flip(3), out)
    return out.round().clamp(0, 255).to(torch.uint8)


def blacken(images: Tensor, centres: Tensor, side: float) -> Tensor:
    """Blackens a square in each image, the same part of it whatever its size.

    Args:
        images: uint8 `[B, C, H, W]`.
        centres: Down and along, in [0, 1), float32 `[2, B]`.
        side: Of the square, as a share of the image's sides.

    Returns:
        uint8 `[B, C, H, W]`.
    """
    height, width = images.shape[-2:]
    down_H = (torch.arange(height, device=images.device) + 0.5) / height
    along_W = (torch.arange(width, device=images.device) + 0.5) / width
    inside_BH = (down_H - centres[0, :, None]).abs() < side / 2
    inside_BW = (along_W - centres[1, :, None]).abs() < side / 2
    kept_BHW = ~(inside_BH[:, :, None] & inside_BW[:, None, :])
    return images * kept_BHW[:, None]


def cover(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes the largest part of the middle that has the proportions of `size`.

    Args:
        images: uint8 `[B, C, H, W]`.
        size: `(height, width)` of the result in pixels.

    Returns:
        uint8 `[B, C, height, width]`, bilinear and antialiased.
    """
    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return images
    scale = min(height / size[0], width / size[1])
    tall, wide = (max(1, round(side * scale)) for side in size)
    top, left = (height - tall) // 2, (width - wide) // 2
    middle = images[..., top : top + tall, left : left + wide]
    if (tall, wide) == tuple(size):
        return middle
    out = torch.nn.functional.interpolate(
        middle.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return out.round().clamp(0, 255).to(torch.uint8)
