"""The batches that a run is trained on, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.common.seeds import seed_of
from nasdistill.common.types import Sampling, nearest
from nasdistill.data import Dataset

ClassWeights = Mapping[str, float] | Literal["balanced"]
"""Weights by the class's name, or those that make up for uneven classes."""


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

    Order and views depend on the seed and the step alone. An epoch has as many examples whatever
    the sampling; where that is balanced, each class has the same share of them, and goes through
    all of its examples before any comes again.

    Attributes:
        dataset: Its training split gives the examples.
        batch_size: Examples in a step; constant over a study. Where the training split has fewer,
            it is all of them.
        views: Number of different views per example; epoch e has view e mod `views`.
        seed: The study's seed.
        sampling: Whether all examples, or all classes, come equally often.
    """

    dataset: Dataset
    batch_size: int
    views: int
    seed: int
    sampling: Sampling = "uniform"

    def __post_init__(self) -> None:
        """A step sees no more examples than there are, and must not be counted as if it did."""
        object.__setattr__(self, "batch_size", min(self.batch_size, len(self.dataset.train)))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the training split."""
        return len(self.dataset.train) // self.batch_size

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
                order = self._order(epoch)
            start = step_in_epoch * self.batch_size
            yield order[start : start + self.batch_size], epoch % self.views

    def _order(self, epoch: int) -> Tensor:
        """The ids of an epoch's examples in their order, int64 on the CPU."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        if self.sampling == "uniform":
            return torch.randperm(len(self.dataset.train), generator=generator)
        quota = -(-self.examples_per_epoch // len(self._members))
        drawn = [
            torch.cat([self._pass(label, number) for number in _passes(epoch, quota, len(ids))])
            for label, ids in enumerate(self._members)
        ]
        starts = (epoch * quota % len(ids) for ids in self._members)
        chosen = [ids[start : start + quota] for ids, start in zip(drawn, starts, strict=True)]
        together = torch.cat(chosen)
        return together[torch.randperm(len(together), generator=generator)][
            : self.examples_per_epoch
        ]

    @cached_property
    def _members(self) -> list[Tensor]:
        """Ids of each class's examples; classes without any are left out."""
        labels = self.dataset.train.labels.cpu()
        return [torch.nonzero(labels == label).squeeze(1) for label in torch.unique(labels)]

    def _pass(self, member: int, number: int) -> Tensor:
        """All examples of a class, in the order of the class's pass of that number."""
        ids = self._members[member]
        generator = torch.Generator().manual_seed(seed_of(self.seed, "class", member, number))
        return ids[torch.randperm(len(ids), generator=generator)]


def _passes(epoch: int, quota: int, examples: int) -> range:
    """The passes over a class's examples that an epoch takes its share from."""
    return range(epoch * quota // examples, (epoch * quota + quota - 1) // examples + 1)


def class_weights_of(weights: ClassWeights | None, dataset: Dataset) -> Tensor | None:
    """The factors of the loss on labels, by class.

    Args:
        weights: By the class's name, those not named count 1; `balanced` weighs a class by the mean
            number of examples of a class ÷ its own (King and Zeng, "Logistic Regression in Rare
            Events Data", 2001), so that the mean over the training examples is 1.
        dataset: Its training split is counted.

    Returns:
        float32 `[K]` on the device; None for no weights.

    Raises:
        UserError: If a class is not one of the data's.
    """
    if weights is None:
        return None
    labels, classes = dataset.train.labels, dataset.classes
    if weights == "balanced":
        counts = torch.bincount(labels, minlength=len(classes)).float()
        return len(labels) / (counts.clamp_min(1) * (counts > 0).sum())
    unknown = [name for name in weights if name not in classes]
    if unknown:
        raise UserError(
            f"class_weights: {unknown[0]!r} is no class of {dataset.name!r}"
            f"{nearest(unknown[0], classes)}; its classes: {', '.join(classes[:20])}"
        )
    return torch.tensor([weights.get(name, 1.0) for name in classes], device=labels.device)
