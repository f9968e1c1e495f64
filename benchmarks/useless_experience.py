"""Whether a study could tell by its short scores that earlier full runs teach it nothing.

Guesses of earlier full runs (of the shared tables, no architecture's own run among them) and the
same guesses shuffled, against the short scores of random studies of 24 trials: how often do they
agree no better than chance, and how many of the useless are found by a threshold that every tenth
useful one falls below.

    python benchmarks/useless_experience.py

At 5 % of a full run they can hardly be told apart on `mobile`, so experience loses its weight by
full runs alone (docs/scoring.md).
"""

from __future__ import annotations

import random
from statistics import fmean, quantiles

from common import markdown
from full_runs import RUNGS, SPACES
from replay import Table, left_out

from nasdistill.analysis.rank_correlation import kendall

STUDIES, TRIALS = 300, 24


def agreements(table: Table, share: float, *, useful: bool) -> list[float]:
    """Kendall's tau of guesses with short scores, of random studies of each seed of these."""
    rng, guesses, taus = random.Random(0), left_out(table).guesses, []
    for seed in table.scored("trunk"):
        scores = table.figure("trunk", share, seed, "accuracy")
        for _ in range(STUDIES):
            places = rng.sample(range(len(scores)), TRIALS)
            guessed = [guesses[place] for place in places]
            if not useful:
                rng.shuffle(guessed)
            taus.append(kendall(guessed, [scores[place] for place in places]) or 0.0)
    return taus


def main() -> None:
    """Prints the table."""
    rows = []
    for space in SPACES:
        table = Table.read(space)
        for share in RUNGS:
            good, useless = (agreements(table, share, useful=useful) for useful in (True, False))
            threshold = quantiles(good, n=10)[0]
            caught = fmean(tau < threshold for tau in useless)
            rows.append(
                [space, f"{share:.0%}", f"{fmean(good):.2f}", f"{fmean(useless):.2f}"]
                + [f"{fmean(tau < 0 for tau in good):.0%}", f"{caught:.0%}"]
            )
    head = ["space", "rung", "τ of useful guesses", "of shuffled ones"]
    print(markdown([*head, "useful ones below 0", "shuffled ones found"], rows))


if __name__ == "__main__":
    main()
