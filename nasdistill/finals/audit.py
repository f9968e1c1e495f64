"""Distils a sample of a study's trials in full: how far can their short scores be trusted?"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nasdistill import training
from nasdistill.analysis.audit import FILE, read_audit
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import write_whole
from nasdistill.finals.training import run_in_full
from nasdistill.models import zero_cost
from nasdistill.results import Candidate
from nasdistill.study import Study, architecture_of
from nasdistill.training.metrics import accuracy
from nasdistill.trials.context import StudyContext
from nasdistill.trials.trial import FAILURES, reason_of

FEWEST = 3
"""Trials that have an order worth the name."""


def run_audit(study: Study, bench: StudyContext, count: int, repeats: int, emit: Emit) -> None:
    """Distils the chosen trials in full and stores each accuracy as soon as it is known.

    Which trials is decided, and written, before any is trained; a later call with larger numbers
    adds to them. What can be told of them untrained is stored as well. Accuracies are of the audit
    half, which steered nothing.

    Args:
        study: The study.
        bench: What its runs share.
        count: Trials in all.
        repeats: How many of these are trained with a second seed, too.
        emit: Told how it goes.

    Raises:
        UserError: If fewer than three trials have a score or are asked for, or another process
            audits the study.
    """
    if count < FEWEST:
        raise UserError(f"an audit compares at least {FEWEST} trials, found {count}")
    with locks.alone_or_not(study.folder / "audit.lock") as mine:
        if not mine:
            raise UserError(f"study {study.folder.name!r}: another process is auditing it")
        _run_audit(study, bench, count, repeats, emit)


def _run_audit(study: Study, bench: StudyContext, count: int, repeats: int, emit: Emit) -> None:
    stored = read_audit(study.folder) or {"chosen": [], "repeated": [], "full": {}}
    scored = [c for c in study.candidates() if c.rungs and c.state in ("complete", "stopped")]
    if len(scored) < FEWEST:
        raise UserError(f"study {study.folder.name!r}: an audit needs three trials with a score")
    stored["chosen"] = draw_sample(scored, count, study.recipe.seed, stored["chosen"])
    stored["repeated"] = stored["chosen"][: max(repeats, len(stored["repeated"]))]
    stored["examples"] = bench.final_examples
    by_number = {c.number: c for c in scored}
    known = stored.setdefault("zero_cost", {})
    for number in stored["chosen"]:
        if str(number) not in known:
            known[str(number)] = _untrained(study, bench, by_number[number])
    _store(study, stored)
    todo = [(n, "1") for n in stored["chosen"]] + [(n, "2") for n in stored["repeated"]]
    todo = [(n, seed) for n, seed in todo if seed not in stored["full"].get(str(n), {})]
    failed = stored.setdefault("failed", {})
    for done, (number, seed) in enumerate(todo):
        if str(number) in failed:
            continue
        what = f"audit: trial {number}, seed {seed}"
        emit(Event("stage", f"{what} ({done + 1} of {len(todo)})", stage="audit"))
        try:
            found = _in_full(study, bench, by_number[number], seed, emit)
        except FAILURES as error:
            failed[str(number)] = reason_of(error)
            _store(study, stored)
            text = f"{what}: failed: {failed[str(number)]}"
            emit(Event("warning", text, stage="audit", trial=number))
            continue
        stored["full"].setdefault(str(number), {})[seed] = found
        _store(study, stored)
        emit(Event("note", f"{what}: accuracy {found:.4f}", stage="audit", trial=number))


def draw_sample(
    scored: Sequence[Candidate], count: int, seed: int, before: Sequence[int] = ()
) -> list[int]:
    """Draws trials in proportion from those that ended at each rung; stopped ones, too.

    Args:
        scored: Trials with a score.
        count: How many in all.
        seed: Of the draw.
        before: Trials that were drawn before; they stay.

    Returns:
        Trial numbers, those drawn before first, the others in random order.
    """
    rng = random.Random(seed)
    strata: dict[int, list[int]] = {}
    for candidate in scored:
        strata.setdefault(len(candidate.rungs), []).append(candidate.number)
    for numbers in strata.values():
        rng.shuffle(numbers)
    # Taken by their place in their own stratum, so that any prefix is in proportion.
    places = [
        ((place + rng.random()) / len(numbers), number)
        for numbers in strata.values()
        for place, number in enumerate(numbers)
    ]
    drawn = [number for _, number in sorted(places) if number not in before]
    return [*before, *drawn[: max(0, count - len(before))]]


def _untrained(study: Study, bench: StudyContext, candidate: Candidate) -> dict[str, float]:
    """Figures of a trial's student before its first step, on the stream's first batch."""
    course = bench.scoring
    student = course.students(architecture_of(candidate), bench.dataset, study.recipe.seed)[0]
    train = course.stream.dataset.train
    batch = next(iter(train.batches(course.stream.plan(0, 1), bench.dataset.input.size)))
    return dict(zero_cost.measure(student.to(batch.images.device), batch.images, batch.labels))


def _in_full(
    study: Study, bench: StudyContext, candidate: Candidate, seed: str, emit: Emit
) -> float:
    """Accuracy on the audit half after full distillation."""
    checkpoint = study.folder / "audit" / f"{candidate.number}-{seed}.pt"

    def tell(event: Event) -> None:
        emit(replace(event, text=f"trial {candidate.number}: {event.text}", stage="audit"))

    name = "final" if seed == "1" else f"audit-{seed}"
    architecture = architecture_of(candidate)
    student = run_in_full(study, bench, bench.final, architecture, checkpoint, name, tell)
    data = bench.dataset
    share = accuracy(*training.predict(student, data.audit, data.input.size))
    checkpoint.unlink(missing_ok=True)
    return share


def _store(study: Study, stored: dict[str, Any]) -> None:
    write_whole(study.folder / FILE, json.dumps(stored, indent=1))
