"""Precision: autocast, and the layers that stay in float32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from nasdistill.models.depthwise import DepthwiseConv2d

Precision = Literal["fp32", "bf16", "bf16-mixed"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of a precision."""
    return torch.autocast(
        device.type,
        dtype=torch.bfloat16,
        enabled=precision != "fp32",
        cache_enabled=device.type != "cuda",  # a cached cast would not be replayed
    )


def set_precision(module: nn.Module, precision: Precision) -> None:
    """Tells depthwise convolutions whether to stay in fp32 under autocast."""
    for layer in module.modules():
        if isinstance(layer, DepthwiseConv2d):
            layer.keep_fp32 = precision == "bf16-mixed"


class depthwise_in:  # noqa: N801 - reads as a statement
    """Sets `keep_fp32` of every depthwise convolution for the length of a `with` block."""

    def __init__(self, module: nn.Module, *, keep_fp32: bool) -> None:
        self._layers = [m for m in module.modules() if isinstance(m, DepthwiseConv2d)]
        self._before = [layer.keep_fp32 for layer in self._layers]
        self._during = keep_fp32

    def __enter__(self) -> None:
        for layer in self._layers:
            layer.keep_fp32 = self._during

    def __exit__(self, *exception: object) -> None:
        for layer, before in zip(self._layers, self._before, strict=True):
            layer.keep_fp32 = before
