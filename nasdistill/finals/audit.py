"""Audits: a sample of a study's trials distilled in full, to hold their short scores against."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from nasdistill.analysis.audit import AUDIT, FILE
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.common.files import write_whole
from nasdistill.common.json_files import read_or_set_aside
from nasdistill.finals.full_run import Variant
from nasdistill.finals.training import run_in_full
from nasdistill.results import Candidate
from nasdistill.study import Study, architecture_of
from nasdistill.training.failures import FAILURES, failure_reason
from nasdistill.trials.autotune import predict
from nasdistill.trials.context import StudyContext
from nasdistill.trials.experience import keep_experience, measure_untrained

FEWEST = 3
"""Trials that have an order worth the name."""


def run_audit(context: StudyContext, count: int, repeats: int) -> None:
    """Distils the chosen trials in full and stores each score as soon as it is known.

    Which trials is decided, and written, before any is trained; a later call with larger numbers
    adds to them. What can be told of them untrained is stored as well. Scores are of the audit
    half, which steered nothing.

    Args:
        context: The study's.
        count: Trials in all.
        repeats: How many of these are trained with a second seed, too.

    Raises:
        UserError: If fewer than three trials have a score or are asked for, or another process
            audits the study.
    """
    if count < FEWEST:
        raise UserError(f"an audit compares at least {FEWEST} trials, found {count}")
    with locks.alone_or_not(context.folder / "audit.lock") as alone:
        if not alone:
            raise UserError(f"study {context.folder.name!r}: another process is auditing it")
        _run_audit(context, count, repeats)


def _run_audit(context: StudyContext, count: int, repeats: int) -> None:
    study = context.study
    lost = "the audit begins again"
    stored = read_or_set_aside(study.folder / FILE, AUDIT, context.warn, lost)
    audit = stored or {"chosen": [], "repeated": [], "full": {}}
    scored = [c for c in study.candidates() if c.rungs and c.state in ("complete", "stopped")]
    if len(scored) < FEWEST:
        raise UserError(f"study {study.folder.name!r}: an audit needs three trials with a score")
    unknown = [number for number in audit["chosen"] if number not in {c.number for c in scored}]
    if unknown:
        raise UserError(
            f"{study.folder / FILE}: trial {unknown[0]} is not one of the study's trials with a "
            "score; is it another study's? Move the file away to begin a new audit"
        )
    audit["chosen"] = draw_sample(scored, count, study.recipe.seed, audit["chosen"])
    audit["repeated"] = audit["chosen"][: max(repeats, len(audit["repeated"]))]
    audit["examples"] = context.final_examples
    candidates = {c.number: c for c in scored}
    zero_cost_figures = audit.setdefault("zero_cost", {})
    for number in audit["chosen"]:
        if str(number) not in zero_cost_figures:
            candidate = candidates[number]
            figures = candidate.zero_cost or measure_untrained(context, candidate)
            if figures is not None:
                zero_cost_figures[str(number)] = dict(figures)
    _store(study, audit)
    runs = [(n, "1") for n in audit["chosen"]] + [(n, "2") for n in audit["repeated"]]
    runs = [(n, seed) for n, seed in runs if seed not in audit["full"].get(str(n), {})]
    failed = audit.setdefault("failed", {})
    for done, (number, seed) in enumerate(runs):
        if str(number) in failed:
            continue
        label = f"audit: trial {number}, seed {seed}"
        context.emit(Event("stage", f"{label} ({done + 1} of {len(runs)})", stage="audit"))
        try:
            full_score = _distil(context, candidates[number], seed)
        except FAILURES as error:
            failed[str(number)] = failure_reason(error)
            _store(study, audit)
            text = f"{label}: failed: {failed[str(number)]}"
            context.warn(text, stage="audit", trial=number)
            continue
        audit["full"].setdefault(str(number), {})[seed] = full_score
        _store(study, audit)
        context.note(f"{label}: {context.score_name} {full_score:.4f}", stage="audit", trial=number)
    keep_experience(context)


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


def _distil(context: StudyContext, candidate: Candidate, seed: str) -> float:
    """Score on the audit half after full distillation."""
    checkpoint = context.folder / "audit" / f"{candidate.number}-{seed}.pt"
    labelled = context.labelled(f"trial {candidate.number}", stage="audit")
    name = "final" if seed == "1" else f"audit-{seed}"
    student = run_in_full(labelled, Variant(), architecture_of(candidate), checkpoint, name)
    data = context.dataset
    full_score = context.score_of(predict(context, student, data.audit, "scoring", "audit")).share
    context.study.files.remove(checkpoint)
    return full_score


def _store(study: Study, audit: dict[str, Any]) -> None:
    write_whole(study.folder / FILE, json.dumps(audit, indent=1))
