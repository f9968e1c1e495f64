"""The shared state of a study at work: its storage, data, teachers, limits, and who is told."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill import training
from nasdistill.analysis.audit import FullRuns
from nasdistill.analysis.experience import Experience
from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, telling
from nasdistill.common.machine import (
    describe_machine,
    describe_versions,
    pick_device,
    set_threads,
)
from nasdistill.data import Dataset, load_data
from nasdistill.models.latency import Latency, measure_latencies
from nasdistill.recipe import Recipe
from nasdistill.results import keys
from nasdistill.results.rungs import Ladder
from nasdistill.study import Study, settle_space
from nasdistill.study.experience import open_experience, setting_of
from nasdistill.teachers import Teacher
from nasdistill.teachers.recorded import table_hash
from nasdistill.training.memory import free
from nasdistill.training.metrics import MEASURES, Accuracy
from nasdistill.trials.cut_named import open_without_teacher
from nasdistill.trials.cutting import open_cut
from nasdistill.trials.data_free import check_data_free
from nasdistill.trials.plugins import Plugins
from nasdistill.trials.same_content import check_same_data, describe_data
from nasdistill.trials.spaces import space_of
from nasdistill.trials.teacher_pool import TeacherPool, open_teacher_pool
from nasdistill.trials.training_setup import TrainingSetup, open_setup
from nasdistill.trials.validation import (
    assistant_architectures,
    check_cache_room,
    check_chain,
    check_setup,
)

DEFAULT_LIMIT_PARAMS = 10
DEFAULT_LIMIT_LATENCY = 3
RANKING_TERMS = ("labels", "kl")
"""Terms after whose short runs the order of students is known to be of use."""


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The search's share of the time limit is used up."""


@dataclass(frozen=True)
class Deadlines:
    """`time.monotonic()` at which searching and the whole command must end; None for never."""

    search: float | None = None
    whole: float | None = None

    def check_search(self) -> None:
        """Raises `OutOfTime` once the search must end."""
        if self.search is not None and time.monotonic() > self.search:
            raise OutOfTime


@dataclass
class StudyContext:
    """The shared state of a study at work: all that its trials and finals have in common.

    Attributes:
        study: The study on disk, with its recipe and folder.
        emit: Told what happens; see `note` and `warn`.
        dataset: Data with their splits.
        teachers: All teachers of the study; `main` is the one that the recipe names first.
        scoring: What the runs of trials are made of.
        final: What the runs of finals are made of.
        ladder: The rungs.
        full_runs: Accuracies after full runs, as far as there are any yet.
        experience: What full runs of earlier studies teach.
        limits: Upper limits by cost name, and `accuracy`, the lower one.
        teacher_latency: The teacher's median in milliseconds, measured once for the study; None
            where none is needed, or a table is the teacher.
        deadlines: When the work must end.
        threads: Threads that latency is measured with.
        pool: Candidates drawn and counted (`candidate_pool`); None before they are needed.
    """

    study: Study
    emit: Emit
    dataset: Dataset
    teachers: TeacherPool
    scoring: TrainingSetup
    final: TrainingSetup
    ladder: Ladder
    full_runs: FullRuns
    experience: Experience = field(default_factory=Experience)
    limits: Mapping[str, float] = field(default_factory=dict)
    teacher_latency: float | None = None
    deadlines: Deadlines = Deadlines()
    threads: int = 1
    pool: list[Any] | None = None

    @property
    def recipe(self) -> Recipe:
        """The study's resolved recipe."""
        return self.study.recipe

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.study.folder

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher that the recipe names first."""
        return self.teachers.main

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.dataset.classes)

    @property
    def latency_lock(self) -> Path:
        """The file that measurements of latency lock."""
        return self.folder / "latency.lock"

    @property
    def needs_latency(self) -> bool:
        """Whether latency is an objective or a limit."""
        return "latency" in self.recipe.minimize or "latency" in self.limits

    @property
    def final_epochs(self) -> int:
        """Passes of a full run, of whole batches, at least one."""
        stream = self.final.stream
        examples = self.recipe.final_budget.examples(len(stream.dataset.train))
        return max(1, round(examples / stream.examples_per_epoch))

    @property
    def final_examples(self) -> int:
        """Training examples that a full run sees: whole epochs of whole batches."""
        return self.final_epochs * self.final.stream.examples_per_epoch

    @property
    def epochs_worth(self) -> int:
        """Epochs that a full run's examples are worth, as budgets count them: of all examples.

        More passes than these are made where whole batches leave out much of a small split.
        """
        return max(1, round(self.final_examples / len(self.final.stream.dataset.train)))

    @cached_property
    def teacher_on_test(self) -> Tensor | None:
        """The teacher's logits on the test split, float32 `[N, K]`; None if it cannot be run.

        Only finals ask for them.
        """
        if not self.teacher.runs:
            return None
        teacher, test = self.teacher, self.dataset.test
        with_progress = telling("testing the teacher", "finals", len(test), self.emit)
        return training.predict(
            teacher.module, test, teacher.input.size, with_progress, teacher.inference
        ).logits

    @property
    def score_name(self) -> str:
        """The recipe's score in words."""
        return self.recipe.score.replace("-", " ")

    def score_of(self, predictions: tuple[Tensor, Tensor]) -> Accuracy:
        """The recipe's score of logits `[N, K]` and labels int64 `[N]`, with its interval."""
        return MEASURES[self.recipe.score](*predictions)

    def note(self, text: str, **fields: Any) -> None:
        """Tells a piece of news; `fields` are those of `Event`."""
        self.emit(Event("note", text, **fields))

    def warn(self, text: str, **fields: Any) -> None:
        """Tells what the user should look at; `fields` are those of `Event`."""
        self.emit(Event("warning", text, **fields))

    def labelled(self, label: str, **fields: Any) -> StudyContext:
        """The same context, whose events begin with a label.

        Args:
            label: Stands before each event's text.
            **fields: Fields of `Event` that its events carry instead of their own.
        """
        emit = self.emit

        def emit_labelled(event: Event) -> None:
            emit(replace(event, text=f"{label}: {event.text}", **fields))

        return replace(self, emit=emit_labelled)

    def measure_latency(self, student: nn.Module | Path) -> float:
        """Batch-1 latency of a student or its ONNX file in milliseconds, while others pause.

        Measured beside the teacher, call by call in turn; see `normalised_latency`.
        """
        with locks.quiet(self.latency_lock):
            return self.latency_now(student)

    def latency_now(self, student: nn.Module | Path) -> float:
        """As `measure_latency`, whatever the other workers are at."""
        models: dict[str, nn.Module | Path] = {"student": student}
        inputs = {"student": self.dataset.input}
        beside_teacher = not self.recipe.latency_engine.startswith("command:")
        if self.teacher_latency is not None and beside_teacher:
            models["teacher"] = self.teacher.module
            inputs["teacher"] = self.teacher.input
        measured = measure_latencies(
            models,
            inputs,
            engine=self.recipe.latency_engine,
            threads=self.threads,
            seconds=0.2,
        )
        return self.normalised_latency(measured["student"], measured.get("teacher"))

    def normalised_latency(self, student: Latency, teacher: Latency | None) -> float:
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


