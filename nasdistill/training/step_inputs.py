"""The inputs of a run's steps, computed for many steps at once."""

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

RENDERED_BYTES = 16 << 20
"""Most bytes of pictures that are rendered at once."""


@dataclass(frozen=True)
class StepInputs:
    """The inputs of one step.

    Attributes:
        batch: The examples.
        targets: The outputs of each teacher for them, by the teacher's name; logits alone.
    """

    batch: Batch
    targets: Mapping[str, Outputs]

    def map(self, change: Callable[[Tensor], Tensor]) -> StepInputs:
        """The same inputs with each tensor changed; all of them have a row for each example."""
        values = {field.name: getattr(self.batch, field.name) for field in fields(self.batch)}
        changed: dict[str, Any] = {k: change(x) for k, x in values.items() if isinstance(x, Tensor)}
        targets = {}
        for name, outputs in self.targets.items():
            known = None if outputs.known is None else change(outputs.known)
            targets[name] = Outputs(change(outputs.logits), known=known)
        return StepInputs(replace(self.batch, **changed), targets)

    def rows(self, start: int, stop: int) -> StepInputs:
        """The inputs of some of the examples."""
        return self.map(lambda x: x[start:stop])

    def tensors(self) -> list[Tensor]:
        """All of its tensors, always in the same order."""
        batch = (getattr(self.batch, field.name) for field in fields(self.batch))
        targets = (x for outputs in self.targets.values() for x in (outputs.logits, outputs.known))
        return [x for x in (*batch, *targets) if isinstance(x, Tensor)]


def step_inputs(run: Run, until: int) -> Iterator[StepInputs]:
    """The inputs of each step from the run's own up to `until`, rendered for many at once.

    A picture is the same whatever the batch it is in, and so are its cached logits.
    """
    split, stream = run.stream.dataset.train, run.stream
    size = stream.batch_size
    bytes_of_step = size * stream.dataset.input.channels * run.size[0] * run.size[1]
    # What is streamed is decoded batch by batch, each in a process of its own.
    steps = max(1, RENDERED_BYTES // bytes_of_step) if isinstance(split, ResidentSplit) else 1
    plan: list[tuple[Tensor, int | None]] = []
    for view, items in itertools.groupby(stream.plan(run.step, until), key=lambda item: item[1]):
        ids = torch.cat([ids for ids, _ in items])
        plan += [(part, view) for part in torch.split(ids, size * steps)]
    for batch in split.batches(plan, run.size):
        request = TargetRequest(batch, (), (), 0)
        outputs = {name: targets(request, None) for name, targets in run.targets.items()}
        inputs = StepInputs(batch, outputs)
        for start in range(0, len(batch.ids_host), size):
            yield inputs.rows(start, start + size)


def scheduled_values(run: Run, until: int) -> Tensor:
    """The values that change from step to step, from the run's own step up to `until`.

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
