"""Statistics of batch norm, estimated anew for weights that were changed by hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the running mean and variance of every batch norm by those of some batches.

    Channels that were cut leave the others with another mean and variance than they were trained
    with, and such an error grows from layer to layer.

    Args:
        module: Changed in place; in eval mode afterwards.
        batches: Images as it takes them, `[B, C, H, W]`; all count alike.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:  # dropout and the like stay off
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    for images in batches if norms else ():
        module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
