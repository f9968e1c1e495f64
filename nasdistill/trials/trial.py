"""From a proposal to a score: gates, rungs, stopping."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from nasdistill import training
from nasdistill.analysis.audit import full_runs
from nasdistill.analysis.front import forecast_of, front
from nasdistill.analysis.stopping import stop_reason
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.seeds import hash_seed
from nasdistill.results import Candidate, RungScore
from nasdistill.study import Study, TrialEnded, architecture_of
from nasdistill.training import Diverged, LRSchedule, Run
from nasdistill.training.metrics import accuracy, wilson
from nasdistill.trials.autotune import choose_capture, precision_for
from nasdistill.trials.context import StudyContext
from nasdistill.trials.proposals import excess_over
from nasdistill.trials.training_setup import TrainingSetup

FAILURES = (Diverged, MemoryError, RuntimeError, ValueError)
"""What a training may end with that is the student's own: it fails, and the study goes on."""


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The search's share of the time limit is used up."""


def run_trial(
    study: Study, bench: StudyContext, number: int, emit: Emit, deadline: float | None
) -> None:
    """Takes one trial up the rungs, from where it stands, to its end.

    Raises:
        OutOfTime: If the deadline passes on the way; the trial can be taken up again.
    """
    work = study.folder / "trials" / str(number)
    try:
        candidate = _gate_latency(study, bench, study.candidate(number))
        if candidate is not None:
            _train(study, bench, candidate, work, emit, deadline)
    except TrialEnded:
        emit(Event("note", f"trial {number} was ended by another worker", stage="search"))
    except FAILURES as error:
        reason = reason_of(error)
        with suppress(TrialEnded):
            study.end(number, reason)
        emit(Event("trial", f"failed: {reason}", stage="search", trial=number))
    shutil.rmtree(work, ignore_errors=True)


def _gate_latency(study: Study, bench: StudyContext, candidate: Candidate) -> Candidate | None:
    """Measures latency where it counts; gives None if the trial ends here."""
    if not bench.needs_latency:
        return candidate
    if candidate.latency is None:
        start = time.perf_counter()
        architecture, seed = architecture_of(candidate), study.recipe.seed
        student = bench.scoring.students(architecture, bench.dataset, seed)[0]
        median = bench.measure_latency(student)
        study.note(candidate.number, "seconds_latency", time.perf_counter() - start)
        study.note(candidate.number, "latency", median)
        study.add_seconds("latency", time.perf_counter() - start)
        candidate = study.candidate(candidate.number)
    excess = excess_over({"latency": candidate.latency or 0.0}, bench.limits)
    if excess:
        reason = f"latency {candidate.latency:.3f} ms, limit {bench.limits['latency']:.3f} ms"
        study.end(candidate.number, reason, state="rejected")
        return None
    return candidate


def _train(
    study: Study,
    bench: StudyContext,
    candidate: Candidate,
    work: Path,
    emit: Emit,
    deadline: float | None,
) -> None:
    """Climbs the rungs; a student that does not fit in memory once more, in micro-batches."""
    number, course = candidate.number, bench.scoring.for_architecture(architecture_of(candidate))

    def mark(micro_batch: int) -> None:
        study.note(number, "micro_batch", micro_batch)
        text = f"trial {number}: out of memory; tried again in micro-batches of {micro_batch}"
        emit(Event("warning", text, stage="search", trial=number))

    def train(micro_batch: int | None) -> None:
        now = study.candidate(number)
        _climb_rungs(study, bench, course, now, micro_batch, work, emit, deadline)

    training.with_micro_batches(
        train,
        batch=course.stream.batch_size,
        coupled=course.objective.coupled,
        micro_batch=candidate.micro_batch,
        mark=mark,
    )


def _climb_rungs(
    study: Study,
    bench: StudyContext,
    course: TrainingSetup,
    candidate: Candidate,
    micro_batch: int | None,
    work: Path,
    emit: Emit,
    deadline: float | None,
) -> None:
    run = start_run(study, bench, course, candidate, study.recipe.seed, micro_batch)
    trunk = work / "trunk.pt"
    if trunk.exists():
        run.restore(trunk)
    # What was passed before an interruption is not judged again: there are more peers now.
    for rung in range(candidate.passed, len(bench.ladder.budgets)):
        if rung >= len(candidate.rungs):
            score = train_rung(bench, course, run, rung, candidate.number, emit, deadline)
            trunk.parent.mkdir(parents=True, exist_ok=True)
            run.save(trunk)
            study.record_rung(candidate.number, score)
            study.add_seconds("rungs", score.seconds)
        if _ends_at(study, bench, candidate.number, rung, emit):
            return


def start_run(
    study: Study,
    bench: StudyContext,
    course: TrainingSetup,
    candidate: Candidate,
    seed: int,
    micro_batch: int | None,
) -> Run:
    """The run that rungs branch off from, at its beginning.

    Args:
        study: The study.
        bench: What its trials share.
        course: What this run is given.
        candidate: Whose architecture.
        seed: Of weights and dropout, with the architecture's fingerprint.
        micro_batch: Most examples that the student sees at once; None for whole batches.
    """
    students = course.students(architecture_of(candidate), bench.dataset, seed)
    run = course.run(
        students,
        horizon=bench.ladder.budgets[-1],
        lr_schedule=trunk_schedule(bench),
        seed=hash_seed((seed, candidate.fingerprint)),
        precision=precision_for(study, bench, course, students, micro_batch),
        micro_batch=micro_batch,
    )
    choose_capture(study, bench, course, run)
    return run


