"""Views: augmented forms of one example, drawn by counting instead of by a running generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SHIFT = 2
SMALLEST_CROP = 0.35


@dataclass(frozen=True)
class Boxes:
    """Where each view looks, in the pixels of the source image.

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
    """How views are drawn.

    Attributes:
        kind: `shift` by up to two pixels, for small images; `crop`, a random resized crop
            (Szegedy et al., 2015), for large ones; `none`.
        seed: Of the data, not of a trial.
        flip: Whether half the views are mirrored.
    """

    kind: Literal["shift", "crop", "none"]
    seed: int
    flip: bool = True

    def boxes(self, ids: Tensor, view: int, height: int, width: int) -> Boxes:
        """Draws one view of each example.

        Args:
            ids: int64 `[B]`.
            view: Number of the view.
            height: Of the source images, in pixels.
            width: Of the source images, in pixels.
        """
        count = len(ids)
        zeros = torch.zeros(count, device=ids.device)
        full = Boxes(zeros, zeros, zeros + height, zeros + width, zeros.bool())
        if self.kind == "none":
            return full
        u = [_uniform(ids, view, self.seed, draw) for draw in range(5)]
        flip = (u[0] < 0.5) & self.flip
        if self.kind == "shift":
            top = (u[1] * (2 * SHIFT + 1)).floor() - SHIFT
            left = (u[2] * (2 * SHIFT + 1)).floor() - SHIFT
            return Boxes(top, left, full.height, full.width, flip)
        area = (SMALLEST_CROP + (1 - SMALLEST_CROP) * u[1]) * height * width
        ratio = torch.exp((u[2] * 2 - 1) * torch.log(torch.tensor(4 / 3, device=ids.device)))
        tall = (area / ratio).sqrt().clamp(max=height)
        wide = (area * ratio).sqrt().clamp(max=width)
        return Boxes(u[3] * (height - tall), u[4] * (width - wide), tall, wide, flip)


def render_shift(images: Tensor, ids: Tensor, boxes: Boxes) -> Tensor:
    """Shifts and flips whole pixels; what lies outside the image is zero.

    Args:
        images: uint8 `[N, C, H, W]`.
        ids: int64 `[B]`, which of them.
        boxes: Of kind `shift`.

    Returns:
        uint8 `[B, C, H, W]`.
    """
    height, width = images.shape[-2:]
    device = images.device
    rows = boxes.top.long()[:, None] + torch.arange(height, device=device)
    columns = boxes.left.long()[:, None] + torch.arange(width, device=device)
    columns = torch.where(boxes.flip[:, None], columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    channels = images.shape[1]
    picked = images.flatten(2)[ids].gather(2, index[:, None, :].expand(-1, channels, -1))
    return picked.view(len(ids), channels, height, width) * inside[:, None]


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


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes whole images (uint8 `[B, C, H, W]`), bilinear and antialiased."""
    if images.shape[-2:] == torch.Size(size):
        return images
    out = torch.nn.functional.interpolate(
        images.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return out.round().clamp(0, 255).to(torch.uint8)


def _uniform(ids: Tensor, view: int, seed: int, draw: int) -> Tensor:
    """float32 `[B]` in [0, 1) from (seed, id, view, draw): a 64-bit mixer (Steele et al., 2014)."""
    x = ids * -7046029254386353131 + (view * 8 + draw) * 6364136223846793005 % 2**62
    x = x + (seed * 1442695040888963407) % 2**62
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 40).to(torch.float32) / 2**24


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64, as if unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
