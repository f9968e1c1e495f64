"""A first head for a net that knows other classes: good enough to judge its channels by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS, RATE, DECAY = 100, 0.01, 0.01
"""Steps of AdamW on all images at once."""


def fit_head(
    module: nn.Module, heads: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Fits the layers that give a classifier's logits to some images; the rest stays as it is.

    Behind a head of zeros nothing has a gradient, and behind a random one it says nothing of the
    classes.

    Args:
        module: From images to logits; in eval mode.
        heads: Its heads, linear layers or 1x1 convolutions; changed in place.
        batches: Images `[B, C, H, W]` and labels int64 `[B]`.
    """
    seen: dict[nn.Module, list[Tensor]] = {head: [] for head in heads}

    def note(head: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[head].append(inputs[0].detach().float())

    label_parts: list[Tensor] = []
    with ExitStack() as hooks, torch.no_grad():
        for head in heads:
            hooks.callback(head.register_forward_pre_hook(note).remove)
        for images, labels in batches:
            module(images)
            label_parts.append(labels)
    for head, features in seen.items():
        _fit(head, torch.cat(features), torch.cat(label_parts))


def _fit(head: nn.Module, features: Tensor, labels: Tensor) -> None:
    learns = [parameter.requires_grad for parameter in head.parameters()]
    head.requires_grad_(True)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    optimiser = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimiser.zero_grad()
            logits = head(features)
            if logits.ndim > 2:  # of a convolution, by place
                logits = logits.flatten(2).mean(dim=2)
            F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    head.zero_grad(set_to_none=True)
    for parameter, flag in zip(head.parameters(), learns, strict=True):
        parameter.requires_grad_(flag)
