"""The runs behind a final: its own, those of its generations and assistants, its baseline."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.seeds import hash_seed
from nasdistill.losses import MAIN
from nasdistill.models import Classifier, artifact
from nasdistill.models.counts import count_module
from nasdistill.results import Candidate, keys
from nasdistill.space import Architecture
from nasdistill.study import Study, architecture_of
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.targets import CachedTargets
from nasdistill.training import LRSchedule, Run
from nasdistill.training.failures import FAILURES, failure_reason
from nasdistill.training.teacher import train_through
from nasdistill.trials.autotune import (
    choose_capture,
    choose_compilation,
    inference_for,
    precision_for,
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


@dataclass(frozen=True)
class FullRun:
    """One full run, as it is asked for.

    Attributes:
        setup: The parts of the run.
        architecture: Of the student.
        checkpoint: Written after each epoch.
        name: Enters the seed: two runs of one architecture begin with other weights if it differs.
        epochs: Passes over the training split.
    """

    setup: TrainingSetup
    architecture: Architecture
    checkpoint: Path
    name: str
    epochs: int

    @property
    def key(self) -> str:
        """The run's name in the study's attributes."""
        return run_key(self.checkpoint)


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

    def train(setup: TrainingSetup, name: str, label: str) -> Classifier:
        labelled = context.labelled(f"final {rank}, {label}", trial=candidate.number)
        checkpoint = work / f"{name}.pt"
        return run_in_full(labelled, setup, architecture, checkpoint, name)

    direct = train(context.final, "final", "distilling")
    if iterate is None:
        return TrainedFinal(direct)
    students = [("teacher", direct)]
    try:
        for name, setup in _further_runs(context, students):
            students.append((_teacher_name(setup), train(setup, name, name.replace("-", " "))))
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
    context: StudyContext, students: Sequence[tuple[str, Classifier]]
) -> Iterator[tuple[str, TrainingSetup]]:
    """Name and setup of each run after the first; looks at the students trained so far."""
    iterate = context.recipe.iterate
    assert iterate is not None
    if iterate.generations is None:
        yield "assisted", taught_by(context, make_assistants(context)[-1])
        return
    for generation in range(2, iterate.generations + 1):
        teacher = _as_teacher(f"generation {generation - 1}", students[-1][1], context)
        yield f"generation-{generation}", taught_by(context, teacher)


def _teacher_name(setup: TrainingSetup) -> str:
    targets = setup.targets[MAIN]
    assert isinstance(targets, CachedTargets)
    return targets.teacher.name


def train_baseline(
    context: StudyContext, candidate: Candidate, work: Path, rank: int
) -> Classifier:
    """Trains the same architecture on labels alone, with the same budget and seed."""
    labelled = context.labelled(f"final {rank}, labels alone", trial=candidate.number)
    setup, architecture = context.final.labels_only(), architecture_of(candidate)
    return run_in_full(labelled, setup, architecture, work / "baseline.pt", "final")


def train_control(context: StudyContext, candidate: Candidate, work: Path, rank: int) -> Classifier:
    """Distils the same architecture as the final, with the same budget, from fresh weights."""
    labelled = context.labelled(f"final {rank}, begun fresh", trial=candidate.number)
    setup, architecture = context.final.begun_fresh(), architecture_of(candidate)
    return run_in_full(labelled, setup, architecture, work / "fresh.pt", "final")


def run_in_full(
    context: StudyContext,
    setup: TrainingSetup,
    architecture: Architecture,
    checkpoint: Path,
    name: str,
    epochs: int | None = None,
) -> Classifier:
    """One training, gone on with where its checkpoint stands.

    Args:
        context: The study's.
        setup: The parts of the run.
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
    full_run = FullRun(setup.for_architecture(architecture), architecture, checkpoint, name, epochs)
    key = keys.MICRO_BATCH.of(full_run.key)
    return fit_in_memory(
        full_run.setup,
        lambda micro_batch: _train_in_full(context, full_run, micro_batch),
        micro_batch=context.study.read(key),
        remember=lambda examples: context.study.write(key, examples),
        warn=lambda text: context.warn(text, stage="finals"),
    )


def micro_batch_of(study: Study, checkpoint: Path) -> int | None:
    """Examples in a micro-batch of the run with that checkpoint; None for whole batches."""
    return study.read(keys.MICRO_BATCH.of(run_key(checkpoint)))


