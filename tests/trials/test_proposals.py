"""What is tried next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import FrozenTrial
from small_study import TEACHER, OpenContext

from nasdistill.common.errors import UserError
from nasdistill.results import Candidate
from nasdistill.space import Architecture
from nasdistill.study import Proposal, Proposer
from nasdistill.trials.costs import excess_over
from nasdistill.trials.proposals import give_up_on_failures, propose


def test_excess_is_a_share_of_the_limit() -> None:
    figures = {"params": 150_000.0, "macs": 10.0, "bytes": 400.0}
    assert excess_over(figures, {"params": 100_000.0, "macs": 20.0}) == {"params": 0.5}
    assert excess_over(figures, {"params": 150_000.0}) == {}


def study_of(states: str) -> Any:
    names = {"f": "failed", "s": "stopped", "c": "complete", "r": "rejected", "x": "running"}
    candidates = [
        Candidate(i, names[s], {}, str(i), {}, reason="no memory")  # type: ignore[arg-type]
        for i, s in enumerate(states)
    ]
    return SimpleNamespace(candidates=lambda: candidates)


@pytest.mark.parametrize("states", ["", "ffff", "fffffs", "fcfffff", "s" + "f" * 9, "ffffrrxs"])
def test_some_failures_are_borne(states: str) -> None:
    give_up_on_failures(study_of(states))


@pytest.mark.parametrize("states", ["fffff", "rfffxff", "s" + "f" * 10, "cc" + "f" * 12])
def test_failure_after_failure_ends_the_search(states: str) -> None:
    with pytest.raises(UserError, match="trials in a row failed; the last one because: no memory"):
        give_up_on_failures(study_of(states))


def test_duplicates_do_not_read_the_storage_again(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, reads, proposals = opened(trials=48, max_params="100k"), list[int](), list[int]()
    trials, original = context.study.trials, Proposer.propose

    def counted(proposer: Proposer, attempt: int, *foretold: Any) -> Proposal:
        proposals[-1] += 1
        return original(proposer, attempt, *foretold)

    def read() -> list[FrozenTrial]:
        reads[-1] += 1
        return trials()

    monkeypatch.setattr(Proposer, "propose", counted)
    monkeypatch.setattr(context.study, "trials", read)
    for _ in range(40):
        reads.append(0)
        proposals.append(0)
        assert propose(context) is not None
    assert max(reads) == 2, "to propose, and to see that nobody else has claimed it"
    fingerprints = {candidate.fingerprint for candidate in context.study.candidates()}
    assert len(fingerprints) == 40 and max(proposals) > 3, "the space has 48 architectures"


HUGE = """
FAMILIES = {"huge": lambda architecture, input, classes: nn.Sequential(
    nn.Flatten(), nn.Linear(256, architecture.values["n"]), nn.Linear(architecture.values["n"], 3)
)}
"""


@pytest.mark.parametrize(
    ("limit", "state"), [({"max_params": "10k"}, "rejected"), ({"max_macs": str(10**18)}, "failed")]
)
def test_a_student_of_ones_own_that_no_memory_holds_is_never_built(
    limit: dict[str, Any], state: str, opened: OpenContext
) -> None:
    Path("own.py").write_text(TEACHER + HUGE)
    space = "name: h\nfamily: huge\nparameters:\n  n: {choice: [4, 1000000000000]}\n"
    Path("huge.yaml").write_text(space)
    options = {"space": "huge.yaml", "max_params": None, "trials": 2, **limit}
    context = opened(**options)
    assert propose(context) is not None
    propose(context)
    states = {c.architecture["values"]["n"]: c for c in context.study.candidates()}
    assert states[4].state == "running" and states[10**12].state == state
    if state == "failed":
        reason = (
            "260,000,000,000,003 parameters; allowed are at most 1,000,000,000"  # (256 + 1 + 3) n
        )
        assert states[10**12].reason == reason
    huge = Architecture("huge", {"n": 10**12})
    with pytest.raises(UserError, match="parameters; allowed are at most 1,000,000,000"):
        context.scoring.students(huge, context.dataset, 0)
