"""Terms on intermediate outputs, each for itself: their values, channels and positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.losses.layer_pairs import OnLayers, Pair, Resize, met, projector
from nasdistill.losses.schedules import Schedule, constant


@dataclass(frozen=True)
class Features(OnLayers):
    """Mean squared error between maps (Romero et al., "FitNets", 2015).

    Attributes:
        resize: How maps of different size are brought together.
    """

    resize: Resize = "pool"

    def helper(self, pair: Pair) -> nn.Module | None:
        """A projector where channels differ."""
        return projector(pair, self.combine)

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        mine, theirs = met(student_BCHW, teacher_BCHW, self.resize)
        if helper is not None:
            mine = helper(mine).float()
        return (mine - theirs).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Gram(OnLayers):
    """Relations between channels: rows of Gram matrices as distributions, by KL.

    The Gram matrix of channels (Gatys et al., 2016; between layers: Yim et al., "A Gift from
    Knowledge Distillation", 2017) is taken of channels of length 1, so that its entries are
    cosines, divided by a temperature and put through a softmax row by row.

    Attributes:
        temperature: Of the cosines, over progress.
    """

    temperature: Schedule = constant(0.2)

    def helper(self, pair: Pair) -> nn.Module | None:
        """A projector where channels differ."""
        return projector(pair, self.combine)

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        mine, theirs = met(student_BCHW, teacher_BCHW)
        if helper is not None:
            mine = helper(mine).float()
        temperature = self.temperature(progress)
        log_s_BCC, log_t_BCC = ((gram(x) / temperature).log_softmax(dim=2) for x in (mine, theirs))
        return (log_t_BCC.exp() * (log_t_BCC - log_s_BCC)).sum(dim=2).mean(dim=1)


def gram(x_BCHW: Tensor) -> Tensor:
    """Cosines between channels, `[B, C, C]`."""
    x_BCN = F.normalize(x_BCHW.flatten(2), dim=2)
    return x_BCN @ x_BCN.transpose(1, 2)


@dataclass(frozen=True)
class NST(OnLayers):
    """Neuron selectivity: how a layer's channels are distributed over positions.

    The squared maximum mean discrepancy, with the kernel k(x, y) = (x·y)², between the sets of
    channels of student and teacher, each channel a unit vector over positions (Huang and Wang,
    "Like What You Like", 2017). Channels may differ in number.
    """

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        mine, theirs = met(student_BCHW, teacher_BCHW)
        s_BCN, t_BDN = (F.normalize(x.flatten(2), dim=2) for x in (mine, theirs))
        return _kernel(t_BDN, t_BDN) + _kernel(s_BCN, s_BCN) - 2.0 * _kernel(s_BCN, t_BDN)


def _kernel(a_BCN: Tensor, b_BDN: Tensor) -> Tensor:
    """The mean of (x·y)² over all pairs of channels, `[B]`."""
    return torch.einsum("bcn,bdn->bcd", a_BCN, b_BDN).square().mean(dim=(1, 2))
