"""Statistics of batch norm, estimated anew."""

from __future__ import annotations

import torch
from torch import nn

from nasdistill.training.batch_norm import reestimate


def test_the_statistics_are_those_of_the_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.BatchNorm2d(3))
    net[0].running_mean.fill_(7.0)
    batches = [torch.randn(8, 3, 2, 2) + 3, torch.randn(8, 3, 2, 2) - 1]
    reestimate(net, batches)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    spreads = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(net[0].running_mean, means, atol=1e-5)
    assert torch.allclose(net[0].running_var, spreads, rtol=1e-5)
    # Dropout stayed off: what comes out of the first norm has mean 0 in each batch.
    assert torch.allclose(net[2].running_mean, torch.zeros(3), atol=1e-5)
    assert not any(module.training for module in net.modules())
    assert net[0].momentum == 0.1


def test_a_net_without_batch_norm_is_not_run() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    reestimate(Fails(), [torch.zeros(1)])