def open_context(
    study: Study, plugins: Plugins, emit: Emit, dataset: Dataset | None = None
) -> StudyContext:
    """Loads data and teachers, evaluates these, and decides limits and rungs.

    What is measured here is stored with the study and not measured again.

    Args:
        study: The study.
        plugins: What the user's own file brings.
        emit: Told what happens.
        dataset: The study's data, where they are loaded and found to be the same already.

    Raises:
        UserError: If data, teacher or device cannot be used.
    """
    recipe = study.recipe
    study.news = lambda text: emit(Event("warning", text))
    device = _prepare_device(recipe)
    data = dataset or _load_dataset(recipe, device, emit)
    settle_space(
        study, data.input, lambda space: space_of(recipe, space, data, plugins, emit), emit
    )
    if dataset is None:
        _adopt_dataset(study, data, emit)
    dataset = data
    # Before the teacher is loaded: whoever has to bring weights is told at once.
    begins = open_without_teacher(study, dataset, emit)
    emit(Event("stage", f"teacher {recipe.teacher}", stage="teacher"))
    teachers = open_teacher_pool(study, dataset, device, plugins, emit)
    beginning = open_cut(study, teachers.main, dataset, emit) if begins is None else begins
    free()  # training needs other tensors than evaluating large pictures did
    _warn_of_scoring(recipe, emit)
    study.get_or_measure(keys.MACHINE, lambda: describe_machine(device))
    study.get_or_measure(keys.VERSIONS, describe_versions)
    scoring, final = (
        open_setup(options, recipe, teachers, beginning)
        for options in (recipe.scoring, recipe.final)
    )
    check_cache_room(recipe, teachers, final)
    for name, setup in (("scoring", scoring), ("final", final)):
        check_setup(name, setup, study.space, dataset, emit)
    _check_tables(study)
    if recipe.iterate is not None:
        check_chain(final, study.space, dataset)
    first_budget = recipe.first_rung(len(scoring.stream.dataset.train))
    ladder = Ladder.geometric(first_budget, recipe.rungs.eta, recipe.rungs.count)
    study.get_or_measure(keys.RUNGS, lambda: list(ladder.budgets))
    context = StudyContext(
        study, emit, dataset, teachers, scoring, final, ladder, FullRuns(study.folder)
    )
    beginning.at_work(context)
    study.write(keys.FINAL_EXAMPLES, context.final_examples)
    weights = teachers.main.weights_hash
    setting = setting_of(
        recipe, dataset.fingerprint, weights, context.final_examples, beginning.identity
    )
    context.experience = open_experience(study, setting, context.warn)
    if "latency" in recipe.minimize or recipe.max_latency is not None:
        context.teacher_latency = study.get_or_measure(
            keys.TEACHER_LATENCY, lambda: _measure_teacher(context)
        )
    context.limits = study.get_or_measure(keys.LIMITS, lambda: _choose_limits(context))
    if recipe.iterate is not None:
        sizes = recipe.iterate.assistants or ()
        study.get_or_measure(
            keys.ASSISTANT_ARCHITECTURES, lambda: _choose_assistants(context, sizes)
        )
    return context


