"""Works at the small study of the current folder without training: what it stores is real.

The storage's URL comes by the environment. Work begins with a line on standard input.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from nasdistill.recipe import load_recipe
from nasdistill.results import COUNTED, RungScore
from nasdistill.study import Study, TrialEnded

COSTS = {"params": 1000, "macs": 1000, "bytes": 4000, "depth": 2}


def opened(trials: int) -> Study:
    url = os.environ["STORAGE"]
    options = {"storage": url, "trials": trials, "space": "mlp", "sampler": "random"}
    return Study.open(load_recipe("recipe.yaml", options), Path("studies"), "a test")


def counted_trials(study: Study) -> int:
    """As a search counts them; what it imports takes longer to load than these trials take."""
    return sum(candidate.state in COUNTED for candidate in study.candidates())


def climb(study: Study, number: int) -> None:
    """Gives a trial a score at both of its rungs, and ends it."""
    for rung in range(len(study.candidate(number).rungs), 2):
        time.sleep(0.05)
        accuracy = 0.5 + 0.001 * number
        study.record_rung(number, RungScore(rung, 100, accuracy, 0.4, 0.9, 0.5, 0.05))
    study.complete(number, accuracy=0.6, costs=[1000.0])


def work(study: Study, trials: int) -> None:
    while True:
        number = study.take_up()
        if number is None and counted_trials(study) >= trials:
            if not study.others_running():
                return
            time.sleep(0.3)
            continue
        attempt = 0
        while number is None and counted_trials(study) < trials:
            proposer = study.proposer()
            seen = {candidate.fingerprint for candidate in proposer.candidates}
            proposal = proposer.propose(attempt)
            attempt += 1
            if proposal.architecture.fingerprint not in seen:
                number = study.claim(proposal, COSTS)
        if number is not None:
            try:
                with study.holding(number):
                    climb(study, number)
            except TrialEnded:
                print(f"trial {number} was ended already", flush=True)


def main() -> None:
    trials = int(sys.argv[1])
    study = opened(trials)
    study.news = lambda text: print(text, flush=True)
    print("opened", flush=True)
    sys.stdin.readline()
    work(study, trials)


if __name__ == "__main__":
    main()
