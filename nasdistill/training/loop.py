"""The only training loop: searching, final distillation and training a teacher all use it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasdistill.common.seeds import seed_of
from nasdistill.data import Batch, Split
from nasdistill.models.inference import WHOLE, Inference, fastest_inference
from nasdistill.training.memory import forward_in_halves
from nasdistill.training.precision import depthwise_in
from nasdistill.training.run import Run


class Diverged(Exception):  # noqa: N818 - says what happened
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Progress:
    """The state of a run where the loop synchronises with the device.

    Attributes:
        examples: Training examples seen so far.
        loss: Mean loss since the synchronisation before.
        images_per_second: Throughput since then.
    """

    examples: int
    loss: float
    images_per_second: float


def train(run: Run, until: int, every: int | None = None) -> Iterator[Progress]:
    """Trains until the run has seen `until` examples.

    Leave the loop to stop; the run then stands after the last step whose progress was yielded.

    Args:
        run: The training; changed in place.
        until: Training examples seen at the end, rounded up to whole batches.
        every: Steps between two synchronisations; by default an epoch, at the most 100, and 25 on a
            CPU: where several processes share it, one may be waiting to measure in between.

    Yields:
        Progress at each synchronisation with the device, the last one at the end.

    Raises:
        Diverged: If the loss stops being finite.
    """
    last = run.stream.steps(until)
    every = every or min(100 if run.device.type == "cuda" else 25, run.stream.steps_per_epoch)
    run.students.train()
    # What is streamed is decoded ahead, past the next synchronisation.
    replay_until = None if run.graphed is None else run.graphed.start(run, last)
    batches: Iterator[Batch] | None = None
    while run.step < last:
        chunk = min(last, (run.step // every + 1) * every)
        start, before = time.perf_counter(), run.step
        total = torch.zeros((), device=run.device)
        if replay_until is not None:
            total += replay_until(chunk)
        if run.step < chunk and batches is None:  # all steps, or those that were not replayed
            batches = _batches(run, last)
        for batch in itertools.islice(batches or (), chunk - run.step):
            total += _train_step(run, batch)
            run.step += 1
            run.update_targets()
        loss = float(total) / (run.step - before)
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} after {run.examples} training examples")
        seconds = time.perf_counter() - start
        images = (run.step - before) * run.stream.batch_size
        yield Progress(run.examples, loss, images / max(seconds, 1e-9))


def _batches(run: Run, last: int) -> Iterator[Batch]:
    """The batches up to a step; where several processes train, this one's slice of each."""
    plan = run.stream.plan(run.step, last)
    if run.data_parallel is not None:
        plan = run.data_parallel.divide(plan, run.micro_batch)
    return iter(run.stream.dataset.train.batches(plan, run.size, run.sizes))


def _train_step(run: Run, batch: Batch) -> Tensor:
    """Makes one optimiser step; returns the loss, detached and not yet synchronised."""
    for group in run.optimizer.param_groups:
        group["lr"] = run.lr_schedule(run.examples)
    # Slices of one batch must not be dropped out alike.
    process = () if run.data_parallel is None else (run.data_parallel.rank,)
    torch.manual_seed(seed_of(run.seed, "step", run.step, *process))
    return run.train_step(batch)


class Predictions(NamedTuple):
    """The logits of a model on a split, with the labels; both on the CPU.

    Attributes:
        logits: float32 `[N, C]`.
        labels: int64 `[N]`.
    """

    logits: Tensor
    labels: Tensor


@torch.inference_mode()
def predict(
    module: nn.Module,
    split: Split,
    size: tuple[int, int],
    with_progress: Callable[[Iterable[Batch], int], Iterable[Batch]] | None = None,
    inference: Inference | None = None,
) -> Predictions:
    """Runs a module on un-augmented images, in fp32.

    Where memory runs out, a batch is halved as often as it takes.

    Args:
        module: Takes uint8 `[B, C, H, W]`; left in eval mode.
        split: The examples.
        size: `(height, width)` in pixels at which the module sees them.
        with_progress: Passes on batches of so many images, and tells how far it is.
        inference: The batches; by default those that are found to be the fastest.
    """
    module.eval()
    ids = torch.arange(len(split))
    with depthwise_in(module, keep_fp32=False):
        batch = (inference or inference_on(module, split, size)).batch
        plan = [(part, None) for part in torch.split(ids, batch)]
        batches: Iterable[Batch] = split.batches(plan, size)
        batches = batches if with_progress is None else with_progress(batches, batch)
        logits = [forward_in_halves(module, batch.images) for batch in batches]
    return Predictions(torch.cat(logits).cpu(), split.labels.cpu())


def inference_on(
    module: nn.Module, split: Split, size: tuple[int, int], *, both_layouts: bool = False
) -> Inference:
    """The fastest way to run a module on the pictures of a split; see `fastest_inference`.

    Args:
        module: Left in eval mode.
        split: Its first picture is shown.
        size: `(height, width)` in pixels at which the module sees it.
        both_layouts: Whether the module may be given the other layout; not while it learns.
    """
    if not len(split):
        return WHOLE
    [first] = split.batches([(torch.arange(1), None)], size)
    return fastest_inference(module.eval(), first.images, both_layouts=both_layouts)


def seed_weights(seed: int, *parts: object) -> None:
    """Seeds torch's global generators before a student is built."""
    torch.manual_seed(seed_of(seed, *parts))