def _prepare_device(recipe: Recipe) -> torch.device:
    device = pick_device(recipe.device)
    set_threads(1)
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def _load_dataset(recipe: Recipe, device: torch.device, emit: Emit) -> Dataset:
    """Loads the data that a recipe names.

    Raises:
        UserError: If they cannot be had.
    """
    emit(Event("stage", f"data {recipe.data}", stage="teacher"))
    return load_data(
        recipe.data,
        device=device,
        seed=recipe.seed,
        image_size=recipe.image_size,
        channels=recipe.channels,
        root=recipe.data_root,
        skip_unreadable=recipe.skip_unreadable,
        emit=emit,
        may_lack_training=True,
    )


def _adopt_dataset(study: Study, dataset: Dataset, emit: Emit) -> None:
    """Takes loaded data as those of a study whose space is settled.

    Raises:
        UserError: If they are not those that the study was made with, or have nothing to train on
            and the recipe needs it.
    """
    check_data_free(study.recipe, dataset, study.space)
    dataset.tell_notes(emit)
    stored = study.get_or_measure(keys.DATA, lambda: describe_data(dataset))
    check_same_data(study.folder.name, stored, dataset)


def _warn_of_scoring(recipe: Recipe, emit: Emit) -> None:
    untried = [name for name in recipe.scoring.names() if name not in RANKING_TERMS]
    if untried:
        text = (
            f"students are scored after training on {', '.join(untried)}: terms other than labels "
            "and kl can rank them wrongly (one of those tried by Trofimov et al., 2020, ranks at "
            "random). Keep the default scoring, and use other terms under final"
        )
        emit(Event("warning", text, stage="teacher"))


def _check_tables(study: Study) -> None:
    """All trials of a study must be taught by the same recorded answers.

    Raises:
        UserError: If a table has changed since the study was made, or cannot be read.
    """
    for name, options in study.recipe.teachers.items():
        if options.table is None:
            continue
        path = Path(options.table)
        digest = table_hash(path, f"teacher {name!r}")
        if study.get_or_measure(keys.TABLE.of(name), lambda now=digest: now) != digest:  # type: ignore[misc]
            raise UserError(
                f"study {study.folder.name!r}: the table {path} of teacher {name!r} has changed "
                "since the study was made"
            )


def _choose_assistants(context: StudyContext, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The architectures of the assistants between the teacher and the students."""
    return assistant_architectures(
        sizes,
        context.study.space,
        context.dataset,
        context.study.require(keys.TEACHER)["params"],
        context.limits.get("params"),
    )


def _measure_teacher(context: StudyContext) -> float | None:
    """The teacher's median batch-1 latency in milliseconds; None if it cannot be run."""
    teacher = context.teacher
    if not teacher.runs:
        return None
    with locks.quiet(context.latency_lock):
        measured = measure_latencies(
            {"teacher": teacher.module.eval()},
            {"teacher": teacher.input},
            engine=context.recipe.latency_engine,
            threads=context.threads,
            seconds=1.0,
        )
    return measured["teacher"].median_ms


def _choose_limits(context: StudyContext) -> dict[str, float]:
    """The recipe's limits; by default a tenth of the teacher's size, a third of its latency."""
    recipe, card = context.recipe, context.study.require(keys.TEACHER)
    by_cost = {
        "params": recipe.max_params,
        "macs": recipe.max_macs,
        "bytes": recipe.max_bytes,
        "latency": recipe.max_latency,
    }
    limits = {cost: float(limit) for cost, limit in by_cost.items() if limit is not None}
    if not limits and card["params"] is None:
        raise UserError(
            f"no limit named, and the teacher {context.teacher.name!r} has no size to derive one "
            "from: give --max-params, --max-macs, --max-bytes or --max-latency"
        )
    if not limits:
        limits["params"] = float(card["params"] // DEFAULT_LIMIT_PARAMS)
        text = f"no limit named: at most {limits['params']:,.0f} parameters (teacher's ÷ 10)"
        if "latency" in recipe.minimize:
            assert context.teacher_latency is not None, "a teacher of known size can be run"
            limits["latency"] = context.teacher_latency / DEFAULT_LIMIT_LATENCY
            text += f" and {limits['latency']:.3f} ms (teacher's ÷ 3, {recipe.latency_engine})"
        context.note(text, stage="teacher")
    floor = recipe.min_accuracy
    if floor is None:
        floor = 0.9 * (card["validation_" + recipe.score.replace("-", "_")] or 0.0)
    limits["accuracy"] = floor
    return limits
