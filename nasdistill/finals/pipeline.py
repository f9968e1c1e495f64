"""The top-k, distilled in full, tested once, exported and measured as exported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from nasdistill import evaluation
from nasdistill.analysis.evaluation import needs_evaluation
from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import set_aside, write_whole
from nasdistill.common.json_files import read_json
from nasdistill.deployment.files import Setting, make_files
from nasdistill.finals.measurement import (
    accuracy_on_test,
    export_student,
    measure_on_test,
    model_card,
)
from nasdistill.finals.quantised import checkpoint_of, distil_quantised
from nasdistill.finals.several import check_cards
from nasdistill.finals.training import (
    TrainedFinal,
    how_trained,
    train_baseline,
    train_control,
    train_final,
)
from nasdistill.models import Classifier, artifact
from nasdistill.models.export import ExportError, verify_onnx
from nasdistill.recipe import Recipe
from nasdistill.results import (
    Candidate,
    Final,
    audit_score,
    forms,
    keys,
    load_finals,
    read_final,
    tested_by_score,
)
from nasdistill.study import Study, architecture_of
from nasdistill.study.artifacts import FOLDER as ARTIFACTS
from nasdistill.study.artifacts import attach
from nasdistill.study.sharing import take_finals
from nasdistill.training.failures import FAILURES, failure_reason
from nasdistill.trials.autotune import predict
from nasdistill.trials.context import StudyContext

SECONDS_FILE = "seconds.json"
"""File in the work folder of a final: seconds by stage."""
ALIKE, WORLDS_APART = 2.0, 100.0
"""Ratios of the teacher's parameters to the student's at which a run warns."""


class TrainedRuns(NamedTuple):
    """What was trained for a final.

    Attributes:
        final: Its own runs.
        rivals: What it is held against, by stage: `baseline`, on labels alone; `fresh`, distilled
            from fresh weights.
    """

    final: TrainedFinal
    rivals: Mapping[str, Classifier]


def make_finals(context: StudyContext, chosen: Sequence[int]) -> list[Final]:
    """Makes the finals that are still missing, and recommends one.

    One is always made; a further one only if it is expected to end by the command's deadline.

    Args:
        context: The study's.
        chosen: Trial numbers, by rank.

    Returns:
        All finals of the study, by rank.
    """
    study, data = context.study, context.dataset
    candidates = {c.number: c for c in study.candidates()}
    take_finals(study)
    comparison = evaluation.Comparison(
        context.teacher,
        data.test,
        data.input.size,
        data.classes,
        data.name,
        "test",
        emit=context.emit,
    )
    for final in load_finals(context.folder):
        _evaluate(context, comparison, final.folder)
        _make_files(context, final.folder)
        study.files.push(final.folder)
    late: list[int] = []
    numbers = missing_finals(study, chosen)
    for number in study.files.in_turn(numbers, lambda n: _lock(study, n), wait=True):
        rank = chosen.index(number) + 1
        if number not in missing_finals(study, chosen):  # another worker found that it fails
            continue
        study.files.fetch(_work_folder(study, number) / SECONDS_FILE)
        if _is_late(context) and not _is_trained(study, number):
            late.append(rank)
            continue
        with _failing_alone(context, number, rank):
            logits = _make_final(context, candidates[number], rank)
            folder = context.folder / "finals" / str(rank)
            _evaluate(context, comparison, folder, logits)
            _make_files(context, folder)
            study.files.push(folder)
    if late:
        context.warn(f"no time left for finals: {', '.join(map(str, sorted(late)))}")
    for lock in (context.folder / "finals").glob(".work-*.lock"):
        lock.unlink(missing_ok=True)
    _recommend(study)
    finals = load_finals(context.folder)
    attach(
        study, {f"{f.rank}-{file.name}": file for f in finals for file in shipped_files(f.folder)}
    )
    study.files.push(study.folder / ARTIFACTS)
    return finals


def shipped_files(folder: Path) -> list[Path]:
    """The files of a final that are there to be taken away, by name."""
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")


def missing_finals(study: Study, chosen: Sequence[int]) -> list[int]:
    """Those of the trials to distil in full that are not finals yet and have not failed.

    A folder whose metrics.json is gone or cannot be read is no final.
    """
    take_finals(study)
    ranks = {final.rank for final in load_finals(study.folder)}
    return [
        number
        for rank, number in enumerate(chosen, start=1)
        if rank not in ranks and not study.read(keys.FINAL_FAILED.of(number))
    ]


def set_aside_incomplete(study: Study, number: int, emit: Emit) -> None:
    """Sets a trial's final aside if its folder has lost a file, so that it is made again.

    A whole one stays.

    Args:
        study: The study.
        number: The trial's.
        emit: Told what is wrong with the folder, and its new name.
    """
    chosen = study.read(keys.FINALS) or []
    if number not in chosen:
        return
    folder = study.folder / "finals" / str(chosen.index(number) + 1)
    problem = folder_problem(folder) if folder.exists() else None
    if problem is not None:
        _set_aside(folder, problem, emit)
        study.files.remove(folder)


def folder_problem(folder: Path) -> str | None:
    """What is missing or damaged in a final's folder; None if it is whole.

    The ONNX file is run beside the module that the other files give.
    """
    for name in ("README.md", "model.onnx"):
        if not (folder / name).is_file():
            return f"{folder / name}: No such file"
    try:
        read_final(folder)
        module, shape = artifact.load(folder), artifact.input_of(folder)
    except UserError as error:
        return str(error)
    try:
        verified = verify_onnx(module, shape, folder / "model.onnx")
    except Exception as error:  # ONNX Runtime raises nearly anything for broken bytes.
        return f"{folder / 'model.onnx'}: damaged ({str(error).splitlines()[0][:200]})"
    return None if verified.ok else f"{folder / 'model.onnx'}: another model's"


def _set_aside(folder: Path, problem: str, emit: Emit) -> None:
    aside = set_aside(folder)
    text = f"{problem}; the folder was put aside as {aside.name}, and this final is made again"
    emit(Event("warning", text, stage="finals"))


def train_ahead(context: StudyContext) -> None:
    """Trains finals that no other worker is at; another tests and exports them.

    None is begun that is expected to end after the command's deadline, and none at all by a process
    that sees fewer GPUs than a final takes.
    """
    try:
        check_cards(context.recipe)
    except UserError as error:
        context.warn(f"no finals are trained here: {error}", stage="finals")
        return
    study = context.study
    candidates = {c.number: c for c in study.candidates()}
    chosen = study.require(keys.FINALS)
    for number in study.files.in_turn(chosen, lambda n: _lock(study, n), wait=False):
        rank, deadline = chosen.index(number) + 1, context.deadlines.whole
        study.files.fetch(_work_folder(study, number) / SECONDS_FILE)
        if deadline is not None and time.monotonic() + _longest(context.folder) > deadline:
            return
        if number in missing_finals(study, chosen):
            with _failing_alone(context, number, rank):
                _train(context, candidates[number], rank)


def _is_late(context: StudyContext) -> bool:
    """Whether a further final is expected to end after the command's deadline."""
    deadline, longest = context.deadlines.whole, _longest(context.folder)
    return deadline is not None and longest > 0 and time.monotonic() + longest > deadline


