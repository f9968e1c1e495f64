"""Stopping on the front at equal rung."""

from __future__ import annotations

from collections.abc import Sequence

from nasdistill.analysis.pareto import as_points, is_among_best

HOPELESS = 0.5
"""Share of the way from chance to the best score, below which a trial is hopeless at any cost.

In the shared tables (docs/scoring.md), at 3 % of a full run, students at 0.62 to 0.75 of it end
among the best; the two at 0.49 and 0.54 end last of 35, and last but one.
"""


def floor_of(scores: Sequence[float], chance: float) -> float:
    """The score below which a trial is hopeless.

    Args:
        scores: At one rung, in [0, 1].
        chance: Score of guessing.
    """
    return chance + HOPELESS * (max(scores) - chance)


def stop_reason(
    index: int,
    accuracies: Sequence[float],
    forecasts: Sequence[float],
    costs: Sequence[Sequence[float]],
    eta: int,
    chance: float,
    score: str = "accuracy",
) -> str | None:
    """Decides whether a trial is stopped at a rung.

    The best 1/eta at the rung go on, by non-dominated rank of (forecast, costs) (Schmucker et al.,
    MO-ASHA, 2021); in a rank the one with the highest forecast comes first, then whichever adds the
    most hypervolume to those before it. As the front would keep every tiny student, one whose
    accuracy is far below the best at the rung is stopped whatever its costs; see `HOPELESS`.

    Args:
        index: Of the trial to decide on, among those below.
        accuracies: Scores at this rung of all trials that reached it, in [0, 1].
        forecasts: Their expected accuracy after full runs, on any scale; see `forecast`.
        costs: Their costs, each a row of the same length.
        eta: See `Ladder`.
        chance: Accuracy of guessing.
        score: What the scores are, in words.

    Returns:
        The reason in words, or None if the trial goes on.
    """
    floor = floor_of(accuracies, chance)
    if accuracies[index] < floor:
        return f"{score} {accuracies[index]:.3f} is below the rung's floor of {floor:.3f}"
    points = as_points([[f, *row] for f, row in zip(forecasts, costs, strict=True)])
    places = -(-len(points) // eta)
    if not is_among_best(index, points, places):
        return f"not among the best {places} of {len(points)} at this rung"
    return None
