"""What earlier studies' full runs teach a study, and what it teaches later ones."""

from __future__ import annotations

import math

from nasdistill.common import locks
from nasdistill.models import zero_cost
from nasdistill.results import Candidate, keys
from nasdistill.results.experience import EarlierRun, keep_runs, untrained_of
from nasdistill.study import architecture_of
from nasdistill.training.failures import FAILURES
from nasdistill.trials.context import StudyContext


def tell_experience(context: StudyContext) -> None:
    """Tells what a study that has not begun learns from."""
    experience = context.experience
    if not experience.weight or context.study.trials():
        return
    most = ", ".join(one.name for one in experience.most_telling(3))
    context.note(
        f"{experience.count} earlier full runs on this space foretell new ones "
        f"(correlation {experience.record:.2f}); most telling: {most}",
        stage="teacher",
    )


def keep_experience(context: StudyContext) -> None:
    """Keeps a study's full runs, of finals and audited trials, for later studies."""
    study, setting = context.study, context.study.read(keys.EXPERIENCE)
    if not context.recipe.experience or setting is None:
        return
    created = study.read(keys.CREATED) or 0.0
    candidates = {candidate.number: candidate for candidate in study.candidates()}
    runs = []
    for number, accuracy in sorted(context.full_runs.accuracy().items()):
        untrained = untrained_of(candidates[number]) if number in candidates else None
        if untrained is not None:
            source = f"{study.folder.name} ({created:.0f}), trial {number}"
            runs.append(EarlierRun(untrained, accuracy, str(setting["setting"]), source))
    if runs:
        keep_runs(study.folder.parent, study.space.fingerprint, runs, context.warn)


def measure_untrained(context: StudyContext, candidate: Candidate) -> dict[str, float] | None:
    """Zero-cost figures of a trial's student before its first step, on the stream's first batch.

    Returns:
        None where they cannot be computed, or are not finite.
    """
    setup, data = context.scoring, context.dataset
    train = setup.stream.dataset.train
    try:
        student = setup.students(architecture_of(candidate), data, context.recipe.seed)[0]
        batch = next(iter(train.batches(setup.stream.plan(0, 1), data.input.size)))
        with locks.busy(context.latency_lock):
            figures = zero_cost.measure(student.to(batch.images.device), batch.images, batch.labels)
    except FAILURES:  # training will tell what is wrong with the student
        return None
    return dict(figures) if all(map(math.isfinite, figures.values())) else None
