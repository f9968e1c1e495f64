"""What the steps of a run are given: brought together for many steps at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nasdistill.data import Batch, ResidentSplit
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.targets import Question

if TYPE_CHECKING:
    from nasdistill.training.run import Run

TOGETHER_BYTES = 16 << 20
"""Up to how many bytes of pictures are rendered at once."""


@dataclass(frozen=True)
class Lesson:
    """A batch, and what each teacher says about it, by name."""

    batch: Batch
    answers: Mapping[str, Outputs]

    def each(self, change: Callable[[Tensor], Tensor]) -> Lesson:
        """The same with each tensor changed; all of them have a row for each example."""
        own = {field.name: getattr(self.batch, field.name) for field in fields(self.batch)}
        changed: dict[str, Any] = {k: change(x) for k, x in own.items() if isinstance(x, Tensor)}
        answers = {
            name: Outputs(
                change(said.logits), known=None if said.known is None else change(said.known)
            )
            for name, said in self.answers.items()
        }
        return Lesson(replace(self.batch, **changed), answers)

    def tensors(self) -> list[Tensor]:
        """All of its tensors, always in the same order."""
        batch = (getattr(self.batch, field.name) for field in fields(self.batch))
        said = (x for one in self.answers.values() for x in (one.logits, one.known))
        return [x for x in (*batch, *said) if isinstance(x, Tensor)]


def lessons(run: Run, until: int) -> Iterator[Lesson]:
    """The lesson of each step from where the run stands; many are rendered and asked at once.

    A picture is the same whatever the batch it is in, and so is a remembered answer.
    """
    split, feed = run.feed.dataset.train, run.feed
    size = min(feed.batch_size, len(split))
    bytes_of_step = size * feed.dataset.input.channels * run.size[0] * run.size[1]
    # What is streamed is decoded batch by batch, each in a process of its own.
    together = max(1, TOGETHER_BYTES // bytes_of_step) if isinstance(split, ResidentSplit) else 1
    plan: list[tuple[Tensor, int | None]] = []
    for view, items in itertools.groupby(feed.plan(run.step, until), key=lambda item: item[1]):
        ids = torch.cat([ids for ids, _ in items])
        plan += [(part, view) for part in torch.split(ids, size * together)]
    for batch in split.batches(plan, run.size):
        question = Question(batch, (), (), 0)
        answers = {name: asked(question, None) for name, asked in run.teachers.items()}
        whole = Lesson(batch, answers)
        for start in range(0, len(batch.ids_host), size):
            yield whole.each(lambda x, at=start: x[at : at + size])  # type: ignore[misc]


def values_of(run: Run, until: int) -> Tensor:
    """What changes from step to step, from where the run stands.

    Returns:
        float32 `[steps, 1 + schedules]` on the device: learning rate, and the values of the
        objective's schedules.
    """
    schedules = run.objective.schedules
    rows = []
    for step in range(run.step, until):
        examples = step * run.feed.batch_size
        progress = min(1.0, examples / run.horizon)
        rows.append([run.pace(examples), *(schedule(progress) for schedule in schedules)])
    return torch.tensor(rows, dtype=torch.float32).to(run.device, non_blocking=True)
