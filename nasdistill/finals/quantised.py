"""Quantisation-aware distillation of a final, where 8 bits cost it too much."""

from __future__ import annotations

from pathlib import Path

from nasdistill.common import locks
from nasdistill.common.seeds import hash_seed
from nasdistill.models import Classifier, artifact
from nasdistill.results import read_final
from nasdistill.study import architecture_of
from nasdistill.teachers.targets import needed_students
from nasdistill.training import LRSchedule
from nasdistill.training.fake_quantisation import as_before, fake_quantise
from nasdistill.training.teacher import train_through
from nasdistill.trials.context import StudyContext

SHARE = 5
"""Epochs of a final ÷ those with fake quantisation."""
RATE = 0.1
"""Learning rate with fake quantisation ÷ that of finals."""


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint of a final's quantisation-aware run, beside the final's folder."""
    return folder.with_name(f".quantised-{folder.name}.pt")


def epochs_of(context: StudyContext) -> int:
    """Passes with fake quantisation: a fifth of a full run's, at least one."""
    return max(1, round(context.final_epochs / SHARE))


def distil_quantised(context: StudyContext, folder: Path) -> Classifier | None:
    """Distils a final on, against the same teacher and on the same batches, as 8 bits see it.

    Goes on from its checkpoint where one was left.

    Args:
        context: The study's.
        folder: The final's; it is not changed.

    Returns:
        The student with unrounded weights, on the CPU in eval mode; None where students teach each
        other, so that there is none alone.
    """
    setup, final = context.final, read_final(folder)
    setup = setup.for_architecture(architecture_of(context.study.candidate(final.number)))
    if needed_students(setup.needed_targets) != 1:
        return None
    student = artifact.load(folder).to(context.dataset.train.labels.device)
    fake_quantise(student)
    per_epoch, epochs = setup.stream.examples_per_epoch, epochs_of(context)
    total, rate = epochs * per_epoch, RATE * context.recipe.rate(setup.beginning.kind)
    run = setup.run(
        [student],
        horizon=total,
        lr_schedule=LRSchedule(rate, per_epoch // 20, per_epoch // 20, total),
        seed=hash_seed((context.recipe.seed, final.metrics["fingerprint"], "quantised")),
        precision="fp32",
        micro_batch=final.metrics["micro_batch"],
    )
    with locks.busy(context.latency_lock):
        setup.prepare(total, 0)
    labelled = context.labelled(f"final {folder.name}, with fake quantisation")
    passes = train_through(
        run, epochs, "finals", labelled.emit, checkpoint_of(folder), context.latency_lock
    )
    for _ in passes:
        pass
    as_before(student)
    return student.cpu().eval()
