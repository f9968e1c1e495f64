"""Terms of different size, brought to one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

BalanceKind = Literal["value", "gradient"]
MOMENTUM = 0.95
EVERY = 10
"""Steps between two measurements of gradients; each is a backward pass for every term."""
LEAST = 1e-8
"""The smallest size that a loss is divided by."""


class Balance(nn.Module):
    """Divides each term's loss by its running size, so that weights are shares.

    The size is the loss itself, or the norm of its gradient with respect to the student's
    parameters (as in GradNorm, Chen et al., 2018, but without a learned weight). It is a running
    mean with momentum 0.95, begun with the first value above 0; until then a loss stays as it is.

    Args:
        kind: `value` or `gradient`.
        terms: Number of terms.
    """

    size: Tensor

    def __init__(self, kind: BalanceKind, terms: int) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("size", torch.zeros(terms))
        self._seen = [0] * terms

    def get_extra_state(self) -> list[int]:
        """The times that each term was seen: saved with the run, and never on the device."""
        return list(self._seen)

    def set_extra_state(self, state: list[int]) -> None:
        """See `get_extra_state`."""
        self._seen = list(state)

    def forward(
        self, losses: Mapping[int, Tensor], parameters: Sequence[nn.Parameter]
    ) -> dict[int, Tensor]:
        """Losses of about 1, with their gradients.

        Args:
            losses: Scalars by the number of their term; those that are switched off are missing.
            parameters: The student's.
        """
        for index, loss in losses.items():
            if self.kind == "value":
                self._update(index, loss.detach().abs())
            elif self._seen[index] % EVERY == 0:
                self._update(index, _gradient_norm(loss, parameters))
            self._seen[index] += 1
        sizes = torch.where(self.size > LEAST, self.size, torch.ones_like(self.size))
        return {index: loss / sizes[index] for index, loss in losses.items()}

    def _update(self, index: int, size: Tensor) -> None:
        """Brings a new size into the running mean."""
        mean = torch.where(self.size[index] > LEAST, self.size[index], size)
        sizes = list(self.size.unbind())
        sizes[index] = MOMENTUM * mean + (1.0 - MOMENTUM) * size
        self.size = torch.stack(sizes)  # not in place: a graph may still hold the old one


def _gradient_norm(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The norm of a loss's gradient; the graph is kept."""
    gradients = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    norms = [g.float().norm() for g in gradients if g is not None]
    return torch.stack(norms).norm() if norms else torch.zeros_like(loss)