def train_rung(
    bench: StudyContext,
    course: TrainingSetup,
    run: Run,
    rung: int,
    number: int,
    emit: Emit,
    deadline: float | None,
) -> RungScore:
    """Trains the trunk up to a rung, cools a copy of it down, and scores the copy.

    Args:
        bench: What trials share.
        course: What the run is given.
        run: The trunk; changed in place.
        rung: Index from 0.
        number: The trial's, for events.
        emit: Told how it goes.
        deadline: `time.monotonic()` at which to give up.

    Raises:
        OutOfTime: At the deadline.
    """
    ladder = bench.ladder
    budget, turn = ladder.budgets[rung], ladder.trunk_end(rung)
    with locks.busy(bench.lock):
        course.prepare(budget, run.step)
    start = time.perf_counter()
    branch = None
    for phase in ("trunk", "branch"):
        if phase == "branch":
            branch = run.branch(
                LRSchedule(run.lr_schedule.peak, run.lr_schedule.warm_up, turn, budget)
            )
        leg, until = (run, turn) if branch is None else (branch, budget)
        for progress in locks.pausing(training.train(leg, until), bench.lock):
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTime
            emit(
                Event(
                    "progress",
                    f"{phase} of rung {rung}",
                    stage="search",
                    trial=number,
                    rung=rung,
                    done=progress.examples,
                    total=budget,
                    images_per_second=progress.images_per_second,
                )
            )
    assert branch is not None
    data = bench.dataset
    with locks.busy(bench.lock):
        said = [training.predict(one, data.score, data.input.size) for one in branch.students]
    logits, labels = max(said, key=lambda answer: accuracy(*answer))
    share = accuracy(logits, labels)
    low, high = wilson(round(share * len(labels)), len(labels))
    loss = float(nn.functional.cross_entropy(logits, labels))
    seconds = time.perf_counter() - start
    peers = tuple(accuracy(*answer) for answer in said) if len(said) > 1 else ()
    return RungScore(rung, budget, share, low, high, loss, seconds, peers)


def _ends_at(study: Study, bench: StudyContext, number: int, rung: int, emit: Emit) -> bool:
    """Decides at a recorded rung whether the trial ends, and ends it."""
    recipe, candidates = study.recipe, study.candidates()
    mine = candidates[[c.number for c in candidates].index(number)]
    costs = [mine.cost(name) or 0.0 for name in recipe.minimize]
    score = mine.rungs[rung].accuracy
    reason = None
    if rung == bench.ladder.last:
        study.complete(number, score, costs)
    elif recipe.stopping:
        peers = [c for c in candidates if len(c.rungs) > rung]
        scores = [c.rungs[rung].accuracy for c in peers]
        share = bench.ladder.budgets[rung] / bench.final_examples
        reason = stop_reason(
            [c.number for c in peers].index(number),
            scores,
            list(forecast_of(peers, scores, full_runs(study.folder), share).guess),
            [[c.cost(name) or 0.0 for name in recipe.minimize] for c in peers],
            bench.ladder.eta,
            1.0 / bench.classes,
        )
        if reason is not None:
            left = bench.ladder.examples(bench.ladder.last) - bench.ladder.examples(rung)
            study.stop(number, rung, reason, left)
    ended = reason is not None or rung == bench.ladder.last
    if not ended:
        study.record_passed(number, rung + 1)
    _tell_rung(study, mine, rung, reason, ended, emit)
    return ended


def _tell_rung(
    study: Study, mine: Candidate, rung: int, reason: str | None, ended: bool, emit: Emit
) -> None:
    candidates = study.candidates()
    best = tuple(
        (c.number, c.score or 0.0, float(c.params or 0))
        for c in front(candidates, study.recipe.minimize)
    )
    latency = "" if mine.latency is None else f", {mine.latency:.2f} ms"
    text = f"accuracy {mine.rungs[rung].accuracy:.3f}, {mine.params:,} parameters{latency}"
    if mine.micro_batch is not None:
        text += f", micro-batches of {mine.micro_batch}"
    done = sum(c.state in ("complete", "stopped", "failed") for c in candidates)
    outcome = f" — stopped: {reason}" if reason else ""
    emit(
        Event(
            "trial" if ended else "rung",
            text + outcome,
            stage="search",
            trial=mine.number,
            rung=rung,
            done=done,
            total=study.recipe.trials,
            front=best,
        )
    )


def trunk_schedule(bench: StudyContext) -> LRSchedule:
    """Warm up over a third of the first rung, then hold."""
    first = bench.ladder.budgets[0]
    return LRSchedule(bench.recipe.learning_rate, first // 3, None, bench.ladder.budgets[-1])


def reason_of(error: BaseException) -> str:
    """Why a training failed, in one line.

    Raises:
        UserError: If the device itself is broken: whatever follows in this process would fail, too.
    """
    if isinstance(error, torch.AcceleratorError):
        raise UserError(
            f"the device failed: {' '.join(str(error).split())[:300]}. What was saved is kept; "
            "start the command again"
        ) from error
    return " ".join(str(error).split())[:300] or type(error).__name__
