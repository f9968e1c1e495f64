"""Everyone who can teach in a study: found, trained where none is named, evaluated, asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.data import Dataset
from nasdistill.losses import MAIN
from nasdistill.models import artifact
from nasdistill.models.counts import count_architecture
from nasdistill.recipe import Recipe, SyntheticOptions, TeacherOptions
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.teachers import AnswerPrecision, Teacher, load_teacher, synthesis
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.recorded import recorded_teacher
from nasdistill.teachers.table import read_table
from nasdistill.teachers.targets import (
    CachedTargets,
    EMATargets,
    EnsembleTargets,
    PeerTargets,
    SnapshotTargets,
    TableTargets,
    TeacherTargets,
)
from nasdistill.training import BatchStream
from nasdistill.training.teacher import (
    checkpoint_of,
    evaluate_teacher,
    probe_answers,
    train_teacher,
    tune_head,
    warnings_of,
)
from nasdistill.trials.plugins import Plugins

AUTO_TEACHER_EPOCHS = 30
HEAD_EPOCHS = 3


@dataclass
class TeacherPool:
    """Everyone who can teach in a study, loaded when first asked for.

    Attributes:
        dataset: What they are asked about.
        main: The teacher that the recipe names first.
        options: The others, as the recipe describes them, by name.
        load: Loads a teacher from `(name, options)`.
        root: Folder of the caches of answers.
        on_fill: Told of every fill, see `LogitCache`.
        tell: Told in words what takes time.
        cache_size: Most bytes of the caches below `root`; None for no limit.
        caches: The caches opened so far, by teacher and data.
    """

    dataset: Dataset
    main: Teacher
    options: Mapping[str, TeacherOptions]
    load: Callable[[str, TeacherOptions], Teacher]
    root: Path
    on_fill: Callable[[int, float], None]
    tell: Callable[[str], None]
    cache_size: int | None = None
    caches: dict[tuple[str, str], LogitCache] = field(default_factory=dict)
    _loaded: dict[str, Teacher] = field(default_factory=dict)

    def answers(self, name: str, stream: BatchStream) -> TeacherTargets:
        """What the teacher of that name says about the batches of a stream.

        Raises:
            UserError: If it cannot be loaded.
        """
        if name == MAIN:
            if not self.main.runs:
                return _table(self.main.name.removeprefix("table:"), "error", stream.dataset)
            return self.frozen(self.main, stream.dataset)
        options = self.options[name]
        if options.mean_of is not None:
            of = [self.answers(one, stream) for one in options.mean_of]
            shares = options.shares or [1.0] * len(of)
            return EnsembleTargets(of, [share / sum(shares) for share in shares], options.by)
        if options.ema is not None:
            return EMATargets(options.ema)
        if options.earlier is not None:
            return SnapshotTargets(
                stream.steps(options.earlier.examples(len(stream.dataset.train)))
            )
        if options.peers is not None:
            return PeerTargets(options.peers)
        if options.table is not None:
            return _table(options.table, options.missing, stream.dataset)
        if name not in self._loaded:
            self._loaded[name] = self.load(name, options)
        return self.frozen(self._loaded[name], stream.dataset)

    def synthetic(self, options: SyntheticOptions) -> tuple[Tensor, Tensor]:
        """Training images made from the main teacher alone, made once and kept.

        Returns:
            uint8 `[N, C, H, W]` and int64 `[N]`.

        Raises:
            UserError: If that teacher cannot be run.
        """
        if not self.main.runs:
            raise UserError(
                f"feed.synthetic: the teacher {self.main.name!r} is a table of recorded answers; "
                "images are made by asking a teacher anew"
            )

        def progress(now: synthesis.Progress) -> None:
            if now.warning:
                self.tell(now.warning)
            if now.step == now.steps:
                self.tell(f"{now.images:,} of {now.count:,} images made from the teacher alone")

        return synthesis.synthesise(
            self.main,
            count=options.images,
            steps=options.steps,
            folder=self.root / "synthetic",
            on_progress=progress,
        )

    def frozen(self, teacher: Teacher, dataset: Dataset) -> CachedTargets:
        """The answers of a frozen teacher, remembered."""
        # Equal weights at another size, or in another precision, give other answers.
        about = (teacher.weights_hash, teacher.input, teacher.precision)
        key = (repr(about), dataset.fingerprint)
        if key not in self.caches:
            self.caches[key] = LogitCache(
                teacher, dataset, self.root, self.on_fill, self.cache_size
            )
        return CachedTargets(teacher, self.caches[key])


def _table(path: str, missing: str, dataset: Dataset) -> TableTargets:
    table = read_table(Path(path), dataset.names, dataset.classes, missing)
    return TableTargets(table, dataset.train.labels.device)


def evaluated(
    study: Study, key: str, teacher: Teacher, dataset: Dataset, emit: Emit
) -> Mapping[str, Any]:
    """Evaluates a teacher once in a study, and settles the precision of its answers.

    Args:
        study: The study.
        key: Of the teacher's card in it.
        teacher: The teacher.
        dataset: The study's data.
        emit: Told what is doubtful.

    Returns:
        The card; see `teaching.evaluate_teacher`.

    Raises:
        UserError: If it is useless for the data, or not the one that the study was made with.
    """
    examine = evaluate_teacher if teacher.runs else _evaluate_table
    card: Mapping[str, Any] = study.get_or_measure(key, lambda: examine(teacher, dataset))
    if card["weights_hash"] != teacher.weights_hash:
        raise UserError(
            f"study {study.folder.name!r}: the teacher {teacher.name!r} has other weights than "
            "the one it was made with"
        )
    if not teacher.runs:
        text = (
            f"teacher {teacher.name}: recorded answers, accuracy {card['train_accuracy']:.4f} on "
            "the training split; how it does on other images is not known"
        )
        emit(Event("note", text, stage="teacher"))
        return card
    for text in warnings_of(dict(card)):
        emit(Event("warning", text, stage="teacher"))
    teacher.precision = study.get_or_measure(
        f"precision:{key}", lambda: _answers_in(study.recipe, teacher, dataset)
    )
    emit(
        Event(
            "note",
            f"teacher {teacher.name}: {card['params']:,} parameters, validation accuracy "
            f"{card['validation_accuracy']:.4f}, calibration error {card['ece']:.3f}",
            stage="teacher",
        )
    )
    return card


def _evaluate_table(teacher: Teacher, dataset: Dataset) -> dict[str, Any]:
    """What is known of a recorded teacher: its accuracy on what was recorded.

    Raises:
        UserError: If that is barely better than chance.
    """
    table = read_table(
        Path(teacher.name.removeprefix("table:")), dataset.names, dataset.classes, "error"
    )
    right = table.answers.argmax(axis=1) == dataset.train.labels.cpu().numpy()
    share, chance = float(right.mean()), 1.0 / len(dataset.classes)
    if share < chance + 0.1 * (1.0 - chance):
        raise UserError(
            f"teacher {teacher.name!r} is barely better than chance on {dataset.name!r}: accuracy "
            f"{share:.3f}, chance {chance:.3f}. Its ids or classes may be in another order"
        )
    unknown = ("params", "macs", "bytes", "validation_accuracy", "ece", "gap")
    known = {"weights_hash": teacher.weights_hash, "train_accuracy": share}
    return {**teacher.card, **known, **dict.fromkeys(unknown)}


def _answers_in(recipe: Recipe, teacher: Teacher, dataset: Dataset) -> AnswerPrecision:
    """The precision of the teacher's answers: as the recipe says, or probed."""
    if recipe.precision == "auto":
        return probe_answers(teacher, dataset)
    return "fp32" if recipe.precision == "fp32" else "bf16"


