"""Students that need more memory than there is: trained in micro-batches, or a clear failure."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from nasdistill.common.machine import give_freed_memory_back

PARTS = 4
"""Micro-batches that make up a batch which does not fit."""

_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Messages of a plain RuntimeError where memory ran out: on a CPU, or beside CUDA's allocator."""

Result = TypeVar("Result")


class OutOfMemory(MemoryError):  # noqa: N818 - says what happened
    """A student does not fit; the message says with which batches."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def free() -> None:
    """Frees memory that is not referenced any more, on the GPU too."""
    gc.collect()
    give_freed_memory_back()
    torch.cuda.empty_cache()


def with_micro_batches(
    train: Callable[[int | None], Result],
    *,
    batch: int,
    coupled: Sequence[str],
    micro_batch: int | None,
    mark: Callable[[int], None],
) -> Result:
    """Trains with whole batches and, where memory runs out, once more in micro-batches.

    A step in micro-batches has the gradient of the whole batch. But batch norm sees each of them by
    itself, and dropout draws other numbers: the student is not quite what it would have been with
    more memory.

    Args:
        train: Trains with micro-batches of so many examples, or whole batches (None); called again,
            it goes on from what was saved, and it must hold nothing of the student once it ended.
        batch: Examples in a step.
        coupled: Names of the parts of the objective that need the whole batch.
        micro_batch: Examples in a micro-batch where the student was marked before, else None.
        mark: Stores that the student is trained in micro-batches of so many examples.

    Returns:
        The result of `train`.

    Raises:
        OutOfMemory: If memory runs out in micro-batches as well, or the batch can't be divided.
    """
    whole = f"out of memory with batches of {batch}"
    if micro_batch is None:
        try:
            return train(None)
        except Exception as error:
            if not ran_out(error):
                raise
            reason = _reason(error)
        # The error is gone here, and with it the frames that held the student.
        if coupled:
            names = ", ".join(coupled)
            raise OutOfMemory(
                f"{whole}, which can't be divided: {names} needs all of a batch ({reason})"
            )
        micro_batch = -(-batch // PARTS)
        free()
        mark(micro_batch)
    try:
        return train(micro_batch)
    except Exception as error:
        if not ran_out(error):
            raise
        reason = _reason(error)
    free()
    raise OutOfMemory(f"{whole}, and again in micro-batches of {micro_batch} ({reason})")


def forward_in_halves(module: nn.Module, images: Tensor) -> Tensor:
    """Runs a module in eval mode on images, in halves where memory runs out.

    Args:
        module: Gives logits `[B, C]`.
        images: uint8 `[B, C, H, W]`.

    Returns:
        Logits float32 `[B, C]`.
    """
    try:
        logits: Tensor = module(images)
        return logits.float()
    except Exception as error:
        if len(images) == 1 or not ran_out(error):
            raise
    free()
    return torch.cat([forward_in_halves(module, half) for half in images.tensor_split(2)])


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
