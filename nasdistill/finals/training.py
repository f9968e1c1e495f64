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
from nasdistill.common.events import Emit, Event
from nasdistill.common.seeds import hash_seed
from nasdistill.losses import MAIN
from nasdistill.models import Classifier, artifact
from nasdistill.models.counts import count_module
from nasdistill.results import Candidate
from nasdistill.space import Architecture
from nasdistill.study import Study, architecture_of
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.targets import CachedTargets
from nasdistill.training import LRSchedule, Run
from nasdistill.training.metrics import accuracy
from nasdistill.training.teacher import train_through
from nasdistill.trials.autotune import choose_capture, choose_compilation, precision_for
from nasdistill.trials.context import StudyContext
from nasdistill.trials.training_setup import TrainingSetup
from nasdistill.trials.trial import FAILURES, reason_of


@dataclass(frozen=True)
class Trained:
    """What came out of the runs behind a final.

    Attributes:
        student: In eval mode, in fp32.
        steps: One record for each run, in order: who taught, parameters, accuracy on the score and
            the audit half. Empty without `iterate`.
    """

    student: Classifier
    steps: Sequence[dict[str, Any]] = ()


def train_final(
    study: Study, bench: StudyContext, candidate: Candidate, work: Path, rank: int, emit: Emit
) -> Trained:
    """Distils one candidate in full, by way of its generations or assistants if there are any.

    With generations or assistants, the student that does best on the score half is taken: that may
    be the one that the first teacher taught alone.

    Args:
        study: The study.
        bench: What its finals share.
        candidate: Whose architecture.
        work: Folder of checkpoints.
        rank: Of the final.
        emit: Told what happens.
    """
    architecture = architecture_of(candidate)
    iterate = bench.recipe.iterate

    def train(course: TrainingSetup, name: str, what: str) -> Classifier:
        def tell(event: Event) -> None:
            emit(replace(event, text=f"final {rank}, {what}: {event.text}", trial=candidate.number))

        return run_in_full(study, bench, course, architecture, work / f"{name}.pt", name, tell)

    direct = train(bench.final, "final", "distilling")
    if iterate is None:
        return Trained(direct)
    students = [("teacher", direct)]
    try:
        for name, course in _further(study, bench, students, emit):
            students.append((_teacher_of(course), train(course, name, name.replace("-", " "))))
    except FAILURES as error:
        reason = reason_of(error)
        emit(Event("warning", f"final {rank}: the chain broke off: {reason}", stage="finals"))
    steps = [{"taught_by": by, **_judged(bench, student)} for by, student in students]
    best = max(range(len(steps)), key=lambda index: steps[index]["score_accuracy"])
    steps[best]["chosen"] = True
    if iterate.assistants is not None and "assistants" in study.attrs:
        steps = [*study.attrs["assistants"], *steps]
    return Trained(students[best][1], steps)


def _further(
    study: Study, bench: StudyContext, students: Sequence[tuple[str, Classifier]], emit: Emit
) -> Iterator[tuple[str, TrainingSetup]]:
    """Name and course of each run after the first; looks at the students trained so far."""
    iterate = bench.recipe.iterate
    assert iterate is not None
    if iterate.generations is None:
        yield "assisted", taught_by(bench, make_assistants(study, bench, emit)[-1])
        return
    for generation in range(2, iterate.generations + 1):
        before = _as_teacher(f"generation {generation - 1}", students[-1][1], bench)
        yield f"generation-{generation}", taught_by(bench, before)


def _teacher_of(course: TrainingSetup) -> str:
    answers = course.teachers[MAIN]
    assert isinstance(answers, CachedTargets)
    return answers.teacher.name


def train_baseline(
    study: Study, bench: StudyContext, candidate: Candidate, work: Path, rank: int, emit: Emit
) -> Classifier:
    """The same architecture on labels alone, with the same budget and seed."""

    def tell(event: Event) -> None:
        text = f"final {rank}, labels alone: {event.text}"
        emit(replace(event, text=text, trial=candidate.number))

    course, architecture = bench.final.labels_only(), architecture_of(candidate)
    return run_in_full(study, bench, course, architecture, work / "baseline.pt", "final", tell)


def run_in_full(
    study: Study,
    bench: StudyContext,
    course: TrainingSetup,
    architecture: Architecture,
    checkpoint: Path,
    name: str,
    emit: Emit,
    epochs: int | None = None,
) -> Classifier:
    """One training, gone on with where its checkpoint stands.

    Args:
        study: The study.
        bench: What its runs share.
        course: What this run is given.
        architecture: Of the student.
        checkpoint: Written after each epoch.
        name: Enters the seed: two runs of one architecture begin with other weights if it differs.
        emit: Told how it goes.
        epochs: Passes over the training split; those of finals if not given.

    Returns:
        The student after the last epoch, in eval mode and fp32; of students that teach each other
        the one that scores highest.

    Raises:
        OutOfMemory: If the student does not fit, not even in micro-batches.
    """
    course = course.for_architecture(architecture)

    def mark(micro_batch: int) -> None:
        study.set(_mark(checkpoint), micro_batch)
        text = f"out of memory; tried again in micro-batches of {micro_batch}"
        emit(Event("warning", text, stage="finals"))

    def train(micro_batch: int | None) -> Classifier:
        return _train_in_full(
            study, bench, course, architecture, checkpoint, name, emit, epochs, micro_batch
        )

    return training.with_micro_batches(
        train,
        batch=course.stream.batch_size,
        coupled=course.objective.coupled,
        micro_batch=micro_batch_of(study, checkpoint),
        mark=mark,
    )


