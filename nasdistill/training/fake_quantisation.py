"""A student as 8 bits make it: weights and activations rounded, gradients as if they were not.

Weights are rounded to int8 with a scale for each output channel, inputs of layers to uint8 with one
scale and zero point, as ONNX Runtime's QDQ files do (`deployment.int8`); a gradient passes where a
value was within its range (Jacob et al., CVPR 2018). A batch norm behind a layer scales whole
channels, so that its being folded into the weights changes nothing of how they are rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_SPECIAL = (nn.Hardswish, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Hardsigmoid)
"""Activations that files compute by themselves, on inputs of 8 bits; ReLU is part of a layer."""
MOMENTUM = 0.01
"""Share of a batch's range in the moving average of an input's range."""


class _RoundedWeight(nn.Module):
    """Rounds weights `[out, …]` to int8, symmetrically, with a scale for each output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the file has it."""
        scale = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        zero_point = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(
            weight.float(), scale.float(), zero_point, 0, -127, 127
        )


class _RoundedInput(nn.Module):
    """Rounds a tensor to uint8; its range is a moving average of the batches' while it learns."""

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """The tensor as the file has it."""
        if self.training:
            low, high = x.detach().aminmax()
            share = torch.where(self.batches == 0, 1.0, MOMENTUM)  # the first sets the range
            self.low.lerp_(low.float().clamp_max(0), share)
            self.high.lerp_(high.float().clamp_min(0), share)
            self.batches.add_(1)
        scale = ((self.high - self.low) / 255).clamp_min(1e-12)
        zero_point = (-self.low / scale).round().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, 0, 255)


def fake_quantise(student: nn.Module) -> None:
    """Makes a student compute as its int8 file would, in place; see `as_before`."""
    for layer in list(student.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            parametrize.register_parametrization(layer, "weight", _RoundedWeight())
        elif not isinstance(layer, _SPECIAL):
            continue
        layer.rounded_input = _RoundedInput().to(_device_of(student))
        layer.register_forward_pre_hook(_round_input)


def as_before(student: nn.Module) -> None:
    """Takes away what `fake_quantise` added; what was learned stays, unrounded."""
    for layer in list(student.modules()):
        if not hasattr(layer, "rounded_input"):
            continue
        del layer.rounded_input
        layer._forward_pre_hooks.clear()
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def _round_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    rounded = layer.rounded_input
    assert isinstance(rounded, _RoundedInput)
    return (rounded(inputs[0]), *inputs[1:])


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
