"""Inputs of a run's steps: rendered and asked for many steps at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from nasdistill.data import Batch, ResidentSplit
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.targets import TargetRequest
from nasdistill.training.run import Run

TOGETHER_BYTES = 16 << 20
"""Up to how many bytes of pictures are rendered at once."""


@dataclass(frozen=True)
class StepInputs:
    """A batch, and the outputs of each teacher for it, by the teacher's name."""

    batch: Batch
    targets: Mapping[str, Outputs]

    def each(self, change: Callable[[Tensor], Tensor]) -> StepInputs:
        """The same with each tensor changed; all of them have a row for each example."""
        own = {field.name: getattr(self.batch, field.name) for field in fields(self.batch)}
        changed: dict[str, Any] = {k: change(x) for k, x in own.items() if isinstance(x, Tensor)}
        targets = {
            name: Outputs(
                change(outputs.logits),
                known=None if outputs.known is None else change(outputs.known),
            )
            for name, outputs in self.targets.items()
        }
        return StepInputs(replace(self.batch, **changed), targets)

    def tensors(self) -> list[Tensor]:
        """All of its tensors, always in the same order."""
        batch = (getattr(self.batch, field.name) for field in fields(self.batch))
        targets = (x for o in self.targets.values() for x in (o.logits, o.known))
        return [x for x in (*batch, *targets) if isinstance(x, Tensor)]


def step_inputs(run: Run, until: int) -> Iterator[StepInputs]:
    """The inputs of each step from where the run stands; many are rendered and asked at once.

    A picture is the same whatever the batch it is in, and so is a remembered answer.
    """
    split, stream = run.stream.dataset.train, run.stream
    size = min(stream.batch_size, len(split))
    bytes_of_step = size * stream.dataset.input.channels * run.size[0] * run.size[1]
    # What is streamed is decoded batch by batch, each in a process of its own.
    together = max(1, TOGETHER_BYTES // bytes_of_step) if isinstance(split, ResidentSplit) else 1
    plan: list[tuple[Tensor, int | None]] = []
    for view, items in itertools.groupby(stream.plan(run.step, until), key=lambda item: item[1]):
        ids = torch.cat([ids for ids, _ in items])
        plan += [(part, view) for part in torch.split(ids, size * together)]
    for batch in split.batches(plan, run.size):
        request = TargetRequest(batch, (), (), 0)
        targets = {name: each(request, None) for name, each in run.targets.items()}
        whole = StepInputs(batch, targets)
        for start in range(0, len(batch.ids_host), size):
            yield whole.each(lambda x, at=start: x[at : at + size])  # type: ignore[misc]


def values_of(run: Run, until: int) -> Tensor:
    """The numbers that change from step to step, from where the run stands.

    Returns:
        float32 `[steps, 1 + schedules]` on the device: learning rate, and the values of the
        objective's schedules.
    """
    schedules = run.objective.schedules
    rows = []
    for step in range(run.step, until):
        examples = step * run.stream.batch_size
        progress = min(1.0, examples / run.horizon)
        rows.append([run.lr_schedule(examples), *(schedule(progress) for schedule in schedules)])
    return torch.tensor(rows, dtype=torch.float32).to(run.device, non_blocking=True)
