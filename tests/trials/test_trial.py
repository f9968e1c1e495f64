"""One trial: gates, rungs, stopping, failing, going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import OpenContext, write_blobs

import nasdistill
from nasdistill.analysis.front import forecast_at, forecast_of
from nasdistill.common.events import Event
from nasdistill.recipe import load_recipe
from nasdistill.results import Candidate, RungScore, keys, load_study
from nasdistill.training import OutOfMemory
from nasdistill.trials import rung, trial
from nasdistill.trials.context import Deadlines, OutOfTime, StudyContext
from nasdistill.trials.proposals import propose
from nasdistill.trials.trial import run_trial


def proposed(context: StudyContext) -> int:
    number = propose(context)
    assert number is not None
    return number


def ended(context: StudyContext, number: int) -> Candidate:
    with context.study.holding(number):
        run_trial(context, number)
    return context.study.candidate(number)


def trained() -> list[Candidate]:
    """Trials that a whole search has scored."""
    return [c for c in load_study("small", Path("studies")).candidates if c.rungs]


def test_a_trial_climbs_every_rung(opened: OpenContext, events: list[Event]) -> None:
    context = opened()
    number = proposed(context)
    candidate = ended(context, number)
    assert candidate.state == "complete" and candidate.passed == 2
    assert [r.budget for r in candidate.rungs] == [200, 400, 800]
    for score in candidate.rungs:
        assert score.low < score.accuracy < score.high and score.loss > 0 and not score.peers
    own = [e for e in events if e.trial == number]
    assert [e.rung for e in own if e.kind == "rung"] == [0, 1]
    assert [(e.rung, e.done, e.total) for e in own if e.kind == "trial"] == [(2, 1, 7)]
    phases = dict.fromkeys(e.text for e in own if e.kind == "progress")
    assert list(phases) == [f"{leg} of rung {r}" for r in range(3) for leg in ("trunk", "branch")]
    assert not Path(f"studies/small/trials/{number}").exists()
    assert context.study.trials()[number].values[1] == candidate.params


def test_the_score_is_that_of_the_cooled_copy_and_the_trunk_goes_on(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened()
    number = proposed(context)
    setup = context.scoring
    candidate = context.study.candidate(number)
    run = rung.start_run(context, setup, candidate, context.recipe.seed, None)
    score = rung.train_rung(context, setup, run, 0, number)
    # The trunk turns off at 60 % of the budget: 120 of 200 images are three batches of fifty.
    assert run.examples == 150 and score.budget == 200
    from nasdistill import training
    from nasdistill.training import LRSchedule
    from nasdistill.training.metrics import accuracy

    cooled = run.branch(LRSchedule(run.lr_schedule.peak, run.lr_schedule.warm_up, 120, 200))
    for _ in training.train(cooled, 200):
        pass
    data = context.dataset
    predictions = training.predict(cooled.student, data.score, data.input.size)
    assert score.accuracy == accuracy(*predictions)
    assert score.loss == float(torch.nn.functional.cross_entropy(*predictions))


def test_a_balanced_score_is_what_ranks_and_what_limits_are_of(
    opened: OpenContext, events: list[Event]
) -> None:
    write_blobs(Path("blobs.npz"), uneven=True)
    context = opened(score="balanced-accuracy", min_accuracy=None)
    card = context.study.require(keys.TEACHER)
    balanced = card["validation_balanced_accuracy"]
    assert context.limits["accuracy"] == 0.9 * balanced != 0.9 * card["validation_accuracy"]
    number = proposed(context)
    candidate = ended(context, number)
    for score in candidate.rungs:
        assert score.score == score.balanced != score.accuracy
        assert score.low < score.score < score.high
    last = candidate.rungs[-1]
    assert candidate.score == context.study.trials()[number].values[0] == last.balanced
    assert any(f"balanced {last.score:.3f}, accuracy {last.accuracy:.3f}" in e.text for e in events)


def test_a_trial_far_behind_is_stopped(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened()
    first = proposed(context)
    assert ended(context, first).state == "complete"

    def poor(*arguments: Any) -> RungScore:
        return RungScore(0, 200, 0.34, 0.3, 0.4, 1.1, 0.1)

    monkeypatch.setattr(trial, "train_rung", poor)
    candidate = ended(context, proposed(context))
    assert candidate.state == "stopped" and len(candidate.rungs) == 1
    assert (candidate.reason or "").startswith("accuracy 0.340 is below the rung's floor")
    ladder = context.ladder
    assert candidate.saved == ladder.examples(2) - ladder.examples(0)
    assert context.study.trials()[candidate.number].user_attrs["stopped_at"] == 0


def test_a_slow_student_is_turned_away_untrained(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened(minimize=["latency", "params"], max_latency="5ms")
    monkeypatch.setattr(StudyContext, "measure_latency", lambda self, student: 6.25)
    candidate = ended(context, proposed(context))
    assert candidate.state == "rejected" and candidate.rungs == ()
    assert candidate.reason == "latency 6.25 ms, limit 5 ms" and candidate.latency == 6.25
    assert candidate.seconds["latency"] > 0
    monkeypatch.setattr(StudyContext, "measure_latency", lambda self, student: 4.0)
    assert ended(context, proposed(context)).state == "complete"


def test_a_trial_that_was_cut_off_goes_on_from_its_last_rung(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened(study="whole")
    expected = ended(whole, proposed(whole))
    context = opened()
    number, train_rung, trained = proposed(context), trial.train_rung, []

    def cut(context: Any, setup: Any, run: Any, index: int, number: int) -> RungScore:
        trained.append(index)
        if trained == [0, 1]:
            raise KeyboardInterrupt
        return train_rung(context, setup, run, index, number)

    monkeypatch.setattr(trial, "train_rung", cut)
    with pytest.raises(KeyboardInterrupt):
        ended(context, number)
    before = context.study.candidate(number)
    assert before.state == "running" and len(before.rungs) == 1
    assert Path(f"studies/small/trials/{number}/trunk.pt").exists()
    after = ended(context, number)
    assert trained == [0, 1, 1, 2]
    assert [(r.accuracy, r.loss) for r in after.rungs] == [
        (r.accuracy, r.loss) for r in expected.rungs
    ]


def test_out_of_time_leaves_the_trial_to_be_taken_up(opened: OpenContext) -> None:
    context = opened()
    number = proposed(context)
    context.deadlines = Deadlines(search=0.0)
    with pytest.raises(OutOfTime):
        ended(context, number)
    assert context.study.candidate(number).state == "running"
    context.deadlines = Deadlines()
    assert context.study.take_up() == number
    assert ended(context, number).state == "complete"


def test_a_failure_is_the_students_own(
    opened: OpenContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened()

    def broken(*arguments: Any) -> RungScore:
        raise ValueError("these shapes\n do not fit")

    monkeypatch.setattr(trial, "train_rung", broken)
    candidate = ended(context, proposed(context))
    assert (candidate.state, candidate.reason) == ("failed", "these shapes do not fit")
    assert events[-1].kind == "trial" and events[-1].text == "failed: these shapes do not fit"


def test_out_of_memory_is_tried_again_in_micro_batches(
    opened: OpenContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, sizes = opened(), []
    start_run = trial.start_run

    def short_of_memory(*arguments: Any) -> Any:
        sizes.append(arguments[-1])
        if arguments[-1] is None:
            raise MemoryError("no room")
        return start_run(*arguments)

    monkeypatch.setattr(trial, "start_run", short_of_memory)
    candidate = ended(context, proposed(context))
    assert sizes == [None, 13] and candidate.micro_batch == 13 and candidate.state == "complete"
    (text,) = [e.text for e in events if e.kind == "warning"]
    assert text == "trial 0: out of memory; tried again in micro-batches of 13" or text.endswith(
        "out of memory; tried again in micro-batches of 13"
    )

    def never_fits(*arguments: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(trial, "start_run", never_fits)
    failed = ended(context, proposed(context))
    assert failed.state == "failed" and "again in micro-batches of 13" in (failed.reason or "")
    assert issubclass(OutOfMemory, trial.FAILURES)


def test_one_that_another_worker_ended_is_left(opened: OpenContext, events: list[Event]) -> None:
    context = opened()
    number = proposed(context)
    context.study.end(number, "gone")
    run_trial(context, number)
    assert events[-1].text == f"trial {number} was ended by another worker"
    assert context.study.candidate(number).reason == "gone"


def test_stopping_reads_no_file_that_has_not_changed(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened()
    finals = context.folder / "finals" / "1"
    finals.mkdir(parents=True)
    (finals / "metrics.json").write_text('{"trial": 0, "audit_accuracy": 0.75}')
    assert context.full_runs.accuracy() == {0: 0.75}
    reads: list[Path] = []
    read_text = Path.read_text

    def counting(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name in ("metrics.json", "audit.json"):
            reads.append(path)
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", counting)
    ended(context, proposed(context))
    assert reads == []


def test_keys_of_a_trial_are_listed(opened: OpenContext) -> None:
    context = opened(minimize=["latency", "params"])
    number = proposed(context)
    ended(context, number)
    assert keys.unlisted(context.study.trials()[number].user_attrs, keys.TRIAL_KEYS) == []
    assert keys.unlisted(context.study.attributes, keys.STUDY_KEYS) == []


def test_a_trial_that_passed_a_rung_is_not_judged_there_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[int, float]] = []
    rule = trial.stop_reason

    def noting(index: int, accuracies: list[float], *rest: Any) -> str | None:
        judged.append((index, accuracies[index]))
        reason = rule(index, accuracies, *rest)
        return None if len(judged) == 1 else reason

    train_rung = trial.train_rung

    def cut_off(*given: Any) -> RungScore:
        if given[3] == 1:
            raise KeyboardInterrupt
        return train_rung(*given)

    recipe = load_recipe("recipe.yaml", {"trials": 1, "workers": 1})
    monkeypatch.setattr(trial, "stop_reason", noting)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trial, "train_rung", cut_off)
        nasdistill.search(recipe)
    (before,) = trained()
    assert before.passed == 1 and len(judged) == 1
    nasdistill.search(recipe)
    (after,) = trained()
    assert after.state == "complete" and after.rungs[0] == before.rungs[0]
    assert judged.count(judged[0]) == 1


def test_a_search_stops_by_forecasts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[list[float], list[float]]] = []
    rule = trial.stop_reason

    def noting(
        index: int, accuracies: list[float], forecasts: list[float], *rest: Any
    ) -> str | None:
        pairs.append((accuracies, forecasts))
        return rule(index, accuracies, forecasts, *rest)

    monkeypatch.setattr(trial, "stop_reason", noting)
    nasdistill.search(load_recipe("recipe.yaml", {"min_accuracy": 0, "final_budget": "2 epochs"}))
    ranked = sorted(trained(), key=lambda c: c.number)
    first = [c.rungs[0].accuracy for c in ranked]
    accuracies, forecasts = next(pair for pair in pairs if pair[0] == first)
    then = [*ranked[:-1], replace(ranked[-1], rungs=ranked[-1].rungs[:1])]
    assert forecasts == pytest.approx(list(forecast_at(then, 0, {}, 1000).guess))
    assert all(c.macs and c.depth for c in ranked), "what a forecast needs was not stored"
    alone = forecast_of([replace(c, macs=None, depth=None) for c in ranked], first, {}, 0.2)
    assert forecasts != pytest.approx(list(alone.guess))
