"""Counter-based random numbers: each follows from its place, not from earlier draws."""

from __future__ import annotations

import torch
from torch import Tensor

DRAWS = 8  # Of one stream for one view.


def bits(ids_B: Tensor, view: int, seed: int, draws: int, stream: int = 0) -> Tensor:
    """64 random bits from each (seed, stream, id, view, draw), by a mixer (Steele et al., 2014).

    Args:
        ids_B: int64, on any device.
        view: Number of the view.
        seed: Of the data.
        draws: Number of draws, up to `DRAWS`.
        stream: Number of their use; streams don't depend on one another.

    Returns:
        int64 `[draws, B]`, of which the upper bits are the better ones.
    """
    assert draws <= DRAWS
    place = seed + stream * 0x9E3779B97F4A7C15
    base = ids_B * -7046029254386353131 + (place * 1442695040888963407) % 2**62
    steps = ((view * DRAWS + draw) * 6364136223846793005 % 2**62 for draw in range(draws))
    x = torch.stack([base + step for step in steps])
    x = (x ^ upper(x, 34)) * -4658895280553007687
    x = (x ^ upper(x, 37)) * -7723592293110705685
    return x ^ upper(x, 33)


def uniform(ids_B: Tensor, view: int, seed: int, draws: int, stream: int = 0) -> Tensor:
    """float32 `[draws, B]` in [0, 1), multiples of 2^-24; see `bits`."""
    return upper(bits(ids_B, view, seed, draws, stream), 24).to(torch.float32) / 2**24


def below(x: Tensor, count: int) -> Tensor:
    """Whole numbers in [0, `count`), as good as equally likely, from random bits (int64)."""
    assert 0 < count < 2**31
    return (upper(x, 32) * count) >> 32


def upper(x: Tensor, count: int) -> Tensor:
    """The upper `count` bits of int64, as whole numbers from 0."""
    return (x >> (64 - count)) & ((1 << count) - 1)