def open_teacher(
    recipe: Recipe,
    dataset: Dataset,
    device: torch.device,
    root: Path,
    imported: Plugins,
    emit: Emit,
) -> Teacher:
    """Finds the teacher that a recipe names: trained first where it names none, with a new head
    where its classes are others.

    Args:
        recipe: Names it, its weights, and the seed of what is trained.
        dataset: What it is to teach on.
        device: Where it is put.
        root: Folder of studies: finals teach, and trained teachers are kept below it.
        imported: What the user's own file brings.
        emit: Told how a training goes.

    Raises:
        UserError: If it cannot be loaded.
    """
    spec = recipe.teacher
    if recipe.weights is not None and (spec == "auto" or spec.startswith("table:")):
        raise UserError(
            f"--weights: found {str(recipe.weights)!r} with --teacher {spec}; it goes with "
            "torchvision:NAME, timm:NAME, transformers:NAME or a function of the --import file"
        )
    if spec.startswith("table:"):
        return recorded_teacher(spec, dataset)
    if spec == "auto":
        spec = "shipped" if dataset.name == "fashion-mnist-mini" else ""
    if not spec:
        folder = root / ".teachers" / dataset.fingerprint[:16]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locks.alone(folder.with_name(folder.name + ".lock")):
            if not (folder / "model.safetensors").exists():
                _train_auto_teacher(folder, recipe, dataset, emit)
        spec = f"folder:{folder}"
    teacher = load_teacher(
        spec,
        dataset,
        device=device,
        weights=recipe.weights,
        studies_root=root,
        imported=imported.teachers,
    )
    if teacher.card["source"] == "import":
        teacher.code = imported.fingerprint
    if teacher.classes != len(dataset.classes):
        teacher = tune_head(
            teacher,
            dataset,
            epochs=HEAD_EPOCHS,
            seed=recipe.seed,
            emit=emit,
            keep=root / ".teachers",
        )
    return teacher


def _train_auto_teacher(folder: Path, recipe: Recipe, dataset: Dataset, emit: Emit) -> None:
    architecture = default_teacher()
    counts = count_architecture(architecture, dataset.input, len(dataset.classes))
    images = AUTO_TEACHER_EPOCHS * len(dataset.train)
    emit(
        Event(
            "note",
            f"no teacher named: training one first, {counts.params:,} parameters, "
            f"{counts.macs / 1e6:.0f} M multiply-adds an image, {images:,} images "
            f"({AUTO_TEACHER_EPOCHS} epochs); kept in {folder}",
            stage="teacher",
        )
    )
    checkpoint = checkpoint_of(folder, architecture.fingerprint, recipe.seed)
    module = train_teacher(
        dataset,
        architecture,
        epochs=AUTO_TEACHER_EPOCHS,
        seed=recipe.seed,
        emit=emit,
        checkpoint=checkpoint,
    )
    artifact.write_final(
        folder,
        module=module,
        architecture=architecture,
        input=dataset.input,
        classes=dataset.classes,
        metrics={"epochs": AUTO_TEACHER_EPOCHS, "seed": recipe.seed},
        card=f"# Teacher trained by nasdistill on {dataset.name}\n",
    )
    checkpoint.unlink(missing_ok=True)


def default_teacher() -> Architecture:
    """The architecture that `teacher train` and `--teacher auto` use."""
    path = Path(__file__).parent.parent / "assets" / "teacher" / "architecture.json"
    return Architecture.from_json(path.read_text())
