"""Mixing two examples into one picture, as a part of the view.

Partner and share follow from (seed, id, view) alone, so that a mixed picture, too, is the same in
every batch, and the teacher's answer to it can be remembered. All of it is counted in whole
numbers, which are the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.data.counter import below, bits, upper

Kind = Literal["mixup", "cutmix"]

STREAM = 1
FINE_BITS, TABLE_BITS = 16, 12
FINE = 1 << FINE_BITS  # Shares and edges are counted in this many parts of the whole.
LARGEST_ALPHA = 1000.0


@dataclass(frozen=True)
class Mix:
    """The mixing of some examples in one view.

    Attributes:
        partners: int64 `[B]`, ids of the other examples.
        share: float32 `[B]` in [0, 1], the share of the example itself.
        box: int64 `[4, B]`, top, left, bottom and right of the part that shows the partner, in
            parts of `FINE` of the picture's sides; None where pictures are averaged.
    """

    partners: Tensor
    share: Tensor
    box: Tensor | None

    def blend(self, own_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """The mixed pictures.

        Args:
            own_BCHW: uint8, the examples themselves.
            other_BCHW: uint8, their partners in the same view and size.

        Returns:
            uint8 `[B, C, H, W]`.
        """
        if self.box is not None:
            return torch.where(self._inside(*own_BCHW.shape[-2:]), other_BCHW, own_BCHW)
        own_B111 = (self.share * FINE).to(torch.int32)[:, None, None, None]
        mixed_BCHW = own_BCHW.int() * own_B111 + other_BCHW.int() * (FINE - own_B111)
        return ((mixed_BCHW + FINE // 2) >> FINE_BITS).to(torch.uint8)

    def _inside(self, height: int, width: int) -> Tensor:
        """Of each pixel, bool `[B, 1, H, W]`: whether its middle lies in the box."""
        assert self.box is not None
        top_B1, left_B1, bottom_B1, right_B1 = self.box[..., None]
        # Both sides of the comparison times twice the picture's side, to stay with whole numbers.
        down_H, along_W = (
            (2 * torch.arange(side, device=self.box.device) + 1) * FINE for side in (height, width)
        )
        rows_BH = (down_H >= top_B1 * 2 * height) & (down_H < bottom_B1 * 2 * height)
        columns_BW = (along_W >= left_B1 * 2 * width) & (along_W < right_B1 * 2 * width)
        inside: Tensor = rows_BH[:, :, None] & columns_BW[:, None, :]
        return inside[:, None]


@dataclass(frozen=True)
class Mixing:
    """Each view of an example is mixed with another one's, the share λ being Beta(α, α).

    Attributes:
        kind: `mixup`, the weighted mean of both pictures (Zhang et al., "mixup: Beyond Empirical
            Risk Minimization", 2018); `cutmix`, a rectangle of one in the other (Yun et al.,
            "CutMix", 2019).
        alpha: α; 1 for a uniform share, less for shares near 0 and 1.

    Raises:
        UserError: If there is no such kind, or α is not above 0 and at most 1000.
    """

    kind: Kind
    alpha: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"mixing {self.kind!r}: allowed are {', '.join(get_args(Kind))}")
        if not 0 < self.alpha <= LARGEST_ALPHA:
            raise UserError(
                f"alpha {self.alpha} of {self.kind}: it must be above 0 and at most "
                f"{LARGEST_ALPHA:g}"
            )

    def draw(self, ids_B: Tensor, view: int, seed: int, count: int) -> Mix:
        """Draws partners and shares.

        Args:
            ids_B: int64, on any device.
            view: Number of the view.
            seed: Of the views.
            count: Examples in the split, any of which may be the partner.

        Returns:
            Partners and shares, on the device of `ids_B`.
        """
        bits_4B = bits(ids_B, view, seed, draws=4, stream=STREAM)
        partners_B = below(bits_4B[0], count)
        shares = quantiles(self.alpha, ids_B.device)
        own_B = shares[upper(bits_4B[1], TABLE_BITS)]
        if self.kind == "mixup":
            return Mix(partners_B, own_B.to(torch.float32) / FINE, None)
        # The box has the picture's proportions, hence a root; √ is rounded alike everywhere.
        side_B = ((1 - own_B.double() / FINE).sqrt() * FINE).round().long()
        start_2B = upper(bits_4B[2:], FINE_BITS) - side_B // 2
        box_4B = torch.cat([start_2B, start_2B + side_B]).clamp(0, FINE)
        cut_B = (box_4B[2] - box_4B[0]) * (box_4B[3] - box_4B[1])
        return Mix(partners_B, (FINE**2 - cut_B).to(torch.float32) / FINE**2, box_4B)


@lru_cache(maxsize=32)
def quantiles(alpha: float, device: torch.device) -> Tensor:
    """Equally likely values of Beta(α, α), by which a share is drawn with one whole number.

    Args:
        alpha: α.
        device: Device of the result; it is computed on the CPU.

    Returns:
        int64 `[4096]`, rising, in parts of `FINE`: the inverse CDF at (i + 1/2) / 4096.
    """
    half, points = 1 << (TABLE_BITS - 1), 1 << 16
    # Only λ < 1/2 is integrated; the rest is its mirror image. With λ = s^(1/p) / 2 the density
    # has no pole at 0, where that of λ has one for α < 1.
    power = min(alpha, 1.0)
    s = torch.linspace(0, 1, points + 1, dtype=torch.float64)
    density = s ** (alpha / power - 1) * (2 - s ** (1 / power)) ** (alpha - 1)
    cdf = torch.cat([s[:1], torch.cumulative_trapezoid(density)])
    cdf *= 0.5 / cdf[-1]
    level = (torch.arange(half, dtype=torch.float64) + 0.5) / (2 * half)
    after = torch.searchsorted(cdf, level)
    within = (level - cdf[after - 1]) / (cdf[after] - cdf[after - 1])
    share = ((after - 1 + within) / points) ** (1 / power) / 2
    lower = (share * FINE).round().long()
    assert math.isfinite(float(share.sum()))
    return torch.cat([lower, FINE - lower.flip(0)]).to(device)
