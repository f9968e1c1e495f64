"""The search: trials in this process, one after the other, within their time."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

from nasdistill.common import formats
from nasdistill.common.events import Event
from nasdistill.recipe import Recipe
from nasdistill.results import keys
from nasdistill.trials.context import Deadlines, OutOfTime, StudyContext
from nasdistill.trials.proposals import counted_trials, give_up_on_failures, propose
from nasdistill.trials.trial import run_trial


def search(context: StudyContext, begun: float) -> None:
    """Runs trials until none is left for this process; decides when the command must end.

    Args:
        context: The study's; its deadlines are set.
        begun: `time.monotonic()` at which the command began.

    Raises:
        UserError: If no trial can be run.
    """
    study = context.study
    context.deadlines = choose_deadlines(context, begun)
    trials = formats.counted(study.recipe.trials, "trial")
    context.emit(Event("stage", f"searching: {trials}", stage="search"))
    exhausted = False
    while True:
        if not exhausted or study.has_abandoned():
            ended = run_trials(context)
            record_saved_answers(context)
        if ended == "exhausted" and not exhausted:
            exhausted = True
            context.warn("the space has no new architecture to offer within the limits")
            study.write(keys.EXHAUSTED_AT, study.recipe.trials)
        deadline = context.deadlines.search
        late = deadline is not None and time.monotonic() > deadline
        if ended == "time" or (late and study.others_running()):
            context.warn("the search's share of the time limit is used up")
            return
        if not study.others_running():
            return
        time.sleep(1.0)


def run_trials(context: StudyContext) -> Literal["complete", "time", "exhausted"]:
    """Runs trials until the study's total is reached.

    Returns:
        Why it ended. Other workers may still hold trials.

    Raises:
        UserError: If no architecture of the space keeps the limits, or the first trials all fail.
    """
    study = context.study
    while True:
        number = study.take_up()
        try:
            if number is None:
                if counted_trials(study) >= study.recipe.trials:
                    return "complete"
                context.deadlines.check_search()
                start = time.perf_counter()
                number = propose(context)
                study.add_seconds("gates", time.perf_counter() - start)
                if number is None and counted_trials(study) < study.recipe.trials:
                    return "exhausted"
                if number is None:  # Another worker was quicker to take the last slot.
                    continue
            with study.holding(number):
                run_trial(context, number)
        except OutOfTime:
            return "time"
        give_up_on_failures(study)


def record_saved_answers(context: StudyContext) -> None:
    """Stores how many answers the cache gave this worker, less those that it asked for.

    The worker that asks is not always the one that uses the answer: only the sum over workers means
    something.
    """
    saved = sum(cache.served - cache.asked for cache in context.teachers.caches.values())
    context.study.write(keys.SAVED.of("cache", context.study.worker), saved)


def choose_deadlines(context: StudyContext, begun: float) -> Deadlines:
    """Divides the time limit between search and finals by the examples that each will see."""
    recipe = context.recipe
    if recipe.time_limit is None:
        return Deadlines()
    whole = begun + recipe.time_limit
    examples = expected_examples(context)
    share = examples.trials / (examples.trials + examples.finals)
    left = whole - time.monotonic()
    return Deadlines(time.monotonic() + left * share, whole)


class ExpectedExamples(NamedTuple):
    """Training examples that a study is expected to see.

    Attributes:
        trials: In all trials.
        finals: In finals and what they need: baselines, generations, assistants.
    """

    trials: float
    finals: float


def expected_examples(context: StudyContext) -> ExpectedExamples:
    """The training examples that a study is expected to see."""
    ladder, trials = context.ladder, 0.0
    for rung, trial_count in enumerate(expected_trials(context)):
        before = ladder.examples(rung - 1) if rung else 0
        trials += trial_count * (ladder.examples(rung) - before)
    return ExpectedExamples(trials, context.final_examples * full_runs(context.recipe))


def expected_trials(context: StudyContext) -> list[float]:
    """The number of trials that are expected to reach each rung; see `Ladder.expected`."""
    recipe, ladder = context.recipe, context.ladder
    if not recipe.stopping:
        return [float(recipe.trials)] * len(ladder.budgets)
    return ladder.expected(recipe.trials)


def full_runs(recipe: Recipe) -> int:
    """The number of trainings at the final budget that are to come."""
    controls = recipe.baseline and recipe.begin not in (None, "fresh")
    each, shared = 1 + recipe.baseline + controls, 0
    if recipe.iterate is not None and recipe.iterate.generations is not None:
        each += recipe.iterate.generations - 1
    elif recipe.iterate is not None:
        each, shared = each + 1, len(recipe.iterate.assistants or ())
    return each * recipe.top_k + shared
