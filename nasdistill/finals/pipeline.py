"""The top-k, distilled in full, tested once, exported and measured as exported."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from nasdistill import evaluation, training
from nasdistill.analysis.evaluation import read_quality
from nasdistill.common import locks
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import write_whole
from nasdistill.finals.measurement import export_student, model_card, test_student, tested
from nasdistill.finals.training import Trained, micro_batch_of, train_baseline, train_final
from nasdistill.models import Classifier, artifact
from nasdistill.models.export import ExportError
from nasdistill.results import Candidate, Final, load_finals
from nasdistill.study import Study, architecture_of
from nasdistill.trials.context import StudyContext
from nasdistill.trials.trial import FAILURES, reason_of

ALIKE, WORLDS_APART = 2.0, 100.0
"""Ratios of the teacher's parameters to the student's at which a run warns."""


def distill_finals(
    study: Study,
    bench: StudyContext,
    chosen: Sequence[int],
    emit: Emit,
    deadline: float | None = None,
) -> list[Final]:
    """Makes the finals that are still missing, and recommends one.

    Args:
        study: The study.
        bench: What its finals share.
        chosen: Trial numbers, by rank.
        emit: Told what happens.
        deadline: `time.monotonic()` by which a further final must be expected to end (one is
            always made).

    Returns:
        All finals of the study, by rank.
    """
    candidates = {c.number: c for c in study.candidates()}
    data = bench.dataset
    exam = evaluation.Comparison(
        bench.teacher, data.test, data.input.size, data.classes, data.name, "test"
    )
    for final in load_finals(study.folder):
        _judge(study, bench, exam, final.folder, emit)
    late: list[int] = []
    for number in locks.in_turn(missing(study, chosen), lambda n: _lock(study, n), wait=True):
        rank = chosen.index(number) + 1
        if number not in missing(study, chosen):  # another worker found that it fails
            continue
        longest = _longest(study)
        out_of_time = deadline is not None and longest and time.monotonic() + longest > deadline
        if out_of_time and not _is_trained(study, number):
            late.append(rank)
            continue
        with _failing_alone(study, number, rank, emit):
            logits = _make_final(study, bench, candidates[number], rank, emit)
            _judge(study, bench, exam, study.folder / "finals" / str(rank), emit, logits)
    if late:
        emit(Event("warning", f"no time left for finals: {', '.join(map(str, sorted(late)))}"))
    for lock in (study.folder / "finals").glob(".work-*.lock"):
        lock.unlink(missing_ok=True)
    _recommend(study)
    return load_finals(study.folder)


def missing(study: Study, chosen: Sequence[int]) -> list[int]:
    """Those of the trials to distil in full that are not finals yet and have not failed."""
    folder, attrs = study.folder / "finals", study.attrs
    return [
        number
        for rank, number in enumerate(chosen, start=1)
        if not (folder / str(rank) / "metrics.json").exists()
        and not attrs.get(f"final_failed:{number}")
    ]


def train_ahead(study: Study, bench: StudyContext, emit: Emit, deadline: float | None) -> None:
    """Trains finals that no other worker is at; another tests and exports them.

    Args:
        study: The study.
        bench: What its finals share.
        emit: Told what happens.
        deadline: `time.monotonic()` by which a final must be expected to end to be begun.
    """
    candidates = {c.number: c for c in study.candidates()}
    chosen: Sequence[int] = study.attrs["finals"]
    for number in locks.in_turn(chosen, lambda n: _lock(study, n), wait=False):
        rank = chosen.index(number) + 1
        if deadline is not None and time.monotonic() + _longest(study) > deadline:
            return
        if number in missing(study, chosen):
            with _failing_alone(study, number, rank, emit):
                _train(study, bench, candidates[number], rank, emit)


def _longest(study: Study) -> float:
    """Seconds of the final that took the longest so far, whoever trained it."""
    made = (final.metrics["seconds"] for final in load_finals(study.folder))
    under_way = (_seconds(work) for work in (study.folder / "finals").glob(".work-*/"))
    return max((sum(seconds.values()) for seconds in (*made, *under_way)), default=0.0)


@contextmanager
def _failing_alone(study: Study, number: int, rank: int, emit: Emit) -> Iterator[None]:
    """What goes wrong with one final is noted, and the others go on."""
    try:
        yield
    except (*FAILURES, ExportError) as error:
        reason = reason_of(error)
        study.set(f"final_failed:{number}", reason)
        shutil.rmtree(_work_folder(study, number), ignore_errors=True)
        emit(Event("warning", f"final {rank} (trial {number}) failed: {reason}"))


def _judge(
    study: Study,
    bench: StudyContext,
    exam: evaluation.Comparison,
    folder: Path,
    emit: Emit,
    logits: Tensor | None = None,
) -> None:
    """Holds a final against its teacher, once; if that fails, the final stays as it is."""
    if read_quality(folder) is not None:
        return
    start = time.perf_counter()
    try:
        taught = bench.teacher_on_test
        if taught is None:
            return
        exam.taught = taught
        evaluation.judge_final(folder, exam, logits)
    except FAILURES as error:
        emit(Event("warning", f"final {folder.name} could not be evaluated: {reason_of(error)}"))
    study.add_seconds("quality", time.perf_counter() - start)


def _work_folder(study: Study, number: int) -> Path:
    return study.folder / "finals" / f".work-{number}"


def _lock(study: Study, number: int) -> Path:
    """Held by the worker that is at a final."""
    folder = study.folder / "finals"
    folder.mkdir(exist_ok=True)
    return folder / f".work-{number}.lock"


def _train(
    study: Study, bench: StudyContext, candidate: Candidate, rank: int, emit: Emit
) -> tuple[Trained, Classifier | None]:
    """The runs behind a final and, if asked for, its baseline; each goes on where it stands."""
    work = _work_folder(study, candidate.number)
    work.mkdir(parents=True, exist_ok=True)
    with _timed(work, "distill"):
        trained = train_final(study, bench, candidate, work, rank, emit)
    if not bench.recipe.baseline:
        return trained, None
    with _timed(work, "baseline"):
        return trained, train_baseline(study, bench, candidate, work, rank, emit)


@contextmanager
def _timed(work: Path, stage: str) -> Iterator[None]:
    """Adds to the seconds of a final's stage, whoever works at it and however often."""
    start = time.perf_counter()
    yield
    seconds = _seconds(work)
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
    write_whole(work / "seconds.json", json.dumps(seconds))


