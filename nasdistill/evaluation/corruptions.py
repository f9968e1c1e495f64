"""Pictures made worse: Gaussian noise and Gaussian blur at fixed severities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["noise", "blur"]


@dataclass(frozen=True)
class Corruption:
    """A corruption of a picture.

    Attributes:
        kind: `noise` or `blur`.
        severity: Of noise the standard deviation, where black is 0 and white is 1; of blur the
            standard deviation of the kernel as a share of the picture's shorter side.
    """

    kind: Kind
    severity: float


NOISE = (0.04, 0.08, 0.12)
BLUR = (0.02, 0.04, 0.06)
CORRUPTIONS = (
    *(Corruption("noise", severity) for severity in NOISE),
    *(Corruption("blur", severity) for severity in BLUR),
)
"""Two of the corruptions of Hendrycks & Dietterich (2019); blur grows with the picture."""


def corrupt(images_BCHW: Tensor, corruption: Corruption, normal_BCHW: Tensor) -> Tensor:
    """Corrupts pictures.

    Args:
        images_BCHW: uint8.
        corruption: The corruption.
        normal_BCHW: float32, standard normal, of the same shape; noise is this times its severity,
            so that a stronger noise is the same pattern, only stronger.

    Returns:
        uint8 `[B, C, H, W]`; values beyond black or white are cut off.
    """
    if corruption.kind == "noise":
        corrupted = images_BCHW.float() + 255 * corruption.severity * normal_BCHW
    else:
        corrupted = _blur(images_BCHW.float(), corruption.severity * min(images_BCHW.shape[-2:]))
    return corrupted.round_().clamp_(0, 255).to(torch.uint8)


def _blur(images_BCHW: Tensor, sigma: float) -> Tensor:
    """Convolves with a Gaussian of `sigma` pixels, cut off at three; the edge is mirrored."""
    reach = min(math.ceil(3 * sigma), min(images_BCHW.shape[-2:]) - 1)
    offset = torch.arange(-reach, reach + 1, device=images_BCHW.device, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    planes = torch.nn.functional.pad(images_BCHW.flatten(0, 1)[:, None], (reach,) * 4, "reflect")
    planes = torch.nn.functional.conv2d(planes, kernel[None, None, :, None])
    planes = torch.nn.functional.conv2d(planes, kernel[None, None, None, :])
    return planes.view_as(images_BCHW)
