"""Goes on with the study of an earlier release, in the current folder, and prints what came of it.

python tests/regression/go_on.py   (in a folder with studies/old)
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from make_old_study import prepare

from nasdistill import api


def main() -> None:
    """Reports, resumes, and distils one trial more."""
    torch.set_num_threads(1)
    prepare(Path())
    api.report("old")
    api.resume("old")
    record = api.distill("old", trial=2).record
    trials = [
        [c.number, c.fingerprint, c.state, [[r.budget, r.accuracy, r.loss] for r in c.rungs]]
        for c in record.candidates
    ]
    finals = [[f.rank, f.number, f.metrics["audit_accuracy"]] for f in record.finals]
    print(json.dumps({"trials": trials, "finals": finals}, indent=1))


if __name__ == "__main__":
    main()
