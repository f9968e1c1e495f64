"""All teachers of a study: found, trained where none is named, evaluated, asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent, warn_of
from nasdistill.common.seeds import hash_seed
from nasdistill.common.shared_files import ONE_FOLDER, SharedFiles
from nasdistill.data import Dataset
from nasdistill.losses import MAIN
from nasdistill.models import artifact
from nasdistill.models.counts import count_architecture
from nasdistill.recipe import Recipe, SyntheticOptions, TeacherOptions
from nasdistill.results import keys
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.teachers import Teacher, load_teacher, synthesis
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
from nasdistill.training.from_scratch import (
    Hyperparameters,
    budgets_in_epochs,
    cost_in_epochs,
    remove_checkpoints,
    train_teacher,
)
from nasdistill.training.teacher import (
    checkpoint_of,
    tune_head,
)
from nasdistill.trials.plugins import Plugins
from nasdistill.trials.teacher_evaluation import evaluate_once

HEAD_EPOCHS = 3


@dataclass
class TeacherPool:
    """All teachers of a study, loaded when first asked for.

    Attributes:
        dataset: The data that they are asked about.
        main: The teacher that the recipe names first.
        options: The others, as the recipe describes them, by name.
        load: Loads a teacher from `(name, options)`.
        root: Folder of the caches of logits.
        on_fill: Told of every fill, see `LogitCache`.
        report: Told in words what takes time.
        cache_size: Most bytes of the caches below `root`; None for no limit.
        emit: Told how far a fill is.
        files: By which hosts share logits.
        caches: The caches opened so far, by teacher and data.
    """

    dataset: Dataset
    main: Teacher
    options: Mapping[str, TeacherOptions]
    load: Callable[[str, TeacherOptions], Teacher]
    root: Path
    on_fill: Callable[[int, float], None]
    report: Callable[[str], None]
    cache_size: int | None = None
    emit: Emit = silent
    files: SharedFiles = ONE_FOLDER
    caches: dict[tuple[str, str], LogitCache] = field(default_factory=dict)
    _loaded: dict[str, Teacher] = field(default_factory=dict)

    def targets(self, name: str, stream: BatchStream) -> TeacherTargets:
        """The targets that the teacher of a name gives for the batches of a stream.

        Raises:
            UserError: If it cannot be loaded.
        """
        if name == MAIN:
            if not self.main.runs:
                path = self.main.name.removeprefix("table:")
                return _table_targets(path, "error", stream.dataset)
            return self.cached_targets(self.main, stream.dataset)
        options = self.options[name]
        if options.mean_of is not None:
            members = [self.targets(member, stream) for member in options.mean_of]
            shares = options.shares or [1.0] * len(members)
            return EnsembleTargets(members, [s / sum(shares) for s in shares], options.by)
        if options.ema is not None:
            return EMATargets(options.ema)
        if options.earlier is not None:
            examples = options.earlier.examples(len(stream.dataset.train))
            return SnapshotTargets(stream.steps(examples))
        if options.peers is not None:
            return PeerTargets(options.peers)
        if options.table is not None:
            return _table_targets(options.table, options.missing, stream.dataset)
        if name not in self._loaded:
            self._loaded[name] = self.load(name, options)
        return self.cached_targets(self._loaded[name], stream.dataset)

    def cached_targets(self, teacher: Teacher, dataset: Dataset) -> CachedTargets:
        """The targets of a frozen teacher, its logits remembered."""
        # Equal weights at another size, in another precision or layout, give other logits.
        identity = (teacher.weights_hash, teacher.input, teacher.precision, teacher.inference)
        key = (repr(identity), dataset.fingerprint)
        if key not in self.caches:
            self.caches[key] = LogitCache(
                teacher, dataset, self.root, self.on_fill, self.cache_size, self.emit, self.files
            )
        return CachedTargets(teacher, self.caches[key])

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

        def report_progress(progress: synthesis.Progress) -> None:
            if progress.warning:
                self.report(progress.warning)
            if progress.step == progress.steps:
                self.report(
                    f"{progress.images:,} of {progress.count:,} images made from the teacher alone"
                )

        return synthesis.synthesise(
            self.main,
            count=options.images,
            steps=options.steps,
            folder=self.root / "synthetic",
            on_progress=report_progress,
        )


def _table_targets(path: str, missing: str, dataset: Dataset) -> TableTargets:
    table = read_table(Path(path), dataset.names, dataset.classes, missing)
    return TableTargets(table, dataset.train.labels.device)


def open_teacher_pool(
    study: Study, dataset: Dataset, device: torch.device, plugins: Plugins, emit: Emit
) -> TeacherPool:
    """Loads and evaluates the main teacher of a study; the others follow when they are asked for.

    Args:
        study: The study.
        dataset: The data that the teachers are asked about.
        device: Where they are put.
        plugins: What the user's own file brings.
        emit: Told what happens.

    Raises:
        UserError: If the teacher cannot be loaded, or is useless for the data.
    """
    recipe, root = study.recipe, study.folder.parent

    def load(name: str, options: TeacherOptions) -> Teacher:
        assert options.model is not None
        emit(Event("stage", f"teacher {name}: {options.model}", stage="teacher"))
        keys_of_it = {"weights": options.weights, "classes": options.classes}
        named = recipe.model_copy(update={"teacher": options.model, **keys_of_it})
        teacher = open_teacher(named, dataset, device, root, plugins, emit, study.files)
        evaluate_once(study, keys.FURTHER_TEACHER.of(name), teacher, dataset, emit)
        return teacher

    def on_fill(examples: int, seconds: float) -> None:
        study.add_seconds("answers", seconds)
        emit(
            Event(
                "note",
                f"teacher answered {examples:,} views in {seconds:.1f} s",
                stage="answers",
                images_per_second=examples / max(seconds, 1e-9),
            )
        )

    def report(text: str) -> None:
        emit(Event("note", text, stage="teacher"))

    main = open_teacher(recipe, dataset, device, root, plugins, emit, study.files)
    evaluate_once(study, keys.TEACHER, main, dataset, emit)
    return TeacherPool(
        dataset,
        main,
        recipe.teachers,
        load,
        root / ".cache",
        on_fill,
        report,
        recipe.cache_size,
        emit,
        study.files,
    )


def open_teacher(
    recipe: Recipe,
    dataset: Dataset,
    device: torch.device,
    root: Path,
    plugins: Plugins,
    emit: Emit,
    files: SharedFiles = ONE_FOLDER,
) -> Teacher:
    """Loads the teacher that a recipe names: trained first where it names none, with a new head
    where its classes are others.

    Args:
        recipe: Names it, its weights, and the seed of what is trained.
        dataset: The data that it is to teach on.
        device: Where it is put.
        root: Folder of studies: finals teach, and trained teachers are kept below it.
        plugins: What the user's own file brings.
        emit: Told how a training goes.
        files: By which hosts share what is trained.

    Raises:
        UserError: If it cannot be loaded.
    """
    spec = recipe.teacher
    if recipe.weights is not None and (spec == "auto" or spec.startswith("table:")):
        raise UserError(
            f"--weights: found {str(recipe.weights)!r} with --teacher {spec}; it goes with "
            "torchvision:NAME, timm:NAME, transformers:NAME or a function of the --import file"
        )
    trained_here = spec == "auto" and dataset.name != "fashion-mnist-mini"
    if recipe.classes is not None and (trained_here or spec.startswith("table:")):
        raise UserError(
            f"--classes: found {recipe.classes!r} with --teacher {spec}, whose answers are in the "
            "order of the data's classes; it goes with a model that was trained elsewhere"
        )
    if spec.startswith("table:"):
        return recorded_teacher(spec, dataset)
    if spec == "auto" and dataset.name == "fashion-mnist-mini":
        spec = "shipped"
    elif spec in ("auto", ""):
        spec = f"folder:{_auto_teacher(root / '.teachers', recipe, dataset, emit, files)}"
    teacher = load_teacher(
        spec,
        dataset,
        device=device,
        weights=recipe.weights,
        studies_root=root,
        imported=plugins.teachers,
        classes=recipe.classes,
    )
    warn_of(teacher.notes, emit, "teacher")
    if teacher.card.get("classes_reordered"):
        text = f"teacher {teacher.name}: its logits are put in the order of the data's classes"
        emit(Event("note", text, stage="teacher"))
    if recipe.weights is not None or ",weights=" in spec:
        text = f"teacher {teacher.name}: weights of {teacher.card['weights']}"
        emit(Event("note", text, stage="teacher"))
    if teacher.card["source"] == "import":
        teacher.code = plugins.fingerprint
    if teacher.classes != len(dataset.classes):
        teacher = tune_head(
            teacher,
            dataset,
            epochs=HEAD_EPOCHS,
            seed=recipe.seed,
            emit=emit,
            keep=root / ".teachers",
            files=files,
            sampling=recipe.sampling,
            class_weights=recipe.class_weights,
        )
    return teacher


def _auto_teacher(
    root: Path, recipe: Recipe, dataset: Dataset, emit: Emit, files: SharedFiles = ONE_FOLDER
) -> Path:
    """The folder of the teacher for some data, which is trained if it is not there yet.

    Raises:
        UserError: If there is nothing to train it on.
    """
    if not dataset.has_training:
        raise UserError(
            f"data {dataset.name!r}: no train split to train a teacher on, as --teacher auto does; "
            "name a teacher, such as folder:PATH"
        )

    def warn(text: str) -> None:
        emit(Event("warning", text, stage="teacher"))

    name = dataset.fingerprint[:16]
    balance = (recipe.sampling, recipe.class_weights)
    if balance != ("uniform", None):  # another training, and so another teacher
        name += f"-{hash_seed(balance):012x}"
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    with files.making(folder):
        if artifact.load_or_set_aside(folder, warn) is None:
            _train_auto_teacher(folder, recipe, dataset, emit)
    return folder


def _train_auto_teacher(folder: Path, recipe: Recipe, dataset: Dataset, emit: Emit) -> None:
    architecture = default_teacher()
    counts = count_architecture(architecture, dataset.input, len(dataset.classes))
    settings = Hyperparameters(
        precision=recipe.precision,
        sampling=recipe.sampling,
        class_weights=recipe.class_weights,
    )
    most = cost_in_epochs(budgets_in_epochs(dataset, settings.batch_size))
    emit(
        Event(
            "note",
            f"no teacher named: training one first, {counts.params:,} parameters, "
            f"{counts.macs / 1e6:.0f} M multiply-adds an image, at most {most} epochs of "
            f"{len(dataset.train):,} images; kept in {folder}",
            stage="teacher",
        )
    )
    checkpoint = checkpoint_of(folder, architecture.fingerprint, recipe.seed, settings)
    trained = train_teacher(
        dataset,
        architecture,
        epochs=None,
        seed=recipe.seed,
        emit=emit,
        hyperparameters=settings,
        checkpoint=checkpoint,
    )
    artifact.write_final(
        folder,
        module=trained.module,
        spec=artifact.ModelSpec(architecture, dataset.preparation, dataset.classes),
        metrics={
            "epochs": trained.epochs,
            "seed": recipe.seed,
            "precision": trained.precision,
            "sampling": recipe.sampling,
            "class_weights": recipe.class_weights,
            "scores": trained.scores,
        },
        card=f"# Teacher trained by nasdistill on {dataset.name}\n",
    )
    remove_checkpoints(checkpoint)


def default_teacher() -> Architecture:
    """The architecture that `teacher train` and `--teacher auto` use."""
    path = Path(__file__).parent.parent / "assets" / "teacher" / "architecture.json"
    return Architecture.read(path)
