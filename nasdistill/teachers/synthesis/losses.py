"""The loss of synthetic images: terms that make them like the training data, and their sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nasdistill.teachers.teacher import Teacher

Moments = tuple[Tensor, Tensor, _BatchNorm]


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of the loss. The defaults are for a teacher with batch norm.

    Attributes:
        batch_norm: `batch_norm_loss`.
        confidence: Cross-entropy of the teacher's answers to the drawn classes, in nats.
        diversity: Lack of entropy of the mean answer, `diversity_loss`, in nats.
        input: Distance of the images' mean and standard deviation by channel from those that the
            teacher normalises by, in units of the latter; nothing where it keeps none.
    """

    batch_norm: float = 10.0
    confidence: float = 0.2
    diversity: float = 0.2
    input: float = 1.0


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a module that remember mean and variance."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]


@contextmanager
def watch(module: nn.Module) -> Iterator[list[Moments]]:
    """Reads what comes to each batch norm, for the length of a `with` block.

    Args:
        module: Hooks are put on its batch norms, and taken off at the end.

    Yields:
        A list that grows, at each call of a batch norm, by the mean and the biased variance of its
        input by channel (float32 `[channels]`, with their gradients) and the layer; clear it
        before each call of `module`.
    """
    moments: list[Moments] = []

    def read(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        x = inputs[0].float()
        others = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, others, correction=0)
        moments.append((mean, variance, layer))

    hooks = [layer.register_forward_pre_hook(read) for layer in batch_norms(module)]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def batch_norm_loss(moments: list[Moments]) -> Tensor:
    """The distance of a batch from what the batch norms remember.

    The divergence of the normal distribution that was remembered (mean m, variance v) from that of
    the batch (µ, σ²), (σ² / v + (µ − m)² / v − 1 − log(σ² / v)) / 2 (Kullback, Leibler, 1951), mean
    over channels, then over layers. Unlike the distances of Yin et al. (2020) it has no unit, so
    that one weight does for all layers and teachers.

    Args:
        moments: As `watch` reads them; both variances are taken with the layer's eps.

    Returns:
        Scalar float32, 0 where all agree, and for no batch norms.
    """
    losses = []
    for mean, variance, layer in moments:
        assert layer.running_mean is not None and layer.running_var is not None
        remembered = layer.running_var.float() + layer.eps
        ratio = (variance + layer.eps) / remembered
        gap = (mean - layer.running_mean.float()).square() / remembered
        losses.append((ratio + gap - 1 - ratio.log()).mean() / 2)
    return torch.stack(losses).mean() if losses else torch.zeros(())


def diversity_loss(logits_BK: Tensor) -> Tensor:
    """The distance of the classes from being answered equally often (Chen et al., 2019).

    Args:
        logits_BK: float32.

    Returns:
        log K less the entropy of the mean answer over the batch, in nats.
    """
    mean_K = logits_BK.softmax(1).mean(0)
    negentropy: Tensor = torch.special.xlogy(mean_K, mean_K).sum()
    return math.log(len(mean_K)) + negentropy


def total_loss(
    teacher: Teacher,
    images_BCHW: Tensor,
    labels_B: Tensor,
    moments: list[Moments],
    weights: Weights,
) -> Tensor:
    """The weighted sum of all terms; scalar float32."""
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
    known = normalisation(module)
    if known is None:
        return images_BCHW.new_zeros(())
    variance, mean = torch.var_mean((images_BCHW - known[0]) / known[1], (0, 2, 3), correction=0)
    loss: Tensor = (mean.square() + ((variance + 1e-6).sqrt() - 1).square()).mean()
    return loss


def normalisation(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation, `[1, C, 1, 1]`, that a `Classifier` normalises by."""
    mean, std = getattr(module, "mean", None), getattr(module, "std", None)
    return (mean, std) if isinstance(mean, Tensor) and isinstance(std, Tensor) else None
