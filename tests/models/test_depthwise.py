"""Gradients of depthwise convolutions: PyTorch's own are what they are held against."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.models.depthwise import DepthwiseConv2d, _Depthwise, filter_gradient, input_gradient


def gradients(
    layer: DepthwiseConv2d, x: Tensor, g: Tensor, *, own: bool, autocast: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and gradients of input and filters."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x) if own else nn.Conv2d.forward(layer, x)
    y.backward(g.to(y.dtype))
    assert x.grad is not None and layer.weight.grad is not None
    return y.detach(), x.grad, layer.weight.grad


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (9, 13), (3, 2), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_gradients_are_those_of_a_convolution(
    kernel: int, stride: int, size: tuple[int, int], last: bool
) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(6, kernel, stride).double()
    shape = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(4, 6, *size, dtype=torch.float64).contiguous(memory_format=shape)
    g = torch.randn_like(layer(x))
    for actual, expected in zip(
        gradients(layer, x, g, own=True), gradients(layer, x, g, own=False), strict=True
    ):
        torch.testing.assert_close(actual, expected)
        assert actual.stride() == expected.stride()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (5, 2), (7, 1)])
def test_gradients_in_half_precision(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(8, kernel, stride)
    x = torch.randn(16, 8, 14, 14).contiguous(memory_format=torch.channels_last)
    exact = gradients(layer, x, g := torch.randn_like(layer(x)), own=False)
    half = gradients(layer, x, g, own=True, autocast=True)
    assert [t.dtype for t in half] == [torch.bfloat16, torch.float32, torch.float32]
    for actual, expected in zip(half, exact, strict=True):
        assert (actual.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("kernel", "stride", "autocast", "own"),
    [(3, 1, False, False), (3, 2, False, False), (3, 1, True, False)]
    + [(3, 2, True, True), (5, 1, False, True), (5, 2, True, True)],
)
def test_what_is_quick_is_left_to_pytorch(
    kernel: int, stride: int, autocast: bool, own: bool
) -> None:
    layer, x = DepthwiseConv2d(4, kernel, stride), torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
        assert ("_Depthwise" in type(y.grad_fn).__name__) is own
        with torch.no_grad():
            assert torch.equal(layer(x), y)
    # A final that somebody traces or exports is in eval mode.
    assert "_Depthwise" not in type(layer.eval()(x).grad_fn).__name__


def test_only_what_is_asked_for_is_computed() -> None:
    layer, x = DepthwiseConv2d(4, 5, 1), torch.randn(2, 4, 9, 9)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and x.grad is None
    frozen = DepthwiseConv2d(4, 5, 1).requires_grad_(False)
    x.requires_grad_()
    frozen(x).sum().backward()
    assert x.grad is not None and frozen.weight.grad is None
    again = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        again.sum().backward()


def test_gradients_by_themselves() -> None:
    # One channel; a filter 5 wide on a row of 3: worked by hand.
    x, g = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[1.0, 10.0, 100.0]]]])
    gradient = filter_gradient(x, 5, g, 1, 2)
    # Column c of the filter meets x[j + c - 2] where the output is g[j].
    assert gradient[0, 0, 2].tolist() == [100.0, 210.0, 321.0, 32.0, 3.0]
    assert gradient[0, 0, [0, 1, 3, 4]].abs().sum() == 0.0
    w = torch.zeros(1, 1, 5, 5)
    w[0, 0, 2] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    # x[i] meets column c of the filter where the output is g[i - c + 2].
    assert input_gradient(x, w, g, 1, 2)[0, 0, 0].tolist() == [123.0, 234.0, 345.0]
    assert torch.equal(_Depthwise.apply(x, w, 1, 2), F.conv2d(x, w, None, 1, 2))
