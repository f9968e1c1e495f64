"""The batches that a run is trained on, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nasdistill.common.seeds import seed_of
from nasdistill.data import Dataset


@dataclass(frozen=True)
class LRSchedule:
    """The learning rate over the examples seen: warm up, hold, cool down to zero.

    Attributes:
        peak: Learning rate after the warm-up.
        warm_up: Examples over which it rises linearly from near zero.
        cool_down: Examples seen when it starts to fall, linearly; None for never.
        end: Examples seen when it reaches zero.
    """

    peak: float
    warm_up: int
    cool_down: int | None
    end: int

    def __call__(self, examples: int) -> float:
        """The learning rate for the next step, `examples` having been seen."""
        rate = self.peak * min(1.0, (examples + 1) / max(1, self.warm_up))
        if self.cool_down is not None and examples > self.cool_down:
            rate *= max(0.0, (self.end - examples) / max(1, self.end - self.cool_down))
        return rate


@dataclass(frozen=True)
class BatchStream:
    """The batches that a run is trained on: the same for every student of a study.

    Order and views depend on the seed and the step alone.

    Attributes:
        dataset: Its training split gives the examples.
        batch_size: Examples in a step; constant over a study.
        views: Number of different views per example; epoch e has view e mod `views`.
        seed: The study's seed.
    """

    dataset: Dataset
    batch_size: int
    views: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the training split."""
        return max(1, len(self.dataset.train) // self.batch_size)

    @property
    def examples_per_epoch(self) -> int:
        """Examples in these batches."""
        return self.steps_per_epoch * self.batch_size

    def steps(self, examples: int) -> int:
        """The number of steps in which at least `examples` training examples are seen."""
        return math.ceil(examples / self.batch_size)

    def plan(self, first: int, last: int) -> Iterator[tuple[Tensor, int | None]]:
        """Ids (int64 CPU tensor) and view of each step of [`first`, `last`)."""
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(first, last):
            step_epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if step_epoch != epoch:
                epoch = step_epoch
                generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
                order = torch.randperm(len(self.dataset.train), generator=generator)
            start = step_in_epoch * self.batch_size
            yield order[start : start + self.batch_size], epoch % self.views
