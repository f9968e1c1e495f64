"""The last rungs' race: more budget and a second seed for those who cannot be told apart.

Top-k is where short scores are weakest. Before finals are chosen, the trials next in line whose
forecasts overlap with those of the top-k are trained once more with them, from another seed and
beyond the last rung; that score takes the place of the first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from nasdistill.common import locks
from nasdistill.common.events import Event
from nasdistill.common.seeds import hash_seed
from nasdistill.results import Candidate, RungScore, keys
from nasdistill.study import architecture_of
from nasdistill.training.failures import FAILURES, failure_reason
from nasdistill.trials.context import OutOfTime, StudyContext
from nasdistill.trials.rung import fit_in_memory, start_run, train_rung


def run_race(context: StudyContext, numbers: Sequence[int], *, wait: bool) -> None:
    """Trains the contenders that have not run yet; their scores are stored with the study.

    Who has not run at the search's deadline does not.

    Args:
        context: The study's.
        numbers: The contenders.
        wait: Whether to wait for those that other workers are at.
    """
    study = context.study
    context = replace(context, ladder=context.ladder.with_race(context.final_examples))
    folder = context.folder / "race"
    folder.mkdir(exist_ok=True)
    candidates = {c.number: c for c in study.candidates()}
    for number in locks.in_turn(numbers, lambda n: folder / f"{n}.lock", wait=wait):
        key = keys.RACE_SCORE.of(number)
        if study.has(key):
            continue
        start = time.perf_counter()
        try:
            score = _race(context, candidates[number])
        except OutOfTime:
            return
        except FAILURES as error:
            reason = failure_reason(error)
            study.write(key, None)
            text = f"trial {number} failed in the race, its first score counts: {reason}"
            context.warn(text, stage="search", trial=number)
            continue
        study.write(key, asdict(score))
        study.add_seconds("race", time.perf_counter() - start)
        text = f"race, second seed, {score.budget:,} images: {score.in_words}"
        context.emit(Event("rung", text, stage="search", trial=number, rung=score.rung))


def _race(context: StudyContext, candidate: Candidate) -> RungScore:
    """One run up to the race's budget, from another seed."""
    number = candidate.number
    setup = context.scoring.for_architecture(architecture_of(candidate))
    seed = hash_seed((context.recipe.seed, "race")) % 2**32

    def train(micro_batch: int | None) -> RungScore:
        run = start_run(context, setup, candidate, seed, micro_batch)
        return train_rung(context, setup, run, context.ladder.last, number)

    return fit_in_memory(
        setup,
        train,
        micro_batch=candidate.micro_batch,
        remember=lambda examples: None,  # one run, not gone on with later
        warn=lambda text: context.warn(f"trial {number}: {text}", stage="search", trial=number),
        place=" in the race",
    )
