"""The head of a classifier, trained alone."""

from __future__ import annotations

from torch import Tensor, nn

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
    stream: BatchStream,
    objective: Objective,
    size: tuple[int, int],
    learning_rate: float = HEAD_RATE,
) -> Run:
    """The run of a head alone, an epoch for each view of the stream.

    Args:
        module: The whole classifier; all but its heads is frozen.
        heads: The layers that learn.
        stream: The batches, best of `HEAD_BATCH` examples.
        objective: On labels.
        size: `(height, width)` in pixels at which it sees the images.
        learning_rate: Its peak.
    """
    total = stream.views * stream.examples_per_epoch
    return Run(
        [HeadOnly(module, *heads)],
        stream,
        objective,
        horizon=total,
        lr_schedule=LRSchedule(learning_rate, HEAD_BATCH, HEAD_BATCH, total),
        seed=stream.seed,
        size=size,
    )
