"""Data parallelism: several processes train one run, each on its slice of every batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

WAITING = timedelta(days=30)
"""Longest wait for another process, which may ask a teacher for hours.

Whoever started them ends all as soon as one is gone."""


class ProcessLost(Exception):  # noqa: N818 - says what happened
    """Another process of the run has ended."""


@dataclass(frozen=True)
class DataParallel:
    """The part of this process in a run that several train.

    Every process holds the whole run and makes the same steps; of each batch it computes a slice.

    `torch.nn.parallel.DistributedDataParallel` is not used: it wraps the forward of one module,
    while an objective calls students, reads their layers and calls auxiliaries, some of which have
    no gradient in some steps. It also takes the mean over processes, which is not that over
    examples where slices are uneven.

    Attributes:
        rank: Number of this process, from 0.
        processes: Number of all.
    """

    rank: int
    processes: int

    @classmethod
    def join(
        cls, rank: int, processes: int, rendezvous: Path, device: torch.device
    ) -> DataParallel:
        """Meets the other processes.

        Args:
            rank: Number of this process, from 0.
            processes: Number of all.
            rendezvous: A file that is not there yet, by which they find each other.
            device: Where this process trains; none may share a card.
        """
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{rendezvous.absolute()}",
            rank=rank,
            world_size=processes,
            timeout=WAITING,
        )
        return cls(rank, processes)

    @staticmethod
    def leave() -> None:
        """Parts from the other processes; nothing is exchanged any more."""
        dist.destroy_process_group()

    def own_rows(self, batch: int, micro_batch: int | None) -> list[Tensor]:
        """The rows of a batch that this process computes.

        A batch is divided into micro-batches as on one process, and each of them among all
        processes: they meet in every micro-batch, so all must have as many.

        Args:
            batch: Examples in it.
            micro_batch: Most examples in a micro-batch; None for the whole batch.

        Returns:
            int64 rows within the batch, for each micro-batch.
        """
        parts = torch.arange(batch).tensor_split(micro_batches(batch, micro_batch))
        return [part.tensor_split(self.processes)[self.rank] for part in parts]

    def divide(
        self, plan: Iterable[tuple[Tensor, int | None]], micro_batch: int | None
    ) -> Iterator[tuple[Tensor, int | None]]:
        """The own slice of each batch of a plan of ids (int64 CPU tensor) and view."""
        for ids, view in plan:
            yield ids[torch.cat(self.own_rows(len(ids), micro_batch))], view

    def sum_gradients(self, gradients: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Adds up what the processes computed, in one exchange.

        Args:
            gradients: Of this process's share of the loss; those of the whole loss afterwards.
            loss: This process's share, a float32 scalar.

        Returns:
            The whole loss.
        """
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss[None]])
        self.add_up(flat)
        *parts, whole_loss = torch.split(flat, [*(gradient.numel() for gradient in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return whole_loss[0]

    def add_up(self, values: Tensor) -> None:
        """Replaces a tensor by its sum over all processes."""
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise ProcessLost(str(error)) from error

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all processes, `[processes, …]`."""
        gathered = [torch.empty_like(values) for _ in range(self.processes)]
        try:
            dist.all_gather(gathered, values)
        except RuntimeError as error:
            raise ProcessLost(str(error)) from error
        return torch.stack(gathered)

    def copy_from_first(self, values: Tensor) -> None:
        """Replaces a tensor by that of the first process."""
        whole = values.contiguous()
        try:
            dist.broadcast(whole, 0)
        except RuntimeError as error:
            raise ProcessLost(str(error)) from error
        values.copy_(whole)


def micro_batches(batch: int, micro_batch: int | None) -> int:
    """The number of micro-batches in a batch.

    Args:
        batch: Examples in it.
        micro_batch: Most examples in a micro-batch; None for the whole batch.
    """
    return 1 if micro_batch is None else -(-batch // micro_batch)
