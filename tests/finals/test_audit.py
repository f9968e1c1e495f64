"""Audits: of figures made up to be checked by hand, and of a real small study."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nasdistill
from nasdistill import api
from nasdistill.analysis.audit import analyse, read_audit, verdict
from nasdistill.analysis.rank_correlation import kendall
from nasdistill.cli import app
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.finals import audit
from nasdistill.finals.audit import draw_sample
from nasdistill.recipe import load_recipe
from nasdistill.results import Candidate, RungScore, StudyRecord, load_study
from nasdistill.training import Diverged


def candidate(number: int, scores: list[float], macs: int, state: str = "complete") -> Candidate:
    rungs = tuple(
        RungScore(i, 1000 * 3**i, s, s - 0.01, s + 0.01, 0.5, 1.0) for i, s in enumerate(scores)
    )
    return Candidate(
        number=number,
        state=state,
        architecture={},
        fingerprint=str(number),  # type: ignore[arg-type]
        parameters={},
        params=macs * 2,
        macs=macs,
        rungs=rungs,
    )


def record(candidates: list[Candidate]) -> StudyRecord:
    blank: dict[str, Any] = {
        "name": "made-up",
        "folder": Path("."),
        "state": "complete",
        "recipe": {},
        "command": "",
        "teacher": {},
        "data": {},
        "machine": {},
        "versions": {},
        "limits": {},
        "rungs": (1000, 3000),
        "stages": {},
        "savings": {},
        "finals": (),
    }
    return StudyRecord(candidates=candidates, **blank)


TRIALS = [
    candidate(0, [0.5, 0.60], 10),
    candidate(1, [0.6, 0.70], 40),
    candidate(2, [0.7, 0.80], 20),
    candidate(3, [0.4], 30, "stopped"),
    candidate(4, [0.3], 50, "stopped"),
]
FULL = {
    "0": {"1": 0.80},
    "1": {"1": 0.85, "2": 0.87},
    "2": {"1": 0.90},
    "3": {"1": 0.70},
    "4": {"1": 0.60, "2": 0.60},
}
STORED = {"chosen": [0, 1, 2, 3, 4, 9], "repeated": [1, 4], "examples": 10_000, "full": FULL}


def test_figures_worked_by_hand() -> None:
    audit = analyse(record(TRIALS), STORED)
    assert audit is not None
    by_name = {row.name: row for row in (*audit.scored, *audit.rivals)}
    rungs = ["rung 0", "rung 0, forecast", "rung 1", "rung 1, forecast"]
    assert list(by_name) == [*rungs, "last score", "parameters", "MACs"]
    assert by_name["rung 0"].count == 5 and by_name["rung 1"].count == 3
    assert by_name["rung 0"].kendall == pytest.approx(1.0)
    assert by_name["MACs"].kendall == pytest.approx(-0.4)  # 3 pairs agree, 7 don't
    low, high = by_name["MACs"].spearman_interval or (0.0, 0.0)
    assert by_name["MACs"].spearman == pytest.approx(-0.5) and low < -0.5 < high
    assert by_name["MACs"].partial is None and by_name["rung 0"].spearman_interval == (1.0, 1.0)
    assert audit.noise == pytest.approx((0.02**2 / 2 / 2) ** 0.5)
    assert audit.ceiling is not None and 0.9 < audit.ceiling <= 1.0
    assert audit.lost == pytest.approx(0.70 - 0.90)
    assert audit.spent == {
        "search": 3 * (1800 + 400 + 1200) + 2 * 1000,
        "audit": 70_000,
        "everything": 50_000,
    }
    assert audit.recall is None, "of five trials there is no tenth"
    assert "tau 1.00" in verdict(audit) and "ranks better than counting MACs" in verdict(audit)


def test_a_vote_of_untrained_figures_is_a_rival_once_it_is_stored() -> None:
    figures = [(9.0, 9.0, 0.0), (2.0, 2.0, 2.0), (3.0, 1.0, 3.0), (1.0, 8.0, 1.0), (0.0, 0.0, 9.0)]
    names = ("synflow", "snip", "jacobian")
    stored = {str(n): dict(zip(names, row, strict=True)) for n, row in enumerate(figures)}
    audit = analyse(record(TRIALS), {**STORED, "zero_cost": stored})
    assert audit is not None
    voted = audit.rivals[-1]
    # Wins: trial 0 over all, 2 over 1 and 3, 1 over 3, 1 and 3 over 4, 2 over 4.
    # Accuracies 0.80, 0.85, 0.90, 0.70, 0.60: 8 of 10 pairs agree.
    assert voted.name == "synflow, SNIP, Jacobian: vote" and voted.kendall == pytest.approx(0.6)
    assert "vote of three figures of the untrained students reaches 0.60" in verdict(audit)
    half = {**STORED, "zero_cost": {"0": stored["0"]}}
    incomplete = analyse(record(TRIALS), half)
    assert incomplete is not None and len(incomplete.rivals) == 2


def test_a_score_that_says_no_more_than_macs_is_called_that() -> None:
    trials = [candidate(n, [0.1 * n], 10 * n) for n in range(1, 9)]
    stored = {**STORED, "full": {str(n): {"1": 0.1 * n} for n in range(1, 9)}}
    audit = analyse(record(trials), stored)
    assert audit is not None
    assert audit.ahead == (0.0, 0.0)
    assert "no better than counting MACs" in verdict(audit)
    assert audit.scored[-1].partial is None


def test_the_sample_is_in_proportion_and_only_grows() -> None:
    scored = [candidate(n, [0.5], 1, "stopped") for n in range(30)]
    scored += [candidate(n, [0.5, 0.6], 1) for n in range(30, 40)]
    first = draw_sample(scored, 12, seed=3)
    assert Counter(n >= 30 for n in first) == {False: 9, True: 3}
    assert draw_sample(scored, 12, seed=3) == first
    more = draw_sample(scored, 20, seed=3, before=first)
    assert more[:12] == first and len(set(more)) == 20
    assert draw_sample(scored, 12, seed=4) != first
    assert len(draw_sample(scored, 99, seed=0)) == 40


def test_a_real_study_is_audited_and_nothing_is_trained_twice(here: Path) -> None:
    options = {"trials": 5, "top_k": 1, "final_budget": "1 epochs", "min_accuracy": 0}
    nasdistill.search(load_recipe("recipe.yaml", options))

    class Cut(Exception):  # noqa: N818
        pass

    def cut(event: Event) -> None:
        if event.kind == "note" and "audit: trial" in event.text:
            raise Cut

    with pytest.raises(Cut):
        api.audit("small", count=4, repeats=1, on_event=cut)
    before = read_audit(Path("studies/small"))
    assert before is not None and len(before["chosen"]) == 4 and len(before["full"]) == 1
    texts: list[str] = []
    outcome = api.audit("small", count=4, repeats=1, on_event=lambda e: texts.append(e.text))
    assert list(outcome.audit.numbers) == sorted(before["chosen"])
    assert len(outcome.audit.again) == 1
    assert len(outcome.audit.rivals) == 3, "figures of untrained students are rivals, too"
    done = next(iter(before["full"]))
    assert not any(f"trial {done}, seed 1 (" in text for text in texts)
    page = outcome.page.read_text()
    assert "What stopping lost" in page and "counting MACs" in page.lower().replace("macs", "MACs")
    report = outcome.page.with_name("index.html").read_text()
    assert '<a href="audit.html">' in report and "Audit of 4 trials: The last score" in report
    record = load_study("small", Path("studies"))
    assert [f.number for f in record.finals], "the study is as it was"
    result = CliRunner().invoke(app, ["audit", "small", "--count", "4", "--repeats", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["full"]) == 4


def test_the_ceiling_is_what_two_full_runs_agree_by() -> None:
    rng = random.Random(1)
    clean = [rng.gauss(0.8, 0.01) for _ in range(300)]
    runs = [[c + rng.gauss(0, 0.01) for c in clean] for _ in range(2)]
    stored = {
        **STORED,
        "chosen": list(range(300)),
        "full": {str(n): {"1": a, "2": b} for n, (a, b) in enumerate(zip(*runs, strict=True))},
    }
    audit = analyse(record([candidate(n, [0.5], n + 1) for n in range(300)]), stored)
    assert audit is not None and audit.ceiling is not None
    measured = kendall(*runs)
    assert measured is not None and measured < 0.45
    assert audit.ceiling == pytest.approx(measured, abs=0.06)


def test_a_student_that_fails_ends_no_audit(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nasdistill.search(load_recipe("recipe.yaml", {"trials": 5, "top_k": 1, "min_accuracy": 0}))
    distil, numbers = audit._distil, []

    def failing(context: Any, candidate: Candidate, *rest: Any) -> float:
        numbers.append(candidate.number)
        if candidate.number == numbers[0]:
            raise Diverged("the loss is <not> finite")
        return distil(context, candidate, *rest)

    monkeypatch.setattr(audit, "_distil", failing)
    outcome = api.audit("small", count=4, repeats=0)
    assert outcome.audit.failed == {numbers[0]: "the loss is <not> finite"}
    assert len(outcome.audit.numbers) == 3 and numbers[0] not in outcome.audit.numbers
    line = f"1 failed: trial {numbers[0]}, the loss is &lt;not&gt; finite"
    assert line in outcome.page.read_text()
    assert len(numbers) == 4
    api.audit("small", count=4, repeats=0)
    assert len(numbers) == 4, "what failed is not tried again"
    with (
        locks.alone(Path("studies/small/audit.lock")),
        pytest.raises(UserError, match="another process is auditing"),
    ):
        api.audit("small")
    with pytest.raises(UserError, match="--count: found 2; must be from 3 to 10,000"):
        api.audit("small", count=2)


def test_a_study_of_two_trials_cannot_be_audited(here: Path) -> None:
    options = {"trials": 2, "top_k": 1, "final_budget": "1 epochs", "min_accuracy": 0}
    nasdistill.search(load_recipe("recipe.yaml", options))
    with pytest.raises(UserError, match="needs three trials with a score"):
        api.audit("small")
