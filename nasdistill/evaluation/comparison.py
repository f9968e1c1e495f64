"""One split, clean and corrupted: the same pictures for the teacher and for every student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nasdistill.common.events import Emit, silent, telling, with_signs_of_life
from nasdistill.data import Split
from nasdistill.data.views import cover
from nasdistill.evaluation.corruptions import CORRUPTIONS, Corruption, corrupt
from nasdistill.models.inference import WHOLE, Inference
from nasdistill.teachers import Teacher
from nasdistill.training import inference_on, predict

BATCH = 250
CORRUPTED = 1000
"""Examples that are corrupted: enough for an interval of 2 points on each side."""
CorruptedLogits = dict[Corruption | None, Tensor]
"""Logits float32 `[M, K]` on the CPU, by corruption; None stands for the clean pictures."""


@dataclass
class Comparison:
    """The comparison of students with their teacher on one split.

    The teacher is run once, when the first student is evaluated.

    Attributes:
        teacher: On the device of the split.
        split: The examples.
        size: `(height, width)` in pixels at which students see them.
        classes: Names by label, as teacher and students know them.
        data: The user's name of the data.
        part: The name of the split, `test` or `audit`; `all` for all examples of other data.
        corrupted: Most examples that are corrupted.
        order: The teacher's label of each label of the split; None where they are the same.
        seed: Of the noise, and of the choice of examples that are corrupted.
        emit: Told how far it is, where that takes a while.
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
    emit: Emit = silent

    @cached_property
    def labels(self) -> Tensor:
        """int64 `[N]`, on the CPU, as the teacher numbers the classes."""
        labels_N = self.split.labels.cpu()
        return labels_N if self.order is None else torch.tensor(self.order)[labels_N]

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits on all examples, float32 `[N, K]`, on the CPU."""
        size = self.teacher.input.size
        teacher, with_progress = (
            self.teacher,
            telling("asking the teacher", "evaluate", len(self.split), self.emit),
        )
        return predict(teacher.module, self.split, size, with_progress, teacher.inference).logits

    @cached_property
    def teacher_corrupted(self) -> CorruptedLogits:
        """The teacher's logits on the students' pictures, resized to its own input."""
        size = self.teacher.input.size
        clean = self.teacher_logits[self.chosen] if size == self.size else None
        inference = self.teacher.inference or WHOLE
        return self._predict_corrupted(
            lambda images: self.teacher.module(cover(images, size)), clean, inference
        )

    @cached_property
    def chosen(self) -> Tensor:
        """The examples that are corrupted, int64 `[M]`, rising; the same for all students."""
        generator = torch.Generator().manual_seed(self.seed)
        ids_M = torch.randperm(len(self.split), generator=generator)[: self.corrupted]
        return ids_M.sort().values

    def logits(self, student: nn.Module) -> Tensor:
        """A student's logits on all examples, float32 `[N, K]`, on the CPU."""
        with_progress = telling("asking the student", "evaluate", len(self.split), self.emit)
        return predict(student, self.split, self.size, with_progress).logits

    def logits_corrupted(self, student: nn.Module, logits_NK: Tensor) -> CorruptedLogits:
        """A student's logits on the corrupted pictures.

        Args:
            student: In eval mode, on the device of the split.
            logits_NK: Its logits on all clean pictures.
        """
        inference = inference_on(student, self.split, self.size)
        return self._predict_corrupted(student, logits_NK[self.chosen], inference)

    def _predict_corrupted(
        self,
        model: Callable[[Tensor], Tensor],
        clean: Tensor | None,
        inference: Inference = WHOLE,
    ) -> CorruptedLogits:
        """Runs a model on all corruptions, and on the clean pictures unless `clean` is known."""
        known: CorruptedLogits = {} if clean is None else {None: clean}
        missing = [each for each in (None, *CORRUPTIONS) if each not in known]
        logits: dict[Corruption | None, list[Tensor]] = {each: [] for each in missing}
        with torch.inference_mode():
            for images, noise in self._pictures(inference.batch):
                for corruption, parts in logits.items():
                    seen = images if corruption is None else corrupt(images, corruption, noise)
                    parts.append(model(seen).float().cpu())
        return known | {corruption: torch.cat(parts) for corruption, parts in logits.items()}

    def _pictures(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Clean pictures uint8 `[B, C, height, width]` and standard normal noise for them.

        The noise is drawn for `BATCH` pictures, so that it is the same for all models, and both are
        passed on at most `most` at a time.
        """
        generator = torch.Generator().manual_seed(self.seed)
        plan = [(ids, None) for ids in torch.split(self.chosen, BATCH)]
        batches = self.split.batches(plan, self.size)
        text, total = "asking about noise and blur", len(self.chosen)
        for batch in with_signs_of_life(batches, text, "evaluate", total, self.emit, BATCH):
            noise = torch.randn(batch.images.shape, generator=generator).to(batch.images.device)
            parts = (torch.split(each, most) for each in (batch.images, noise))
            yield from zip(*parts, strict=True)
