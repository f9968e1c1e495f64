"""One trial, from its proposal to its end: gate, build, rung, stop or go on."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from nasdistill.analysis.front import forecast_at, front
from nasdistill.analysis.stopping import stop_reason
from nasdistill.common import formats
from nasdistill.common.events import Event
from nasdistill.results import Candidate, keys
from nasdistill.study import TrialEnded, architecture_of
from nasdistill.training.checkpoint import go_on_from
from nasdistill.training.failures import FAILURES, failure_reason
from nasdistill.trials.context import StudyContext
from nasdistill.trials.costs import costs_to_measure, excess_over, measure
from nasdistill.trials.experience import measure_untrained
from nasdistill.trials.rung import fit_in_memory, start_run, train_rung


def run_trial(context: StudyContext, number: int) -> None:
    """Takes one trial up the rungs, from where it stands, to its end.

    Raises:
        OutOfTime: If the search's deadline passes on the way; the trial can be taken up again.
    """
    study, work = context.study, context.folder / "trials" / str(number)
    try:
        if _keeps_measured_limits(context, study.candidate(number)):
            _train(context, number, work)
    except TrialEnded:
        context.note(f"trial {number} was ended by another worker", stage="search")
    except FAILURES as error:
        reason = failure_reason(error)
        with suppress(TrialEnded):
            study.end(number, reason)
        context.emit(Event("trial", f"failed: {reason}", stage="search", trial=number))
    study.files.remove(work)


def _keeps_measured_limits(context: StudyContext, candidate: Candidate) -> bool:
    """Measures the costs that cannot be counted; a trial that is over a limit ends here."""
    study, number, costs = context.study, candidate.number, costs_to_measure(context)
    figures: dict[str, float | None] = {cost: candidate.cost(cost) for cost in costs}
    if any(value is None for value in figures.values()):
        start = time.perf_counter()
        architecture, seed = architecture_of(candidate), context.recipe.seed
        student = context.scoring.students(architecture, context.dataset, seed)[0]
        figures = {str(cost): value for cost, value in measure(context, student).items()}
        seconds = time.perf_counter() - start
        study.note(number, keys.TRIAL_SECONDS.of("latency"), seconds)
        for key in (keys.BYTES, keys.LATENCY):
            if key.name in figures:
                study.note(number, key, figures[key.name])
        study.add_seconds("latency", seconds)
    limits = context.limits
    excess = excess_over({k: v for k, v in figures.items() if v is not None}, limits)
    if not excess:
        return True
    reason = ", ".join(
        f"{name} {formats.cost(name, figures[name])}, limit {formats.cost(name, limits[name])}"
        for name in excess
    )
    study.end(number, reason, state="rejected")
    return False


def _train(context: StudyContext, number: int, work: Path) -> None:
    """Climbs the rungs; a student that does not fit in memory once more, in micro-batches."""
    study, candidate = context.study, context.study.candidate(number)
    setup = context.scoring.for_architecture(architecture_of(candidate))
    if context.recipe.experience and candidate.zero_cost is None and not candidate.rungs:
        figures = measure_untrained(context, candidate)
        if figures is not None:
            study.note(number, keys.ZERO_COST, figures)

    def warn(text: str) -> None:
        context.warn(f"trial {number}: {text}", stage="search", trial=number)

    def climb(micro_batch: int | None) -> None:
        candidate = study.candidate(number)
        run = start_run(context, setup, candidate, context.recipe.seed, micro_batch)
        trunk = work / "trunk.pt"
        if candidate.rungs:  # another host may have trained them
            study.files.fetch(trunk)
        go_on_from(run, trunk, warn)
        # What was passed before an interruption is not judged again: there are more peers now.
        for rung in range(candidate.passed, len(context.ladder.budgets)):
            if rung >= len(candidate.rungs):
                score = train_rung(context, setup, run, rung, number)
                trunk.parent.mkdir(parents=True, exist_ok=True)
                run.save(trunk)
                study.files.push(trunk)
                study.record_rung(number, score)
                study.add_seconds("rungs", score.seconds)
            if _ends_at(context, number, rung):
                return

    fit_in_memory(
        setup,
        climb,
        micro_batch=candidate.micro_batch,
        remember=lambda examples: study.note(number, keys.TRIAL_MICRO_BATCH, examples),
        warn=warn,
    )


def _ends_at(context: StudyContext, number: int, rung: int) -> bool:
    """Decides at a recorded rung whether the trial ends, and ends it."""
    study, ladder = context.study, context.ladder
    candidates = study.candidates()
    candidate = next(c for c in candidates if c.number == number)
    reason = None
    if rung == ladder.last:
        costs = [candidate.cost(name) or 0.0 for name in context.recipe.minimize]
        study.complete(number, candidate.rungs[rung].score, costs)
    elif context.recipe.stopping:
        reason = _stop_reason(context, candidates, number, rung)
        if reason is not None:
            saved = ladder.examples(ladder.last) - ladder.examples(rung)
            study.stop(number, rung, reason, saved)
    ends = reason is not None or rung == ladder.last
    if not ends:
        study.record_passed(number, rung + 1)
    _tell_rung(context, candidate, rung, reason, "trial" if ends else "rung")
    return ends


def _stop_reason(
    context: StudyContext, candidates: list[Candidate], number: int, rung: int
) -> str | None:
    """Why a trial is stopped at a rung, by its forecast and costs among those that reached it."""
    peers = [c for c in candidates if len(c.rungs) > rung]
    scores = [c.rungs[rung].score for c in peers]
    full = context.full_runs.accuracy()
    forecasts = forecast_at(peers, rung, full, context.final_examples, context.experience).guess
    return stop_reason(
        [c.number for c in peers].index(number),
        scores,
        list(forecasts),
        [[c.cost(name) or 0.0 for name in context.recipe.minimize] for c in peers],
        context.ladder.eta,
        1.0 / context.classes,
        context.score_name,
    )


def _tell_rung(
    context: StudyContext, candidate: Candidate, rung: int, reason: str | None, kind: str
) -> None:
    candidates = context.study.candidates()
    best = tuple(
        (c.number, c.score or 0.0, float(c.params or 0))
        for c in front(candidates, context.recipe.minimize)
    )
    latency = "" if candidate.latency is None else f", {candidate.latency:.2f} ms"
    text = f"{candidate.rungs[rung].in_words}, {candidate.params:,} parameters{latency}"
    if candidate.micro_batch is not None:
        text += f", micro-batches of {candidate.micro_batch}"
    if reason is not None:
        text += f" — stopped: {reason}"
    context.emit(
        Event(
            kind,  # type: ignore[arg-type]
            text,
            stage="search",
            trial=candidate.number,
            rung=rung,
            done=sum(c.state in ("complete", "stopped", "failed") for c in candidates),
            total=context.recipe.trials,
            front=best,
        )
    )
