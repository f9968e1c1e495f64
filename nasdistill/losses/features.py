"""Terms on the intermediate outputs of single examples: values, channels and positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.common.values import Temperature
from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import OnLayers, Pair, Resize, at_one_size, projector
from nasdistill.losses.options import LayersOptions, TermOptions
from nasdistill.losses.schedules import Schedule, constant


class FeaturesOptions(LayersOptions):
    """`features`: mean squared error between feature maps.

    Attributes:
        resize: Where sizes differ: `pool` the larger to the smaller, or `bilinear`, the teacher's
            to the student's.
    """

    term: Literal["features"]
    resize: Resize = "pool"


@dataclass(frozen=True)
class Features(OnLayers):
    """Mean squared error between maps (Romero et al., "FitNets", 2015).

    Attributes:
        resize: How maps of different size are brought together.
    """

    Options: ClassVar[type[TermOptions]] = FeaturesOptions
    relates_channels: ClassVar[bool] = True
    resize: Resize = "pool"

    def helper(self, pair: Pair) -> nn.Module | None:
        """A projector where channels differ."""
        return projector(pair, self.combine)

    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """See `OnLayers`."""
        student_BCHW, teacher_BCHW = at_one_size(student_BCHW, teacher_BCHW, self.resize)
        if helper is not None:
            student_BCHW = helper(student_BCHW).float()
        return (student_BCHW - teacher_BCHW).square().mean(dim=(1, 2, 3))


class GramOptions(LayersOptions):
    """`gram`: cosines between channels, softened by a temperature.

    Attributes:
        temperature: Of the cosines.
    """

    term: Literal["gram"]
    temperature: Temperature = 0.2


@dataclass(frozen=True)
class Gram(OnLayers):
    """Relations between channels: rows of Gram matrices as distributions, by KL.

    The Gram matrix of channels (Gatys et al., 2016; between layers: Yim et al., "A Gift from
    Knowledge Distillation", 2017) is taken of channels of length 1, so that its entries are
    cosines, divided by a temperature and put through a softmax row by row.

    Attributes:
        temperature: Of the cosines, over progress.
    """

    Options: ClassVar[type[TermOptions]] = GramOptions
    relates_places: ClassVar[bool] = True
    relates_channels: ClassVar[bool] = True
    temperature: Schedule = constant(0.2)

    def helper(self, pair: Pair) -> nn.Module | None:
        """A projector where channels differ."""
        return projector(pair, self.combine)

    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """See `OnLayers`."""
        student_BCHW, teacher_BCHW = at_one_size(student_BCHW, teacher_BCHW)
        if helper is not None:
            student_BCHW = helper(student_BCHW).float()
        temperature = self.temperature(progress)
        log_s_BCC, log_t_BCC = (
            (gram(x) / temperature).log_softmax(dim=2) for x in (student_BCHW, teacher_BCHW)
        )
        return (log_t_BCC.exp() * (log_t_BCC - log_s_BCC)).sum(dim=2).mean(dim=1)


def gram(x_BCHW: Tensor) -> Tensor:
    """Cosines between channels, `[B, C, C]`."""
    x_BCN = F.normalize(x_BCHW.flatten(2), dim=2)
    return x_BCN @ x_BCN.transpose(1, 2)


class NSTOptions(LayersOptions):
    """`nst`: where neurons are active, as a distribution over positions."""

    term: Literal["nst"]


@dataclass(frozen=True)
class NST(OnLayers):
    """Neuron selectivity: how a layer's channels are distributed over positions.

    The squared maximum mean discrepancy, with the kernel k(x, y) = (x·y)², between the sets of
    channels of student and teacher, each channel a unit vector over positions (Huang and Wang,
    "Like What You Like", 2017). Channels may differ in number.
    """

    Options: ClassVar[type[TermOptions]] = NSTOptions
    relates_places: ClassVar[bool] = True

    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """See `OnLayers`."""
        maps = at_one_size(student_BCHW, teacher_BCHW)
        s_BCN, t_BDN = (F.normalize(x.flatten(2), dim=2) for x in maps)
        return _kernel(t_BDN, t_BDN) + _kernel(s_BCN, s_BCN) - 2.0 * _kernel(s_BCN, t_BDN)


def _kernel(a_BCN: Tensor, b_BDN: Tensor) -> Tensor:
    """The mean of (x·y)² over all pairs of channels, `[B]`."""
    return torch.einsum("bcn,bdn->bcd", a_BCN, b_BDN).square().mean(dim=(1, 2))