def run_key(checkpoint: Path) -> str:
    """The name of the run with that checkpoint in the study's attributes."""
    return f"{checkpoint.parent.name}/{checkpoint.stem}"


def _train_in_full(context: StudyContext, full_run: FullRun, micro_batch: int | None) -> Classifier:
    setup, architecture, name = full_run.setup, full_run.architecture, full_run.name
    seed = context.recipe.seed
    if name != "final":
        seed = hash_seed((seed, name)) % 2**32
    students = setup.students(architecture, context.dataset, seed)
    per_epoch = setup.stream.examples_per_epoch
    total, rate = full_run.epochs * per_epoch, context.recipe.rate(setup.beginning.kind)
    run = setup.run(
        students,
        horizon=total,
        lr_schedule=LRSchedule(rate, per_epoch, per_epoch, total),
        seed=hash_seed((seed, architecture.fingerprint, "final")),
        precision=precision_for(context, setup, students, micro_batch),
        micro_batch=micro_batch,
    )
    if run.objective.matched_layers:
        names = ", ".join(run.objective.matched_layers)
        context.note(f"compared with the same layers of the teacher: {names}", stage="finals")
    choose_capture(context, setup, run)
    with locks.busy(context.latency_lock):
        setup.prepare(total, 0)
    steps = full_run.epochs * setup.stream.steps_per_epoch
    outcome = choose_compilation(context, run, full_run.key, steps)
    if outcome is not None:
        context.note(outcome, stage="finals")
    context.study.files.fetch(full_run.checkpoint)
    epochs = train_through(
        run, full_run.epochs, "finals", context.emit, full_run.checkpoint, context.latency_lock
    )
    for _ in epochs:
        context.study.files.push(full_run.checkpoint)
    student = copy.deepcopy(_best(context, run))  # a copy is not compiled: other shapes will come
    training.set_precision(student, "fp32")
    return student.eval()


def taught_by(context: StudyContext, teacher: Teacher) -> TrainingSetup:
    """The setup of finals, with another teacher in the place of the first."""
    setup = context.final
    targets = context.teachers.cached_targets(teacher, setup.stream.dataset)
    return replace(setup, targets={**setup.targets, MAIN: targets})


def make_assistants(context: StudyContext) -> list[Teacher]:
    """Trains the assistants that stand between teacher and students, each taught by the one before.

    They are made once for all finals of a study, and kept in its folder (Mirzadeh et al., "Improved
    Knowledge Distillation via Teacher Assistant", 2020).
    """
    assistants: list[Teacher] = []
    records: list[dict[str, Any]] = []
    architectures = context.study.require(keys.ASSISTANT_ARCHITECTURES)
    for number, values in enumerate(architectures, start=1):
        folder = context.folder / "assistants" / str(number)
        architecture = Architecture.from_json(json.dumps(values))
        setup = context.final if not assistants else taught_by(context, assistants[-1])
        folder.parent.mkdir(exist_ok=True)
        with context.study.files.making(folder):  # another worker's final may need it, too
            student = artifact.load_or_set_aside(folder, context.warn)
            if student is None:
                _train_assistant(context, setup, architecture, folder)
                student = artifact.load(folder)
        by = assistants[-1].name if assistants else "teacher"
        assistants.append(_as_teacher(f"assistant {number}", student, context))
        records.append({"assistant": number, "taught_by": by, **_figures(context, student)})
    context.study.write(keys.ASSISTANTS, records)
    return assistants


def _train_assistant(
    context: StudyContext, setup: TrainingSetup, architecture: Architecture, folder: Path
) -> None:
    checkpoint = folder.with_name(f".{folder.name}.pt")
    labelled = context.labelled(f"assistant {folder.name}")
    student = run_in_full(labelled, setup, architecture, checkpoint, f"assistant-{folder.name}")
    artifact.write_final(
        folder,
        module=student,
        spec=artifact.ModelSpec(architecture, context.dataset.preparation, context.dataset.classes),
        metrics={},
        card=f"# Assistant {folder.name} of the study {context.folder.name}\n",
    )
    context.study.files.remove(checkpoint)


def _as_teacher(name: str, student: nn.Module, context: StudyContext) -> Teacher:
    dataset = context.dataset
    module = student.to(dataset.train.labels.device).eval().requires_grad_(False)
    teacher = Teacher(name, module, dataset.input, context.classes, weights_hash(module), {})
    teacher.inference = inference_for(context, module)  # in the layout that it was trained in
    return teacher


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
