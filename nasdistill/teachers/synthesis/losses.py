"""The terms of the loss that makes images like the teacher's training data, and their sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nasdistill.teachers.teacher import Teacher


class BatchMoments(NamedTuple):
    """The moments of a batch norm's input.

    Attributes:
        mean: float32 `[channels]`, with gradients.
        variance: float32 `[channels]`, the biased one, with gradients.
        layer: The batch norm.
    """

    mean: Tensor
    variance: Tensor
    layer: _BatchNorm


class InputMoments(NamedTuple):
    """Mean and standard deviation that a teacher normalises by, `[1, C, 1, 1]`."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class LossWeights:
    """The weights of the terms of the loss. The defaults are for a teacher with batch norm.

    Attributes:
        batch_norm: Of `batch_norm_loss`.
        confidence: Of the cross-entropy of the teacher's logits and the drawn classes, in nats.
        diversity: Of `diversity_loss`, in nats.
        input: Of the distance of the images' mean and standard deviation by channel from those that
            the teacher normalises by, in units of the latter; 0 where it has none.
    """

    batch_norm: float = 10.0
    confidence: float = 0.2
    diversity: float = 0.2
    input: float = 1.0


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a module that have a running mean and variance."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]


@contextmanager
def record_moments(module: nn.Module) -> Iterator[list[BatchMoments]]:
    """Records the moments of each batch norm's input, for the length of a `with` block.

    Args:
        module: Hooks are put on its batch norms, and taken off at the end.

    Yields:
        A list that grows at each call of a batch norm; clear it before each call of `module`.
    """
    moments: list[BatchMoments] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        x = inputs[0].float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        moments.append(BatchMoments(mean, variance, layer))

    hooks = [layer.register_forward_pre_hook(record) for layer in batch_norms(module)]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def batch_norm_loss(moments: list[BatchMoments]) -> Tensor:
    """The distance of a batch from the running statistics of the batch norms.

    The divergence of the normal distribution of the running statistics (mean m, variance v) from
    that of the batch (µ, σ²), (σ² / v + (µ − m)² / v − 1 − log(σ² / v)) / 2 (Kullback, Leibler,
    1951), mean over channels, then over layers. Unlike the distances of Yin et al. (2020) it has no
    unit, so that one weight does for all layers and teachers.

    Args:
        moments: As `record_moments` gives them; both variances are taken with the layer's eps.

    Returns:
        Scalar float32, 0 where all agree, and for no batch norms.
    """
    losses = []
    for mean, variance, layer in moments:
        assert layer.running_mean is not None and layer.running_var is not None
        running_var = layer.running_var.float() + layer.eps
        ratio = (variance + layer.eps) / running_var
        gap = (mean - layer.running_mean.float()).square() / running_var
        losses.append((ratio + gap - 1 - ratio.log()).mean() / 2)
    return torch.stack(losses).mean() if losses else torch.zeros(())


def diversity_loss(logits_BK: Tensor) -> Tensor:
    """The distance of the mean prediction from the uniform one (Chen et al., 2019).

    Args:
        logits_BK: float32.

    Returns:
        log K less the entropy of the mean prediction over the batch, in nats.
    """
    mean_K = logits_BK.softmax(1).mean(0)
    negentropy: Tensor = torch.special.xlogy(mean_K, mean_K).sum()
    return math.log(len(mean_K)) + negentropy


def total_loss(
    teacher: Teacher,
    images_BCHW: Tensor,
    labels_B: Tensor,
    moments: list[BatchMoments],
    weights: LossWeights,
) -> Tensor:
    """The weighted sum of all terms.

    Args:
        teacher: The teacher.
        images_BCHW: float32 in [0, 1].
        labels_B: The drawn classes, int64.
        moments: The list of a `record_moments` block of the teacher's module.
        weights: Of the terms.

    Returns:
        Scalar float32.
    """
    moments.clear()
    with torch.autocast(images_BCHW.device.type, torch.bfloat16, teacher.precision == "bf16"):
        logits_BK = teacher.module(images_BCHW)
    logits_BK = logits_BK.float()
    return (
        weights.batch_norm * batch_norm_loss(moments).to(images_BCHW.device)
        + weights.confidence * F.cross_entropy(logits_BK, labels_B)
        + weights.diversity * diversity_loss(logits_BK)
        + weights.input * _input_loss(teacher.module, images_BCHW)
    )


def _input_loss(module: nn.Module, images_BCHW: Tensor) -> Tensor:
    moments = normalisation(module)
    if moments is None:
        return images_BCHW.new_zeros(())
    normalised_BCHW = (images_BCHW - moments.mean) / moments.std
    variance, mean = torch.var_mean(normalised_BCHW, (0, 2, 3), correction=0)
    loss: Tensor = (mean.square() + ((variance + 1e-6).sqrt() - 1).square()).mean()
    return loss


def normalisation(module: nn.Module) -> InputMoments | None:
    """The moments that a `Classifier` normalises by; None for other modules."""
    mean, std = getattr(module, "mean", None), getattr(module, "std", None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        return InputMoments(mean, std)
    return None
