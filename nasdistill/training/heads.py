"""The head of a classifier, trained alone."""

from __future__ import annotations

from torch import Tensor, nn

from nasdistill.data import Dataset
from nasdistill.losses import Objective
from nasdistill.training.run import Run
from nasdistill.training.schedule import BatchStream, LRSchedule

HEAD_RATE, HEAD_BATCH = 0.003, 128
"""Peak learning rate of a head alone, and examples in its steps."""


class HeadOnly(nn.Module):
    """A classifier of which only the head learns: the body stays frozen and in eval mode.

    Args:
        module: The whole classifier.
        heads: Its heads; most have one.
    """

    def __init__(self, module: nn.Module, *heads: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        self._heads = [head.requires_grad_(True) for head in heads]

    def train(self, mode: bool = True) -> HeadOnly:
        """Leaves the body alone."""
        for head in self._heads:
            head.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.module(images)
        return logits


def head_run(
    module: nn.Module,
    heads: list[nn.Module],
    dataset: Dataset,
    epochs: int,
    seed: int,
    size: tuple[int, int],
    learning_rate: float = HEAD_RATE,
) -> Run:
    """The run of a head alone, on labels.

    Args:
        module: The whole classifier; all but its heads is frozen.
        heads: The layers that learn.
        dataset: The data.
        epochs: Passes over the training split.
        seed: Of the order.
        size: `(height, width)` in pixels at which it sees the images.
        learning_rate: Its peak.
    """
    stream = BatchStream(dataset, HEAD_BATCH, views=epochs, seed=seed)
    total = epochs * stream.examples_per_epoch
    return Run(
        [HeadOnly(module, *heads)],
        stream,
        Objective.labels(),
        horizon=total,
        lr_schedule=LRSchedule(learning_rate, HEAD_BATCH, HEAD_BATCH, total),
        seed=seed,
        size=size,
    )
