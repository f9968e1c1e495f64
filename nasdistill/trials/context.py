"""What all trials and finals of one study share: data, teacher, answers, limits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill import training
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.machine import describe_machine, describe_versions, pick_device, set_threads
from nasdistill.data import Dataset, load_data
from nasdistill.models.latency import Latency, measure_latencies
from nasdistill.recipe import Recipe, TeacherOptions
from nasdistill.results.rungs import Ladder
from nasdistill.study import Study
from nasdistill.teachers import Teacher
from nasdistill.trials.plugins import Plugins
from nasdistill.trials.teacher_pool import TeacherPool, evaluated, open_teacher
from nasdistill.trials.training_setup import TrainingSetup, open_setup
from nasdistill.trials.validation import assistants_of, check_chain, check_room, check_setup


@dataclass
class StudyContext:
    """What all trials and finals of one study share.

    Attributes:
        recipe: The resolved recipe.
        dataset: Data with their splits.
        teacher: The frozen teacher.
        scoring: What trials are given.
        final: What finals are given.
        faculty: Everyone who can teach.
        ladder: The rungs.
        limits: Upper limits by cost name, and `accuracy`, the lower one.
        threads: Threads that latency is measured with.
        folder: The study's folder.
        teacher_latency: The teacher's median in milliseconds, measured once for the study; None
            where none is needed, or a table is the teacher.
    """

    recipe: Recipe
    dataset: Dataset
    teacher: Teacher
    scoring: TrainingSetup
    final: TrainingSetup
    faculty: TeacherPool
    ladder: Ladder
    limits: Mapping[str, float]
    threads: int
    folder: Path
    teacher_latency: float | None = None

    @cached_property
    def teacher_on_test(self) -> Tensor | None:
        """The teacher's logits on the test split, float32 `[N, K]`; None if it cannot be run.

        Only finals ask for them.
        """
        if not self.teacher.runs:
            return None
        size = self.teacher.input.size
        return training.predict(self.teacher.module, self.dataset.test, size)[0]

    @property
    def final_epochs(self) -> int:
        """Epochs of a full run, at least one."""
        stream = self.final.stream
        examples = self.recipe.final_budget.examples(len(stream.dataset.train))
        return max(1, round(examples / stream.examples_per_epoch))

    @property
    def final_examples(self) -> int:
        """Training examples that a full run sees: whole epochs of whole batches."""
        return self.final_epochs * self.final.stream.examples_per_epoch

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.dataset.classes)

    @property
    def lock(self) -> Path:
        """The file that measurements of latency lock."""
        return self.folder / "latency.lock"

    @property
    def needs_latency(self) -> bool:
        """Whether latency is an objective or a limit."""
        return "latency" in self.recipe.minimize or "latency" in self.limits

    def measure_latency(self, student: nn.Module) -> float:
        """Batch-1 latency of a student in milliseconds, while other workers pause.

        Measured beside the teacher, call by call in turn; see `settled`.
        """
        models, inputs = {"student": student.eval()}, {"student": self.dataset.input}
        beside = not self.recipe.latency_engine.startswith("command:")
        if self.teacher_latency is not None and beside:
            models["teacher"] = self.teacher.module.eval()
            inputs["teacher"] = self.teacher.input
        with locks.quiet(self.lock):
            measured = measure_latencies(
                models, inputs, engine=self.recipe.latency_engine, threads=self.threads, seconds=0.2
            )
        return self.settled(measured["student"], measured.get("teacher"))

    def settled(self, student: Latency, teacher: Latency | None) -> float:
        """The latency that gates, objectives and limits go by, in milliseconds.

        The median that the teacher had when the study began, times the shortest call of the student
        ÷ the shortest call of the teacher beside it. A machine that is slower or busier now must
        not make this student look slow. Where no teacher can be run, and behind a `command:`
        engine, the student's median.

        Args:
            student: Just measured.
            teacher: Measured in turn with it; None if it was not.
        """
        device_of_its_own = self.recipe.latency_engine.startswith("command:")
        if teacher is None or self.teacher_latency is None or device_of_its_own:
            return student.median_ms
        return self.teacher_latency * student.least_ms / teacher.least_ms


DEFAULT_LIMIT_PARAMS = 10
DEFAULT_LIMIT_LATENCY = 3
RANKING_TERMS = ("labels", "kl")
"""Terms after whose short runs the order of students is known to be of use."""


def open_context(study: Study, imported: Plugins, emit: Emit) -> StudyContext:
    """Loads data and teacher, evaluates the teacher, and settles limits and rungs.

    What is measured here is stored with the study and not measured again.

    Raises:
        UserError: If data, teacher or device cannot be used.
    """
    recipe = study.recipe
    device = pick_device(recipe.device)
    set_threads(1)
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    emit(Event("stage", f"data {recipe.data}", stage="teacher"))
    dataset = load_data(
        recipe.data,
        device=device,
        seed=recipe.seed,
        image_size=recipe.image_size,
        channels=recipe.channels,
        root=recipe.data_root,
        skip_unreadable=recipe.skip_unreadable,
    )
    study.get_or_measure("data", lambda: _describe(dataset))
    if study.attrs["data"]["fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"study {study.folder.name!r}: the data {recipe.data!r} are not those it was made with"
        )
    emit(Event("stage", f"teacher {recipe.teacher}", stage="teacher"))
    teacher = open_teacher(recipe, dataset, device, study.folder.parent, imported, emit)
    card = evaluated(study, "teacher", teacher, dataset, emit)
    _warn_of_scoring(recipe, emit)
    study.get_or_measure("machine", lambda: describe_machine(device))
    study.get_or_measure("versions", describe_versions)

    def filled(examples: int, seconds: float) -> None:
        study.add_seconds("answers", seconds)
        emit(
            Event(
                "note",
                f"teacher answered {examples:,} views in {seconds:.1f} s",
                stage="answers",
                images_per_second=examples / max(seconds, 1e-9),
            )
        )

    def load(name: str, options: TeacherOptions) -> Teacher:
        assert options.model is not None
        emit(Event("stage", f"teacher {name}: {options.model}", stage="teacher"))
        named = recipe.model_copy(update={"teacher": options.model, "weights": options.weights})
        further = open_teacher(named, dataset, device, study.folder.parent, imported, emit)
        evaluated(study, f"teacher:{name}", further, dataset, emit)
        return further

    def tell(text: str) -> None:
        emit(Event("note", text, stage="teacher"))

    faculty = TeacherPool(
        dataset,
        teacher,
        recipe.teachers,
        load,
        study.folder.parent / ".cache",
        filled,
        tell,
        recipe.cache_size,
    )
    courses = [open_setup(options, recipe, faculty) for options in (recipe.scoring, recipe.final)]
    check_room(recipe, faculty, courses[1])
    for key, course in zip(("scoring", "final"), courses, strict=True):
        check_setup(key, course, study.space, dataset, emit)
    for name, options in recipe.teachers.items():
        if options.table is not None:
            _check_table(study, name, Path(options.table))
    if recipe.iterate is not None:
        check_chain(courses[1], study.space, dataset)
        sizes = recipe.iterate.assistants or ()
        study.get_or_measure(
            "assistants:architectures", lambda: assistants_of(sizes, study.space, dataset)
        )
    ladder = Ladder.geometric(
        recipe.rungs.first.examples(len(courses[0].stream.dataset.train)),
        recipe.rungs.eta,
        recipe.rungs.count,
    )
    study.get_or_measure("rungs", lambda: list(ladder.budgets))
    bench = StudyContext(
        recipe=recipe,
        dataset=dataset,
        teacher=teacher,
        scoring=courses[0],
        final=courses[1],
        faculty=faculty,
        ladder=ladder,
        limits={},
        threads=1,
        folder=study.folder,
    )
    study.set("final_examples", bench.final_examples)
    if "latency" in recipe.minimize or recipe.max_latency is not None:
        bench.teacher_latency = study.get_or_measure(
            "teacher_latency", lambda: _latency_of_teacher(bench)
        )
    bench.limits = study.get_or_measure("limits", lambda: _limits(bench, card, emit))
    return bench


def _latency_of_teacher(bench: StudyContext) -> float | None:
    """Its median batch-1 latency in milliseconds; None if it cannot be run."""
    if not bench.teacher.runs:
        return None
    with locks.quiet(bench.lock):
        measured = measure_latencies(
            {"teacher": bench.teacher.module.eval()},
            {"teacher": bench.teacher.input},
            engine=bench.recipe.latency_engine,
            threads=bench.threads,
            seconds=1.0,
        )
    return measured["teacher"].median_ms


def _check_table(study: Study, name: str, path: Path) -> None:
    """A study's trials must all be taught by the same answers.

    Raises:
        UserError: If the file has changed since the study was made.
    """
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    if study.get_or_measure(f"table:{name}", lambda: digest) != digest:
        raise UserError(
            f"study {study.folder.name!r}: the table {path} of teacher {name!r} has changed since "
            "the study was made"
        )


def _warn_of_scoring(recipe: Recipe, emit: Emit) -> None:
    odd = [name for name in recipe.scoring.names() if name not in RANKING_TERMS]
    if odd:
        emit(
            Event(
                "warning",
                f"students are scored after training on {', '.join(odd)}: terms other than labels "
                "and kl can rank them wrongly (one of those tried by Trofimov et al., 2020, ranks "
                "at random). Keep the default scoring, and use other terms under final",
                stage="teacher",
            )
        )


def _limits(bench: StudyContext, card: Mapping[str, Any], emit: Emit) -> dict[str, float]:
    """The recipe's limits; where it names none, a tenth of the teacher's size, a third of its
    latency.
    """
    recipe = bench.recipe
    named = {
        "params": recipe.max_params,
        "macs": recipe.max_macs,
        "bytes": recipe.max_bytes,
        "latency": recipe.max_latency,
    }
    limits = {name: float(limit) for name, limit in named.items() if limit is not None}
    if not limits and card["params"] is None:
        raise UserError(
            f"no limit named, and the teacher {bench.teacher.name!r} has no size to derive one "
            "from: give --max-params, --max-macs, --max-bytes or --max-latency"
        )
    if not limits:
        limits["params"] = float(card["params"] // DEFAULT_LIMIT_PARAMS)
        text = f"no limit named: at most {limits['params']:,.0f} parameters (teacher's ÷ 10)"
        if "latency" in recipe.minimize:
            assert bench.teacher_latency is not None, "a teacher of known size can be run"
            limits["latency"] = bench.teacher_latency / DEFAULT_LIMIT_LATENCY
            text += f" and {limits['latency']:.3f} ms (teacher's ÷ 3, {recipe.latency_engine})"
        emit(Event("note", text, stage="teacher"))
    share = recipe.min_accuracy
    if share is None:
        share = 0.9 * (card["validation_accuracy"] or 0.0)
    limits["accuracy"] = share
    return limits


def _describe(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "input": [dataset.input.channels, *dataset.input.size],
        "examples": {
            "train": len(dataset.train),
            "score": len(dataset.score),
            "audit": len(dataset.audit),
            "test": len(dataset.test),
        },
        "fingerprint": dataset.fingerprint,
        "attribution": dataset.attribution,
    }
