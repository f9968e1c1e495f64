"""The front of a study, and forecasts of accuracy after full runs of its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.forecast import Forecast, forecast
from nasdistill.analysis.pareto import as_points, non_dominated_ranks
from nasdistill.common.types import Cost
from nasdistill.results import Candidate
from nasdistill.results.experience import untrained_of

NO_EXPERIENCE = Experience()


def forecast_at(
    candidates: Sequence[Candidate],
    rung: int,
    full: Mapping[int, float],
    final_examples: int,
    experience: Experience = NO_EXPERIENCE,
) -> Forecast:
    """Forecasts accuracy after full runs of the trials that were scored at a rung.

    Its weights are taught by the forecasts at the next rung, of those trials that climbed to it.

    Args:
        candidates: All that were scored at the rung, and no others.
        rung: Its index.
        full: Accuracy after full runs on the audit half, by trial number; see `full_runs`.
        final_examples: Training examples of a full run.
        experience: What earlier full runs teach.
    """
    higher = [c for c in candidates if len(c.rungs) > rung + 1]
    later: dict[int, float] = {}
    if higher:
        guesses = forecast_at(higher, rung + 1, full, final_examples, experience).guess
        later = {c.number: float(guess) for c, guess in zip(higher, guesses, strict=True)}
    scores = [c.rungs[rung].score for c in candidates]
    share = candidates[0].rungs[rung].budget / final_examples
    return forecast_of(candidates, scores, full, share, later, experience)


def forecast_of(
    candidates: Sequence[Candidate],
    scores: Sequence[float],
    full: Mapping[int, float],
    share: float,
    later: Mapping[int, float] = MappingProxyType({}),
    experience: Experience = NO_EXPERIENCE,
) -> Forecast:
    """Forecasts accuracy after full runs of trials.

    Args:
        candidates: Trials at one rung.
        scores: Their scores at it, in [0, 1].
        full: Accuracy after full runs on the audit half, by trial number; see `full_runs`.
        share: Of a full run's examples, those that the scored copies have seen.
        later: Guesses at the next rung, by trial number.
        experience: What earlier full runs teach.
    """
    untrained = [one for c in candidates if (one := untrained_of(c)) is not None]
    known = len(untrained) == len(candidates)
    return forecast(
        scores,
        [c.macs for c in candidates],
        [c.params for c in candidates],
        [c.depth for c in candidates],
        [full.get(c.number) for c in candidates],
        share,
        [later.get(c.number) for c in candidates],
        experience.guess(untrained).tolist() if known else (),
        experience.weight if known else 0.0,
    )


def front(candidates: Sequence[Candidate], costs: Sequence[Cost]) -> list[Candidate]:
    """The candidates that no other beats in accuracy and every cost.

    Only those that climbed furthest are compared: scores at different rungs are not comparable.

    Args:
        candidates: Any trials; those without a score or a cost are left out.
        costs: Costs that count, all minimised.
    """
    scored = [c for c in candidates if c.state == "complete" and c.score is not None]
    scored = [c for c in scored if all(c.cost(name) is not None for name in costs)]
    if not scored:
        return []
    rows = [[c.score or 0.0, *(c.cost(name) or 0.0 for name in costs)] for c in scored]
    ranks = non_dominated_ranks(as_points(rows), 1)
    return [c for c, rank in zip(scored, ranks, strict=True) if rank == 0]
