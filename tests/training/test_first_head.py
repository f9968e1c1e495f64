from __future__ import annotations

import torch
from torch import nn

from nasdistill.training.first_head import fit_head


def test_a_first_head_tells_classes_apart_and_gives_the_body_a_gradient() -> None:
    """Two classes that the first feature tells apart; a head of zeros lets no gradient through."""
    torch.manual_seed(0)
    body = nn.Linear(4, 8)
    for head in (nn.Linear(8, 2), nn.Conv2d(8, 2, 1)):
        shape = (8,) if isinstance(head, nn.Linear) else (8, 1, 1)
        net = nn.Sequential(nn.Flatten(), body, nn.Unflatten(1, shape), head, nn.Flatten()).eval()
        nn.init.zeros_(head.weight)
        images = torch.randn(64, 1, 2, 2)
        labels = (images[:, 0, 0, 0] > 0).long()
        before = body.weight.detach().clone()
        fit_head(net, [head], zip(images.split(16), labels.split(16), strict=True))
        assert float((net(images).argmax(dim=1) == labels).float().mean()) > 0.9
        assert torch.equal(body.weight, before)
        nn.functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
        assert body.weight.grad is not None and float(body.weight.grad.abs().max()) > 0