def micro_batch_of(study: Study, checkpoint: Path) -> int | None:
    """Examples in a micro-batch of the run with that checkpoint; None for whole batches."""
    found: int | None = study.attrs.get(_mark(checkpoint))
    return found


def _mark(checkpoint: Path) -> str:
    """The study's attribute that says in which micro-batches a run goes on."""
    return f"micro_batch:{checkpoint.parent.name}/{checkpoint.stem}"


def _train_in_full(
    study: Study,
    bench: StudyContext,
    course: TrainingSetup,
    architecture: Architecture,
    checkpoint: Path,
    name: str,
    emit: Emit,
    epochs: int | None,
    micro_batch: int | None,
) -> Classifier:
    seed = study.recipe.seed if name == "final" else hash_seed((study.recipe.seed, name)) % 2**32
    students = course.students(architecture, bench.dataset, seed)
    epochs = bench.final_epochs if epochs is None else epochs
    per_epoch = course.stream.examples_per_epoch
    total = epochs * per_epoch
    run = course.run(
        students,
        horizon=total,
        lr_schedule=LRSchedule(bench.recipe.learning_rate, per_epoch, per_epoch, total),
        seed=hash_seed((seed, architecture.fingerprint, "final")),
        precision=precision_for(study, bench, course, students, micro_batch),
        micro_batch=micro_batch,
    )
    choose_capture(study, bench, course, run)
    with locks.busy(bench.lock):
        course.prepare(total, 0)
    key = f"{checkpoint.parent.name}/{checkpoint.stem}"
    found = choose_compilation(study, bench, run, key, epochs * course.stream.steps_per_epoch)
    if found is not None:
        emit(Event("note", found, stage="finals"))
    for _ in train_through(run, epochs, "finals", emit, checkpoint, bench.lock):
        pass
    student = copy.deepcopy(_best(bench, run))  # a copy is not compiled: other shapes will come
    training.set_precision(student, "fp32")
    return student.eval()


def taught_by(bench: StudyContext, teacher: Teacher) -> TrainingSetup:
    """The course of finals, with another teacher in the place of the first."""
    course = bench.final
    answers = bench.faculty.frozen(teacher, course.stream.dataset)
    return replace(course, teachers={**course.teachers, MAIN: answers})


def make_assistants(study: Study, bench: StudyContext, emit: Emit) -> list[Teacher]:
    """Trains the assistants that stand between teacher and students, each taught by the one before.

    They are made once for all finals of a study, and kept in its folder (Mirzadeh et al., "Improved
    Knowledge Distillation via Teacher Assistant", 2020).
    """
    iterate = bench.recipe.iterate
    assert iterate is not None and iterate.assistants is not None
    made: list[Teacher] = []
    records: list[dict[str, Any]] = []
    for number, described in enumerate(study.attrs["assistants:architectures"], start=1):
        folder = study.folder / "assistants" / str(number)
        architecture = Architecture.from_json(json.dumps(described))
        course = bench.final if not made else taught_by(bench, made[-1])
        lock = study.folder / "finals" / f".work-assistant-{number}.lock"
        with locks.alone(lock):  # another worker's final may need it, too
            if not (folder / "model.safetensors").exists():
                _train_assistant(study, bench, course, architecture, folder, emit)
        student = artifact.load(folder)
        by = made[-1].name if made else "teacher"
        made.append(_as_teacher(f"assistant {number}", student, bench))
        records.append({"assistant": number, "taught_by": by, **_judged(bench, student)})
    study.set("assistants", records)
    return made


def _train_assistant(
    study: Study,
    bench: StudyContext,
    course: TrainingSetup,
    architecture: Architecture,
    folder: Path,
    emit: Emit,
) -> None:
    def tell(event: Event) -> None:
        emit(replace(event, text=f"assistant {folder.name}: {event.text}"))

    checkpoint = folder.with_name(f".{folder.name}.pt")
    name = f"assistant-{folder.name}"
    student = run_in_full(study, bench, course, architecture, checkpoint, name, tell)
    artifact.write_final(
        folder,
        module=student,
        architecture=architecture,
        input=bench.dataset.input,
        classes=bench.dataset.classes,
        metrics={},
        card=f"# Assistant {folder.name} of the study {study.folder.name}\n",
    )
    checkpoint.unlink(missing_ok=True)


def _as_teacher(name: str, student: nn.Module, bench: StudyContext) -> Teacher:
    module = student.to(bench.dataset.train.labels.device).eval().requires_grad_(False)
    return Teacher(
        name, module, bench.dataset.input, len(bench.dataset.classes), weights_hash(module), {}
    )


def _judged(bench: StudyContext, student: nn.Module) -> dict[str, Any]:
    """Parameters and accuracy, on validation data alone."""
    data, size = bench.dataset, bench.dataset.input.size
    return {
        "params": count_module(student, data.input).params,
        "score_accuracy": accuracy(*training.predict(student, data.score, size)),
        "audit_accuracy": accuracy(*training.predict(student, data.audit, size)),
    }


def _best(bench: StudyContext, run: Run) -> Classifier:
    """Of students that teach each other, the one that scores highest; most runs have one."""
    data, students = bench.dataset, [s for s in run.students if isinstance(s, Classifier)]
    if len(students) == 1:
        return students[0]
    said = [training.predict(student, data.score, data.input.size) for student in students]
    return max(zip(students, said, strict=True), key=lambda pair: accuracy(*pair[1]))[0]
