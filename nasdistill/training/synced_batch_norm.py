"""Batch norm whose statistics are of the batch of all processes, not of each one's slice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nasdistill.training.data_parallel import DataParallel

_SIGNATURE = inspect.signature(functional.batch_norm)


class SyncedBatchNorm(TorchFunctionMode):
    """Within a `with` block, batch norms in training see the batch of all processes.

    It takes the place of the function that every such layer calls: those of timm have an activation
    in them, which `torch.nn.SyncBatchNorm.convert_sync_batchnorm` would drop, and that layer runs
    on CUDA alone.

    Args:
        processes: Those that compute the same batch.
    """

    def __init__(self, processes: DataParallel) -> None:
        super().__init__()
        self._processes = processes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, or what takes its place."""
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            call = _SIGNATURE.bind(*args, **kwargs)
            call.apply_defaults()
            if call.arguments.pop("training"):
                return batch_norm(self._processes, **call.arguments)
        return func(*args, **kwargs)


def batch_norm(
    processes: DataParallel,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """As `torch.nn.functional.batch_norm` in training (Ioffe and Szegedy, 2015).

    Args:
        processes: Those that compute the same batch.
        input: This process's slice, `[B, C, …]`.
        running_mean: float32 `[C]`, updated in place; None for none.
        running_var: The same of the variance.
        weight: float32 `[C]`, the scale; None for 1.
        bias: float32 `[C]`, the shift; None for 0.
        momentum: Share of the new statistics in the running ones.
        eps: Added to the variance.
    """
    x = input.float()
    per_channel = [1, -1] + [1] * (x.ndim - 2)
    with torch.no_grad():
        count, mean_C, squares_C = _statistics(processes, x)
        scale_C = (squares_C / count + eps).rsqrt()
        if running_mean is not None:
            running_mean.lerp_(mean_C, momentum)
        if running_var is not None:
            running_var.lerp_(squares_C / (count - 1).clamp_min(1), momentum)
    normalised = _Normalise.apply(
        x, mean_C.view(per_channel), scale_C.view(per_channel), count, processes
    )
    if weight is not None:
        normalised = normalised * weight.view(per_channel)
    if bias is not None:
        normalised = normalised + bias.view(per_channel)
    output: Tensor = normalised.to(input.dtype)
    return output


def _statistics(processes: DataParallel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean, and sum of squared deviations by channel, over the slices of all processes.

    Combined from each one's own, so that no large sums are subtracted (Chan, Golub and LeVeque,
    "Algorithms for Computing the Sample Variance", 1983).
    """
    others = _all_but_channels(x)
    variance_C, mean_C = torch.var_mean(x, others, correction=0)
    count = torch.full_like(mean_C[:1], x.numel() // x.shape[1])
    gathered = processes.gather(torch.cat([mean_C, variance_C * count, count]))
    means_PC, squares_PC, counts_P1 = torch.split(gathered, [len(mean_C), len(mean_C), 1], dim=1)
    total = counts_P1.sum()
    mean_C = (means_PC * counts_P1).sum(dim=0) / total
    squares_C = (squares_PC + counts_P1 * (means_PC - mean_C).square()).sum(dim=0)
    return total, mean_C, squares_C


class _Normalise(torch.autograd.Function):
    """(x − mean) · scale, whose gradient knows that mean and scale come of all slices."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, count: Tensor, processes: DataParallel
    ) -> Tensor:
        normalised = (x - mean) * scale
        ctx.save_for_backward(normalised, scale, count)
        ctx.processes = processes
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        normalised, scale, count = ctx.saved_tensors
        others = _all_but_channels(normalised)
        sums = torch.stack([gradient.sum(others), (gradient * normalised).sum(others)])
        ctx.processes.add_up(sums)
        mean, slope = (sums / count).view(2, *scale.shape)
        return (gradient - mean - normalised * slope) * scale, None, None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]