def _longest(folder: Path) -> float:
    """Seconds of the final that took the longest so far, whoever trained it."""
    finished = (final.metrics["seconds"] for final in load_finals(folder))
    under_way = (_seconds(work) for work in (folder / "finals").glob(".work-*/"))
    return max((sum(seconds.values()) for seconds in (*finished, *under_way)), default=0.0)


@contextmanager
def _failing_alone(context: StudyContext, number: int, rank: int) -> Iterator[None]:
    """Notes what goes wrong with one final, and lets the others go on."""
    try:
        yield
    except (*FAILURES, ExportError) as error:
        reason = failure_reason(error)
        context.study.write(keys.FINAL_FAILED.of(number), reason)
        context.study.files.remove(_work_folder(context.study, number))
        context.warn(f"final {rank} (trial {number}) failed: {reason}")


def _evaluate(
    context: StudyContext,
    comparison: evaluation.Comparison,
    folder: Path,
    logits: Tensor | None = None,
) -> None:
    """Holds a final against its teacher, once; if that fails, the final stays as it is."""
    if not needs_evaluation(folder, context.warn):
        return
    start = time.perf_counter()
    try:
        teacher_logits = context.teacher_on_test
        if teacher_logits is None:
            return
        comparison.teacher_logits = teacher_logits
        evaluation.judge_final(folder, comparison, logits)
    except (*FAILURES, UserError) as error:
        context.warn(f"final {folder.name} could not be evaluated: {failure_reason(error)}")
    context.study.add_seconds("quality", time.perf_counter() - start)


