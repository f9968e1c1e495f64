"""Precision: autocast, the layers that stay in float32, and what this machine is no good at."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from nasdistill.models.depthwise import DepthwiseConv2d

Precision = Literal["fp32", "bf16", "bf16-mixed"]
LayerKind = Literal["dense", "depthwise", "linear"]

EMULATED = 4.0
"""Times as long as in fp32 that a small layer must take in bf16 for whole batches not to be timed.

A processor without instructions for bf16 takes ten (dense) to ninety times (depthwise) as long."""
PROBE_REPEATS = 5
"""Forward passes of a small layer at each precision; the shortest counts."""


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


def emulates_bf16(module: nn.Module, *, but_depthwise: bool = False) -> bool:
    """Whether a CPU emulates bf16 in layers of a module, so slowly that timing it is a waste.

    Args:
        module: On the device in question; on a GPU the answer is no.
        but_depthwise: Leaves out our depthwise convolutions, which can stay in fp32.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    return on_cpu and any(_emulated(kind) for kind in _kinds_of(module, but_depthwise))


def _kinds_of(module: nn.Module, but_depthwise: bool) -> set[LayerKind]:
    kinds: set[LayerKind] = set()
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            kinds.add("linear")
        elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
            kinds.add("dense")
        elif isinstance(layer, nn.Conv2d) and not (
            but_depthwise and isinstance(layer, DepthwiseConv2d)
        ):
            kinds.add("depthwise")
    return kinds


@cache
def _emulated(kind: LayerKind) -> bool:
    """Whether a small layer takes `EMULATED` times as long in bf16 as in fp32, on this CPU."""
    if kind == "linear":
        layer: nn.Module = nn.Linear(256, 256)
        inputs = torch.zeros(256, 256)
    else:
        layer = nn.Conv2d(32, 32, 3, padding=1, groups=32 if kind == "depthwise" else 1)
        layer.to(memory_format=torch.channels_last)
        inputs = torch.zeros(8, 32, 14, 14).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other while another process is at work
    try:
        single, half = _forward_seconds(layer, inputs), _forward_seconds(layer.bfloat16(), inputs)
    finally:
        torch.set_num_threads(threads)
    return half > EMULATED * single


@torch.inference_mode()
def _forward_seconds(layer: nn.Module, inputs: Tensor) -> float:
    """The shortest of some forward passes, at the layer's own precision, in seconds."""
    inputs = inputs.to(next(layer.parameters()).dtype)
    layer(inputs)  # the first chooses kernels
    seconds = []
    for _ in range(PROBE_REPEATS):
        start = time.perf_counter()
        layer(inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
