"""The last rungs' race: more budget and a second seed for those who cannot be told apart.

Top-k is where short scores are weakest. Before finals are chosen, the trials next in line whose
forecasts overlap with those of the top-k are trained once more with them, from another seed and
beyond the last rung; that score takes the place of the first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.events import Emit, Event
from nasdistill.common.seeds import hash_seed
from nasdistill.results import Candidate, RungScore
from nasdistill.study import Study, architecture_of
from nasdistill.trials.context import StudyContext
from nasdistill.trials.trial import FAILURES, OutOfTime, reason_of, start_run, train_rung


def run_race(
    study: Study,
    bench: StudyContext,
    numbers: Sequence[int],
    emit: Emit,
    deadline: float | None,
    *,
    wait: bool,
) -> None:
    """Trains the contenders that have not run yet; their scores are stored with the study.

    Args:
        study: The study.
        bench: What its trials share.
        numbers: The contenders.
        emit: Told what happens.
        deadline: `time.monotonic()` at which the search must end; who has not run then does not.
        wait: Whether to wait for those that other workers are at.
    """
    bench = replace(bench, ladder=bench.ladder.with_race(bench.final_examples))
    folder = study.folder / "race"
    folder.mkdir(exist_ok=True)
    candidates = {c.number: c for c in study.candidates()}
    for number in locks.in_turn(numbers, lambda n: folder / f"{n}.lock", wait=wait):
        if _key(number) in study.attrs:
            continue
        start = time.perf_counter()
        try:
            score = _run(study, bench, candidates[number], emit, deadline)
        except OutOfTime:
            return
        except FAILURES as error:
            text = f"trial {number} failed in the race, its first score counts: {reason_of(error)}"
            study.set(_key(number), None)
            emit(Event("warning", text, stage="search", trial=number))
            continue
        study.set(_key(number), asdict(score))
        study.add_seconds("race", time.perf_counter() - start)
        text = f"race, second seed, {score.budget:,} images: accuracy {score.accuracy:.3f}"
        emit(Event("rung", text, stage="search", trial=number, rung=score.rung))


def _key(number: int) -> str:
    return f"race:{number}"


def _run(
    study: Study, bench: StudyContext, candidate: Candidate, emit: Emit, deadline: float | None
) -> RungScore:
    """One run up to the race's budget, from another seed."""
    course = bench.scoring.for_architecture(architecture_of(candidate))
    seed = hash_seed((study.recipe.seed, "race")) % 2**32

    def train(micro_batch: int | None) -> RungScore:
        run = start_run(study, bench, course, candidate, seed, micro_batch)
        last, number = bench.ladder.last, candidate.number
        return train_rung(bench, course, run, last, number, emit, deadline)

    def mark(micro_batch: int) -> None:
        said = f"out of memory in the race; tried again in micro-batches of {micro_batch}"
        text = f"trial {candidate.number}: {said}"
        emit(Event("warning", text, stage="search", trial=candidate.number))

    return training.with_micro_batches(
        train,
        batch=course.stream.batch_size,
        coupled=course.objective.coupled,
        micro_batch=candidate.micro_batch,
        mark=mark,
    )
