"""Depthwise convolution, with gradients that are quick on a CPU.

oneDNN, which PyTorch calls there, has slow paths for two of them (`benchmarks/depthwise.py`): that
of filters wider than three columns, and in bfloat16 that of the input where the stride is not 1. So
wide filters are taken three columns at a time, and the latter is computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

QUICK = 3
"""Columns of a filter whose gradient oneDNN computes quickly."""


class DepthwiseConv2d(nn.Conv2d):
    """A convolution with one filter per channel.

    Attributes:
        keep_fp32: Whether it runs in float32 under autocast.
    """

    keep_fp32: bool = False

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if self.keep_fp32:
            with torch.autocast(input.device.type, enabled=False):
                return self._convolved(input.float())
        return self._convolved(input)

    def _convolved(self, x_BCHW: Tensor) -> Tensor:
        learns = self.training and torch.is_grad_enabled() and x_BCHW.device.type == "cpu"
        if not learns or torch.compiler.is_compiling():
            return super().forward(x_BCHW)
        weight, stride = self.weight, self.stride[0]
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x_BCHW, weight = x_BCHW.to(dtype), weight.to(dtype)
        y_BCHW: Tensor
        if self.kernel_size[1] <= QUICK and (stride == 1 or x_BCHW.dtype.itemsize >= 4):
            y_BCHW = self._conv_forward(x_BCHW, weight, None)
        else:
            y_BCHW = _Depthwise.apply(x_BCHW, weight, stride, self.padding[0])
        return y_BCHW


class _Depthwise(torch.autograd.Function):
    """The same convolution as PyTorch's, with gradients of our own."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, w_C1KK: Tensor, stride: int, padding: int) -> Tensor:
        """Convolves."""
        ctx.save_for_backward(x_BCHW, w_C1KK)
        ctx.geometry = stride, padding
        return F.conv2d(x_BCHW, w_C1KK, None, stride, padding, 1, len(w_C1KK))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of input and filters."""
        x_BCHW, w_C1KK = ctx.saved_tensors
        of_input = of_filters = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                of_input = input_gradient(x_BCHW, w_C1KK, g_BCHW, *ctx.geometry)
            if ctx.needs_input_grad[1]:
                of_filters = filter_gradient(x_BCHW, w_C1KK.shape[-1], g_BCHW, *ctx.geometry)
        return of_input, of_filters, None, None


def input_gradient(
    x_BCHW: Tensor, w_C1KK: Tensor, g_BCHW: Tensor, stride: int, padding: int
) -> Tensor:
    """The gradient of a depthwise convolution's input.

    Args:
        x_BCHW: The input; only its shape counts.
        w_C1KK: The filters.
        g_BCHW: The gradient of the output, of the filters' dtype.
        stride: Of the convolution, in both directions.
        padding: Zeros on each side.

    Returns:
        `[B, C, H, W]` in the filters' dtype.
    """
    channels, side = len(w_C1KK), w_C1KK.shape[-1]
    if stride == 1:  # A convolution with the filters turned round.
        flipped = w_C1KK.flip(2, 3)
        return F.conv2d(g_BCHW, flipped, None, 1, side - 1 - padding, 1, channels)
    dtype = torch.promote_types(w_C1KK.dtype, torch.float32)
    operands = x_BCHW.to(dtype), w_C1KK.to(dtype), g_BCHW.to(dtype)
    return _built_in(*operands, stride, (padding, padding), of_input=True).to(w_C1KK.dtype)


def filter_gradient(x_BCHW: Tensor, side: int, g_BCHW: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of a depthwise convolution's filters, a few of their columns at a time.

    Args:
        x_BCHW: The input.
        side: Of the filters, in pixels.
        g_BCHW: The gradient of the output, of the input's dtype.
        stride: Of the convolution, in both directions.
        padding: Zeros on each side.

    Returns:
        `[C, 1, side, side]` in the input's dtype.
    """
    channels, wide, last = x_BCHW.shape[1], x_BCHW.shape[3], stride * (g_BCHW.shape[3] - 1)
    parts = []
    for left in range(0, side, QUICK):
        columns = min(QUICK, side - left)
        filters = x_BCHW.new_empty(channels, 1, side, columns)
        if columns == side:
            return _built_in(x_BCHW, filters, g_BCHW, stride, (padding, padding), of_input=False)
        # The part of the input that these columns see, from their first place to their last one.
        first, span = left - padding, last + columns
        inside = slice(max(first, 0), max(first + span, 0))
        before, behind = max(-first, 0), max(first + span - wide, 0)
        seen_BCHW = F.pad(x_BCHW[..., inside], (min(before, span), min(behind, span)))
        parts.append(_built_in(seen_BCHW, filters, g_BCHW, stride, (padding, 0), of_input=False))
    return torch.cat(parts, dim=3)


def _built_in(
    x_BCHW: Tensor,
    w_C1KK: Tensor,
    g_BCHW: Tensor,
    stride: int,
    padding: tuple[int, int],
    *,
    of_input: bool,
) -> Tensor:
    """One of PyTorch's own gradients; the values of the other operand do not count."""
    gradients = torch.ops.aten.convolution_backward(
        g_BCHW,
        x_BCHW,
        w_C1KK,
        None,
        [stride, stride],
        padding,
        [1, 1],
        False,
        [0, 0],
        x_BCHW.shape[1],
        [of_input, not of_input, False],
    )
    gradient: Tensor = gradients[0] if of_input else gradients[1]
    return gradient
