"""Proposals: architectures that are new to a study and keep the limits that need no measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.models.counts import count_architecture
from nasdistill.models.limits import MOST_PARAMETERS
from nasdistill.results import COUNTED, Candidate, keys
from nasdistill.study import Proposal, Study
from nasdistill.trials.context import StudyContext
from nasdistill.trials.costs import counted_figures, excess_over, least_figures
from nasdistill.trials.screening import foretell

MOST_REJECTIONS = 300
MOST_DUPLICATES = 500
MOST_FAILURES = 5


def propose(context: StudyContext) -> int | None:
    """Asks until an architecture is new and keeps the limits that need no measuring.

    Returns:
        The number of the trial that was claimed, or None if the space has nothing new to offer, or
        the last slot was lost to another worker.

    Raises:
        UserError: If the samples break the limits again and again and no trial was ever trained.
    """
    study, attempt = context.study, 0
    while attempt < MOST_DUPLICATES:
        proposer = study.proposer()
        tried = {c.fingerprint for c in proposer.candidates}
        if (
            study.space.count() == len(tried)
            or _trailing_rejections(proposer.candidates) >= MOST_REJECTIONS
        ):
            break
        foretold = None if proposer.has_untried_start else foretell(context, proposer)
        parameters = None if foretold is None else foretold.parameters
        proposal = proposer.propose(attempt, parameters)
        while proposal.architecture.fingerprint in tried and attempt < MOST_DUPLICATES:
            attempt += 1
            proposal = proposer.propose(attempt, parameters)
        if proposal.architecture.fingerprint in tried:
            break
        try:
            counts = count_architecture(
                proposal.architecture, context.dataset.input, context.classes
            )
        except UserError as error:  # A family of the user's own that cannot build this one.
            _fail(context, proposal, str(error))
            attempt = 0
            continue
        figures = counted_figures(context.recipe, counts)
        excess = excess_over(least_figures(context.recipe, counts), context.limits)
        if excess:
            study.reject(proposal, figures, excess)
            attempt = 0
            continue
        if counts.params > MOST_PARAMETERS:  # where no limit is on parameters
            text = f"{counts.params:,} parameters; allowed are at most {MOST_PARAMETERS:,}"
            _fail(context, proposal, text)
            attempt = 0
            continue
        number = study.claim(proposal, figures)
        if number is not None:
            if foretold is not None:
                study.note(number, keys.FORETOLD, foretold.guess)
            return number
        attempt += 1
        if counted_trials(study) >= study.recipe.trials:
            return None
    _check_that_some_keep(study.candidates(), context.limits, study.space.name)
    return None


def _fail(context: StudyContext, proposal: Proposal, reason: str) -> None:
    """Ends a proposal that cannot be built as a failed trial.

    Raises:
        UserError: If one trial after the other fails.
    """
    study = context.study
    number = study.claim(proposal, {})
    if number is not None:
        study.end(number, reason)
        context.emit(Event("trial", f"failed: {reason}", stage="search", trial=number))
        give_up_on_failures(study)


def counted_trials(study: Study) -> int:
    """How many trials count against the total."""
    return sum(c.state in COUNTED for c in study.candidates())


def _trailing_rejections(candidates: Sequence[Candidate]) -> int:
    count = 0
    for candidate in reversed(candidates):
        if candidate.state != "rejected":
            break
        count += 1
    return count


def _check_that_some_keep(
    candidates: Sequence[Candidate], limits: Mapping[str, float], space: str
) -> None:
    """Raises where a study cannot begin; a study that has trials merely ends."""
    if any(c.state in COUNTED for c in candidates):
        return
    rejected = [c for c in candidates if c.state == "rejected"]
    if not rejected:
        raise UserError(f"the space {space!r} gave no architecture at all")

    def distance(candidate: Candidate) -> float:
        figures = {k: float(getattr(candidate, k) or 0) for k in limits if k != "accuracy"}
        return max(excess_over(figures, limits).values(), default=0.0)

    closest = min(rejected, key=distance)
    allowed = ", ".join(f"{k} ≤ {v:,.6g}" for k, v in limits.items() if k != "accuracy")
    bytes = "" if closest.bytes is None else f", {closest.bytes:,} bytes"
    latency = "" if closest.latency is None else f", {closest.latency:.3f} ms"
    raise UserError(
        f"none of {len(rejected)} architectures sampled from the space {space!r} keeps the limits "
        f"({allowed}). The closest has {closest.params:,} params, {closest.macs:,} MACs"
        f"{bytes}{latency}. Raise the limits or choose a smaller space."
    )


def give_up_on_failures(study: Study) -> None:
    """Ends a search in which one trial after the other fails.

    Raises:
        UserError: With the last reason.
    """
    ended = [c for c in study.candidates() if c.state in ("complete", "stopped", "failed")]
    last = ended[-2 * MOST_FAILURES :]
    if len(last) >= MOST_FAILURES and all(c.state == "failed" for c in last):
        raise UserError(
            f"{len(last)} trials in a row failed; the last one because: {last[-1].reason}"
        )
