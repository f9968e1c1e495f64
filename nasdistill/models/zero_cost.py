"""Zero-cost proxies: figures of an untrained student that a short score has to beat."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nasdistill.models.classifier import Classifier

EPSILON = 1e-5


def measure(student: Classifier, images_BCHW: Tensor, labels_B: Tensor) -> Mapping[str, float]:
    """Synflow, SNIP and Jacobian covariance of a student as it is initialised.

    Args:
        student: Untrained; left as it is.
        images_BCHW: uint8, a batch of training images.
        labels_B: int64, their labels.

    Returns:
        Each figure by its name, for `rank_correlation.vote`; the larger, the better the student
        should become.
    """
    pixels_BCHW = (images_BCHW.to(student.mean.dtype) / 255 - student.mean) / student.std
    return {
        "synflow": synflow(student.net, pixels_BCHW.shape[1:]),
        "snip": snip(student.net, pixels_BCHW, labels_B),
        "jacobian": jacobian_covariance(student.net, pixels_BCHW),
    }


def synflow(net: nn.Module, shape: torch.Size) -> float:
    """Log of Σ |θ · ∂R/∂θ|, R the sum of the outputs to ones, weights made positive.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
    flow" (2020), summed over the network as by Abdelfattah et al., "Zero-Cost Proxies for
    Lightweight NAS" (2021). In float64 and as a logarithm, since it grows with the product of the
    layers' gains. In eval mode, where fresh batch norms are the identity.

    Args:
        net: Untrained; left as it is.
        shape: Of one image, `[C, H, W]`.
    """
    model = copy.deepcopy(net).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    device = next(model.parameters()).device
    ones = torch.ones((1, *shape), dtype=torch.float64, device=device)
    flow = _saliency(model(ones).sum(), model.parameters())
    return float(flow.clamp_min(torch.finfo(torch.float64).tiny).log())


def snip(net: nn.Module, pixels_BCHW: Tensor, labels_B: Tensor) -> float:
    """Σ |θ · ∂L/∂θ| over kernels and matrices, L the cross-entropy of a batch.

    Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (2019).

    Args:
        net: Untrained; left as it is.
        pixels_BCHW: Normalised images.
        labels_B: int64.
    """
    model = _in_training(net)
    loss = nn.functional.cross_entropy(model(pixels_BCHW), labels_B)
    return float(_saliency(loss, [p for p in model.parameters() if p.ndim > 1]))


def jacobian_covariance(net: nn.Module, pixels_BCHW: Tensor) -> float:
    """The dissimilarity of a network's Jacobians at different images.

    −Σ (log λ + 1 ÷ λ) over the eigenvalues λ of the correlation matrix of ∂Σy/∂x, a row for each
    image; ε is added to each λ (Mellor et al., "Neural Architecture Search without Training", first
    version, 2020).

    Args:
        net: Untrained; left as it is.
        pixels_BCHW: Normalised images.
    """
    pixels = pixels_BCHW.detach().clone().requires_grad_()
    (rows,) = torch.autograd.grad(_in_training(net)(pixels).sum(), pixels)
    correlation_BB = torch.corrcoef(rows.flatten(1).double()).nan_to_num()
    eigenvalues = torch.linalg.eigvalsh(correlation_BB).clamp_min(0.0) + EPSILON
    return -float((eigenvalues.log() + 1.0 / eigenvalues).sum())


def _in_training(net: nn.Module) -> nn.Module:
    """A copy whose batch norms see the batch; nothing is dropped, so that figures repeat."""
    model = copy.deepcopy(net).train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return model


def _saliency(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Σ |θ · ∂loss/∂θ|."""
    weights = list(parameters)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    flows = [(p * g).abs().sum() for p, g in zip(weights, gradients, strict=True) if g is not None]
    return torch.stack(flows).sum().detach()