def _is_trained(study: Study, number: int) -> bool:
    """Whether only the test and the export are left."""
    last = "baseline" if study.recipe.baseline else "distill"
    return last in _seconds(_work_folder(study, number))


def _seconds(work: Path) -> dict[str, float]:
    file = work / "seconds.json"
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _make_final(
    study: Study, bench: StudyContext, candidate: Candidate, rank: int, emit: Emit
) -> Tensor:
    """Makes one final; gives its logits on the test split."""
    work = _work_folder(study, candidate.number)
    _warn_of_size(bench, candidate, emit)
    trained, plain = _train(study, bench, candidate, rank, emit)
    student, baseline = trained.student, None
    emit(Event("note", f"final {rank}: testing, exporting, measuring", stage="finals"))
    with _timed(work, "test"):
        if plain is not None:
            baseline = tested(
                *training.predict(plain, bench.dataset.test, bench.dataset.input.size)
            )
        metrics, logits = test_student(bench, student, candidate, rank)
    with _timed(work, "export"):
        metrics |= export_student(bench, student, work / "model.onnx")
    seconds = _seconds(work)
    metrics |= {"seconds": seconds, "baseline": baseline, "steps": list(trained.steps)}
    metrics["micro_batch"] = micro_batch_of(study, work / "final.pt")
    floor, audit = bench.limits["accuracy"], metrics["audit_accuracy"]
    metrics["limits"]["accuracy"] = {"limit": floor, "value": audit, "ok": audit >= floor}
    architecture = architecture_of(candidate)
    artifact.write_final(
        study.folder / "finals" / str(rank),
        module=student,
        architecture=architecture,
        input=bench.dataset.input,
        classes=bench.dataset.classes,
        metrics=metrics,
        card=model_card(study, metrics),
        onnx=work / "model.onnx",
    )
    for stage, spent in seconds.items():
        study.add_seconds({"distill": "finals"}.get(stage, stage), spent)
    shutil.rmtree(work)
    kept = "" if metrics["retention"] is None else f" ({metrics['retention']:.1%} of the teacher's)"
    text = f"test accuracy {metrics['test_accuracy']:.4f}{kept}, {metrics['params']:,} parameters"
    emit(Event("final", text, stage="finals", trial=candidate.number, done=rank))
    return logits


def _warn_of_size(bench: StudyContext, candidate: Candidate, emit: Emit) -> None:
    """Distillation works between models whose sizes are neither alike nor worlds apart."""
    if not bench.teacher.runs:
        return
    taught = sum(p.numel() for p in bench.teacher.module.parameters())
    ratio = taught / max(1, candidate.params or 1)
    if ratio < ALIKE:
        hint = "there is little to gain in size; choose a tighter limit"
    elif ratio > WORLDS_APART:
        hint = "the student may be too small to follow; try an assistant (iterate.assistants)"
    else:
        return
    text = (
        f"trial {candidate.number} has {candidate.params:,} parameters, the teacher {taught:,} "
        f"(÷{ratio:.1f}): {hint}"
    )
    emit(Event("warning", text, stage="finals", trial=candidate.number))


def _recommend(study: Study) -> None:
    """Recommends the final that keeps its limits and is best on the audit half."""
    finals = [f for f in load_finals(study.folder) if not f.broken_limits]
    chosen = study.folder / "finals" / "recommended.json"
    if not finals:
        chosen.unlink(missing_ok=True)
        return
    best = max(finals, key=lambda f: (f.metrics["audit_accuracy"], -f.metrics["params"]))
    write_whole(chosen, json.dumps({"rank": best.rank, "by": "audit_accuracy"}))