def _make_files(context: StudyContext, folder: Path) -> None:
    """Makes the files that the recipe asks for and a final lacks; a kill leaves only whole ones."""
    recipe, start = context.recipe, time.perf_counter()
    if not recipe.shipped_formats:
        return
    setting = Setting(
        context.folder.name,
        context.dataset,
        context.dataset.attribution,
        recipe.score,
        recipe.max_loss,
        context.threads,
        context.latency_lock,
        context.emit,
        partial(_distil_quantised, context),
    )
    make_files(folder, recipe.shipped_formats, setting)
    checkpoint_of(folder).unlink(missing_ok=True)
    context.study.add_seconds("files", time.perf_counter() - start)


def _distil_quantised(context: StudyContext, folder: Path) -> Classifier | None:
    """See `distil_quantised`; None, and told why, where that fails."""
    try:
        return distil_quantised(context, folder)
    except (*FAILURES, UserError) as error:
        reason = failure_reason(error)
        context.warn(f"final {folder.name}: distilling with fake quantisation failed: {reason}")
        return None


def _work_folder(study: Study, number: int) -> Path:
    return study.folder / "finals" / f".work-{number}"


def _lock(study: Study, number: int) -> Path:
    """Held by the worker that is at a final."""
    folder = study.folder / "finals"
    folder.mkdir(exist_ok=True)
    return folder / f".work-{number}.lock"


def _train(context: StudyContext, candidate: Candidate, rank: int) -> TrainedRuns:
    """The runs behind a final, and those that it is held against; each goes on where it stands."""
    work = _work_folder(context.study, candidate.number)
    work.mkdir(parents=True, exist_ok=True)
    with _timed(context, work, "distill"):
        trained = train_final(context, candidate, work, rank)
    rivals = {}
    for stage, train in _rivals(context.recipe).items():
        with _timed(context, work, stage):
            rivals[stage] = train(context, candidate, work, rank)
    return TrainedRuns(trained, rivals)


def _rivals(recipe: Recipe) -> dict[str, Callable[..., Classifier]]:
    """The runs that each final is held against, by the stage that their seconds count for."""
    if not recipe.baseline:
        return {}
    control = {} if recipe.begin == "fresh" else {"fresh": train_control}
    return {"baseline": train_baseline, **control}


@contextmanager
def _timed(context: StudyContext, work: Path, stage: str) -> Iterator[None]:
    """Adds to the seconds of a final's stage, whoever works at it and however often."""
    start, file = time.perf_counter(), work / SECONDS_FILE
    yield
    seconds = _seconds(work)
    if not seconds and file.exists():
        text = f"{file}: damaged; it was put aside as {set_aside(file).name}"
        context.warn(f"{text}, and the seconds in it are lost", stage="finals")
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
    write_whole(file, json.dumps(seconds))
    context.study.files.push(file)


def _is_trained(study: Study, number: int) -> bool:
    """Whether only the test and the export are left."""
    last = ["distill", *_rivals(study.recipe)][-1]
    return last in _seconds(_work_folder(study, number))


