"""One split, shown clean and corrupted: the same pictures to the teacher and to every student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nasdistill.data import Split
from nasdistill.data.views import cover
from nasdistill.evaluation.corruptions import CORRUPTIONS, Corruption, corrupt
from nasdistill.teachers import Teacher
from nasdistill.training import predict

BATCH = 250
CORRUPTED = 1000
"""Examples that are shown under noise and blur: enough for an interval of 2 points on each side."""
CorruptedLogits = dict[Corruption | None, Tensor]
"""Logits float32 `[M, K]` on the CPU, by corruption; None stands for the clean pictures."""


@dataclass
class Comparison:
    """A comparison of students with their teacher, on one split.

    The teacher is asked once, when the first student needs its answers.

    Attributes:
        teacher: On the device of the split.
        split: The examples.
        size: `(height, width)` in pixels at which students see them.
        classes: Names by label, as teacher and students know them.
        data: What the user called the data.
        part: Which split it is, `test` or `audit`.
        corrupted: How many examples are shown corrupted, at most.
        order: The teacher's label of each label of the split; None where they are the same.
        seed: Of the noise, and of which examples are corrupted.
    """

    teacher: Teacher
    split: Split
    size: tuple[int, int]
    classes: Sequence[str]
    data: str
    part: str
    corrupted: int = CORRUPTED
    order: Sequence[int] | None = None
    seed: int = 0

    @cached_property
    def labels(self) -> Tensor:
        """int64 `[N]`, on the CPU, as the teacher numbers the classes."""
        labels_N = self.split.labels.cpu()
        return labels_N if self.order is None else torch.tensor(self.order)[labels_N]

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits on all examples, float32 `[N, K]`, on the CPU."""
        return predict(self.teacher.module, self.split, self.teacher.input.size)[0]

    @cached_property
    def teacher_corrupted(self) -> CorruptedLogits:
        """The teacher's answers to the students' pictures, resized to its own input."""
        size = self.teacher.input.size
        clean = self.teacher_logits[self.chosen] if size == self.size else None
        return self._ask(lambda images: self.teacher.module(cover(images, size)), clean)

    @cached_property
    def chosen(self) -> Tensor:
        """The examples that are corrupted, int64 `[M]`, rising; the same for all students."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(self.split), generator=generator)[: self.corrupted]
        return drawn.sort().values

    def logits(self, student: nn.Module) -> Tensor:
        """A student's logits on all examples, float32 `[N, K]`, on the CPU."""
        return predict(student, self.split, self.size)[0]

    def logits_corrupted(self, student: nn.Module, logits_NK: Tensor) -> CorruptedLogits:
        """A student's answers to the corrupted pictures.

        Args:
            student: In eval mode, on the device of the split.
            logits_NK: Its answers to all clean pictures.
        """
        return self._ask(student, logits_NK[self.chosen])

    def _ask(self, model: Callable[[Tensor], Tensor], clean: Tensor | None) -> CorruptedLogits:
        """Asks about every corruption; about the clean pictures, too, unless they are known."""
        known: CorruptedLogits = {} if clean is None else {None: clean}
        missing = [each for each in (None, *CORRUPTIONS) if each not in known]
        logits: dict[Corruption | None, list[Tensor]] = {each: [] for each in missing}
        with torch.inference_mode():
            for images, normal in self._pictures():
                for each, parts in logits.items():
                    shown = images if each is None else corrupt(images, each, normal)
                    parts.append(model(shown).float().cpu())
        return known | {each: torch.cat(parts) for each, parts in logits.items()}

    def _pictures(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Clean pictures uint8 `[B, C, height, width]`, and noise for them, batch by batch."""
        generator = torch.Generator().manual_seed(self.seed)
        plan = [(ids, None) for ids in torch.split(self.chosen, BATCH)]
        for batch in self.split.batches(plan, self.size):
            normal = torch.randn(batch.images.shape, generator=generator)
            yield batch.images, normal.to(batch.images.device)
