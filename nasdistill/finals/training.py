"""The runs behind a final: its own, those of its generations and assistants, its baseline."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nasdistill import training
from nasdistill.common import locks
from nasdistill.finals.full_run import FullRun, StudentTeacher, Variant, open_run, run_key
from nasdistill.finals.several import train_on_several
from nasdistill.models import Classifier, artifact
from nasdistill.models.counts import count_module
from nasdistill.results import Candidate, keys
from nasdistill.space import Architecture
from nasdistill.study import architecture_of
from nasdistill.training import Run
from nasdistill.training.failures import FAILURES, failure_reason
from nasdistill.training.teacher import train_through
from nasdistill.trials.autotune import (
    choose_capture,
    choose_compilation,
    predict,
)
from nasdistill.trials.context import StudyContext
from nasdistill.trials.rung import fit_in_memory
from nasdistill.trials.training_setup import TrainingSetup


@dataclass(frozen=True)
class TrainedFinal:
    """The outcome of the runs behind a final.

    Attributes:
        student: In eval mode, in fp32.
        steps: One record for each run, in order: who taught, parameters, accuracy on the score and
            the audit half. Empty without `iterate`.
    """

    student: Classifier
    steps: Sequence[dict[str, Any]] = ()


def train_final(context: StudyContext, candidate: Candidate, work: Path, rank: int) -> TrainedFinal:
    """Distils one candidate in full, by way of its generations or assistants if there are any.

    With generations or assistants, the student that does best on the score half is taken: that may
    be the one that the first teacher taught alone.

    Args:
        context: The study's.
        candidate: Whose architecture.
        work: Folder of checkpoints.
        rank: Of the final.
    """
    architecture = architecture_of(candidate)
    iterate = context.recipe.iterate

    def train(variant: Variant, name: str, label: str) -> Classifier:
        labelled = context.labelled(f"final {rank}, {label}", trial=candidate.number)
        checkpoint = work / f"{name}.pt"
        return run_in_full(labelled, variant, architecture, checkpoint, name)

    direct = train(Variant(), "final", "distilling")
    if iterate is None:
        return TrainedFinal(direct)
    students = [("teacher", direct)]
    try:
        for name, teacher in _further_runs(context, architecture, students):
            student = train(Variant(teacher=teacher), name, name.replace("-", " "))
            students.append((teacher.name, student))
    except FAILURES as error:
        reason = failure_reason(error)
        context.warn(f"final {rank}: the chain broke off: {reason}", stage="finals")
    steps = [{"taught_by": by, **_figures(context, student)} for by, student in students]
    best = max(range(len(steps)), key=lambda index: steps[index]["score_accuracy"])
    steps[best]["chosen"] = True
    if iterate.assistants is not None:
        steps = [*(context.study.read(keys.ASSISTANTS) or ()), *steps]
    return TrainedFinal(students[best][1], steps)


def _further_runs(
    context: StudyContext,
    architecture: Architecture,
    students: Sequence[tuple[str, Classifier]],
) -> Iterator[tuple[str, StudentTeacher]]:
    """Name and teacher of each run after the first; looks at the students trained so far."""
    iterate = context.recipe.iterate
    assert iterate is not None
    if iterate.generations is None:
        yield "assisted", make_assistants(context)[-1]
        return
    for generation in range(2, iterate.generations + 1):
        name = f"generation {generation - 1}"
        yield f"generation-{generation}", StudentTeacher(name, students[-1][1], architecture)


def train_baseline(
    context: StudyContext, candidate: Candidate, work: Path, rank: int
) -> Classifier:
    """Trains the same architecture on labels alone, with the same budget and seed."""
    labelled = context.labelled(f"final {rank}, labels alone", trial=candidate.number)
    variant, architecture = Variant("labels"), architecture_of(candidate)
    return run_in_full(labelled, variant, architecture, work / "baseline.pt", "final")


def train_control(context: StudyContext, candidate: Candidate, work: Path, rank: int) -> Classifier:
    """Distils the same architecture as the final, with the same budget, from fresh weights."""
    labelled = context.labelled(f"final {rank}, begun fresh", trial=candidate.number)
    variant, architecture = Variant("fresh"), architecture_of(candidate)
    return run_in_full(labelled, variant, architecture, work / "fresh.pt", "final")


def run_in_full(
    context: StudyContext,
    variant: Variant,
    architecture: Architecture,
    checkpoint: Path,
    name: str,
    epochs: int | None = None,
) -> Classifier:
    """One training, gone on with where its checkpoint stands.

    Args:
        context: The study's.
        variant: How its setup differs from that of finals.
        architecture: Of the student.
        checkpoint: Written after each epoch.
        name: Enters the seed: two runs of one architecture begin with other weights if it differs.
        epochs: Passes over the training split; those of finals if not given.

    Returns:
        The student after the last epoch, in eval mode and fp32; of students that teach each other
        the one that scores highest.

    Raises:
        OutOfMemory: If the student does not fit, not even in micro-batches.
    """
    epochs = context.final_epochs if epochs is None else epochs
    full_run = FullRun(variant, architecture, checkpoint, name, epochs)
    setup, key = full_run.setup(context), keys.MICRO_BATCH.of(full_run.key)
    return fit_in_memory(
        setup,
        lambda micro_batch: _train_in_full(context, full_run, setup, micro_batch),
        micro_batch=context.study.read(key),
        remember=lambda examples: context.study.write(key, examples),
        warn=lambda text: context.warn(text, stage="finals"),
    )


def how_trained(context: StudyContext, student: nn.Module, checkpoint: Path) -> dict[str, Any]:
    """How a run was trained, for metrics.json.

    Args:
        context: The study's.
        student: As it came out.
        checkpoint: The run's.

    Returns:
        `micro_batch`: examples seen at once, None for whole batches; `processes` that trained it,
        at the most; `batch_norm_examples`, of which each statistic of batch norm was taken, over
        all processes, None without batch norm.
    """
    key = run_key(checkpoint)
    micro_batch = context.study.read(keys.MICRO_BATCH.of(key))
    has_norms = any(isinstance(module, _BatchNorm) for module in student.modules())
    examples = micro_batch or context.final.stream.batch_size
    return {
        "micro_batch": micro_batch,
        "processes": context.study.read(keys.PROCESSES.of(key)) or 1,
        "batch_norm_examples": examples if has_norms else None,
    }


def _train_in_full(
    context: StudyContext, full_run: FullRun, setup: TrainingSetup, micro_batch: int | None
) -> Classifier:
    run = open_run(context, full_run, setup, micro_batch)
    if run.objective.matched_layers:
        names = ", ".join(run.objective.matched_layers)
        context.note(f"compared with the same layers of the teacher: {names}", stage="finals")
    context.study.files.fetch(full_run.checkpoint)
    processes = keys.PROCESSES.of(full_run.key)
    if context.study.has(processes) and not full_run.checkpoint.exists():
        context.study.write(processes, 1)  # of a final that is made again
    if context.recipe.final_gpus > 1:
        train_on_several(context, full_run, run, micro_batch)  # to the last epoch's checkpoint
    else:
        _make_ready(context, full_run, setup, run)
    epochs = train_through(
        run, full_run.epochs, "finals", context.emit, full_run.checkpoint, context.latency_lock
    )
    for _ in epochs:
        context.study.files.push(full_run.checkpoint)
    student = copy.deepcopy(_best(context, run))  # a copy is not compiled: other shapes will come
    training.set_precision(student, "fp32")
    return student.eval()


def _make_ready(context: StudyContext, full_run: FullRun, setup: TrainingSetup, run: Run) -> None:
    """Has the teachers answer ahead, and the steps captured or compiled where that is faster."""
    choose_capture(context, setup, run)
    with locks.busy(context.latency_lock):
        setup.prepare(run.horizon, 0)
    steps = full_run.epochs * setup.stream.steps_per_epoch
    outcome = choose_compilation(context, run, full_run.key, steps)
    if outcome is not None:
        context.note(outcome, stage="finals")


def make_assistants(context: StudyContext) -> list[StudentTeacher]:
    """Trains the assistants that stand between teacher and students, each taught by the one before.

    They are made once for all finals of a study, and kept in its folder (Mirzadeh et al., "Improved
    Knowledge Distillation via Teacher Assistant", 2020).
    """
    assistants: list[StudentTeacher] = []
    records: list[dict[str, Any]] = []
    architectures = context.study.require(keys.ASSISTANT_ARCHITECTURES)
    for number, values in enumerate(architectures, start=1):
        folder = context.folder / "assistants" / str(number)
        architecture = Architecture.from_json(json.dumps(values))
        variant = Variant(teacher=assistants[-1] if assistants else None)
        lock = context.folder / "finals" / f".work-assistant-{number}.lock"
        with context.study.files.making(folder, lock):  # another worker's final may need it, too
            student = artifact.load_or_set_aside(folder, context.warn)
            if student is None:
                _train_assistant(context, variant, architecture, folder)
                student = artifact.load(folder)
        by = assistants[-1].name if assistants else "teacher"
        student = student.to(context.dataset.train.labels.device)
        assistants.append(StudentTeacher(f"assistant {number}", student, architecture))
        records.append({"assistant": number, "taught_by": by, **_figures(context, student)})
    context.study.write(keys.ASSISTANTS, records)
    return assistants


def _train_assistant(
    context: StudyContext, variant: Variant, architecture: Architecture, folder: Path
) -> None:
    checkpoint = folder.with_name(f".{folder.name}.pt")
    labelled = context.labelled(f"assistant {folder.name}")
    student = run_in_full(labelled, variant, architecture, checkpoint, f"assistant-{folder.name}")
    artifact.write_final(
        folder,
        module=student,
        spec=artifact.ModelSpec(architecture, context.dataset.preparation, context.dataset.classes),
        metrics={},
        card=f"# Assistant {folder.name} of the study {context.folder.name}\n",
    )
    context.study.files.remove(checkpoint)


def _figures(context: StudyContext, student: nn.Module) -> dict[str, Any]:
    """Parameters and the recipe's score, on validation data alone."""
    data = context.dataset
    score = predict(context, student, data.score, "scoring")
    audit = predict(context, student, data.audit, "scoring")
    return {
        "params": count_module(student, data.input).params,
        "score_accuracy": context.score_of(score).share,
        "audit_accuracy": context.score_of(audit).share,
    }


def _best(context: StudyContext, run: Run) -> Classifier:
    """Of students that teach each other, the one that scores highest; most runs have one."""
    data, students = context.dataset, [s for s in run.students if isinstance(s, Classifier)]
    if len(students) == 1:
        return students[0]
    predictions = (predict(context, s, data.score, "scoring") for s in students)
    scores = [context.score_of(each).share for each in predictions]
    return students[scores.index(max(scores))]