def _seconds(work: Path) -> dict[str, float]:
    """Seconds by stage; none where the file cannot be read: checkpoints tell the progress."""
    file = work / SECONDS_FILE
    if not file.exists():
        return {}
    try:
        seconds: dict[str, float] = read_json(file, forms.SECONDS)
    except DamagedFileError:
        return {}
    return seconds


def _make_final(context: StudyContext, candidate: Candidate, rank: int) -> Tensor:
    """Makes one final; gives its logits on the test split."""
    study, dataset = context.study, context.dataset
    work = _work_folder(study, candidate.number)
    _warn_of_size(context, candidate)
    trained, rivals = _train(context, candidate, rank)
    student = trained.student
    context.note(f"final {rank}: testing, exporting, measuring", stage="finals")
    with _timed(context, work, "test"):
        tested_rivals = {
            stage: accuracy_on_test(*predict(context, rival, dataset.test, f"testing {stage}"))
            for stage, rival in rivals.items()
        }
        metrics, logits = measure_on_test(context, student, candidate, rank)
    spec = artifact.ModelSpec(architecture_of(candidate), dataset.preparation, dataset.classes)
    with _timed(context, work, "export"):
        metrics |= export_student(context, student, work / "model.onnx", spec)
    target = context.folder / "finals" / str(rank)
    if target.exists():
        _set_aside(target, f"{target}: its metrics.json is missing or damaged", context.emit)
    seconds = _seconds(work)
    metrics |= {"seconds": seconds, "steps": list(trained.steps)}
    metrics |= {name: tested_rivals.get(name) for name in ("baseline", "fresh")}
    metrics |= how_trained(context, student, work / "final.pt")
    metrics["deploy"] = context.recipe.deploy
    floor, audit = context.limits["accuracy"], audit_score(metrics)
    metrics["limits"]["accuracy"] = {"limit": floor, "value": audit, "ok": audit >= floor}
    artifact.write_final(
        target,
        module=student,
        spec=spec,
        metrics=metrics,
        card=model_card(study, metrics, dataset.preparation),
        onnx=work / "model.onnx",
    )
    for stage, spent in seconds.items():
        study.add_seconds({"distill": "finals"}.get(stage, stage), spent)
    study.files.remove(work)
    tested = tested_by_score(metrics)
    kept = "" if tested.retention is None else f" ({tested.retention:.1%} of the teacher's)"
    text = f"{tested.name} {tested.share:.4f}{kept}, {metrics['params']:,} parameters"
    context.emit(Event("final", text, stage="finals", trial=candidate.number, done=rank))
    return logits


def _warn_of_size(context: StudyContext, candidate: Candidate) -> None:
    """Distillation works between models whose sizes are neither alike nor worlds apart."""
    if not context.teacher.runs:
        return
    teacher_params = sum(p.numel() for p in context.teacher.module.parameters())
    ratio = teacher_params / max(1, candidate.params or 1)
    if ratio < ALIKE:
        hint = "there is little to gain in size; choose a tighter limit"
    elif ratio > WORLDS_APART:
        hint = "the student may be too small to follow; try an assistant (iterate.assistants)"
    else:
        return
    text = (
        f"trial {candidate.number} has {candidate.params:,} parameters, the teacher "
        f"{teacher_params:,} (÷{ratio:.1f}): {hint}"
    )
    context.warn(text, stage="finals", trial=candidate.number)


def _recommend(study: Study) -> None:
    """Recommends the final that keeps its limits and is best on the audit half."""
    finals = [f for f in load_finals(study.folder) if not f.broken_limits]
    recommended = study.folder / "finals" / "recommended.json"
    if not finals:
        study.files.remove(recommended)
        return
    best = max(finals, key=lambda f: (f.audit_score, -f.metrics["params"]))
    by = "audit_" + study.recipe.score.replace("-", "_")
    write_whole(recommended, json.dumps({"rank": best.rank, "by": by}))
    study.files.push(recommended)
