"""Students that begin as parts of a net that knows something: which channels they take over.

A net that loses most of its channels at once loses all that it knows. So it is cut in steps, and
distilled for a while after each; students are cut from the step that is next above them. The steps
are made once for a study, when they are first needed, and serve all its trials and finals.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, with_signs_of_life
from nasdistill.common.seeds import hash_seed, seed_of
from nasdistill.common.types import Begin
from nasdistill.data import Dataset
from nasdistill.models import Classifier
from nasdistill.models.classifier import Kept
from nasdistill.models.coupling import Side
from nasdistill.models.importance import Scores
from nasdistill.models.kept import composed, giving_sides, kept_channels, kept_heads
from nasdistill.models.pruned import FAMILY, base_of, build_base, keep_of, structure_for
from nasdistill.models.pruned_space import smallest
from nasdistill.models.pruning import Structure, chosen_units, counts_of, cut, narrowed
from nasdistill.models.weights import load_weights
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.fine_tunable import load_fine_tunable
from nasdistill.teachers.heads import all_heads
from nasdistill.training import LRSchedule
from nasdistill.training.batch_norm import reestimate
from nasdistill.training.first_head import fit_head
from nasdistill.training.teacher import train_through
from nasdistill.trials.beginning import Beginning
from nasdistill.trials.channels import (
    BATCH,
    LOOKED_AT,
    channel_scores,
    looked_at_batches,
    read_step,
    read_tensors,
    write_tensors,
)

if TYPE_CHECKING:
    from nasdistill.trials.context import StudyContext

WIDTHS = (0.75, 0.5, 0.375, 0.25, 0.125)
"""Shares of all channels that the steps keep."""
STEP_EPOCHS = 2
"""Most passes over the training split after each step."""
STEP_SHARE = 4
"""Epochs of a final for one of a step: short finals have short steps."""


@dataclass(frozen=True)
class Source:
    """A net that students are cut from.

    Attributes:
        whole: The net, normalisation inside; not changed.
        structure: What can be cut from it.
        scores: How much each channel matters, by group.
        units: Those of the first net that it has, by group that was cut.
    """

    whole: Classifier
    structure: Structure
    scores: Scores
    units: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class CutFrom(Beginning):
    """Students cut from a net, with the weights of the channels that matter most there.

    Attributes:
        kind: `teacher`, or `pretrained` where the space names another net.
        name: The net's, in words.
        identity: See `Beginning.identity`.
        weights: Hash of the net's weights.
        folder: Where what is measured and made of the net is kept.
        sources: The net as it is (1.0) and its steps so far, by the share of channels kept.
        context: The study's, set once there is one; makes the steps.
    """

    kind: Begin = "teacher"  # type: ignore[misc]
    name: str = ""
    identity: str = ""
    weights: str = ""
    folder: Path = Path("cut")
    sources: dict[float, Source] = field(default_factory=dict)
    context: StudyContext | None = field(default=None, repr=False)
    _last: dict[str, Classifier] = field(default_factory=dict, repr=False)

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `Beginning.student`; batch norm is estimated anew on what the student is fed."""
        key = f"{architecture.fingerprint} {fed.fingerprint}"
        if key not in self._last:  # a trial builds its student several times
            keep = keep_of(architecture)
            source = self._source(keep.get("width", 1.0), keep.get("whole", []))
            student = _cut(source, keep, self.sources[1.0].structure)
            reestimate(student, (batch for batch, _ in looked_at_batches(fed, images.input.size)))
            self._last.clear()
            self._last[key] = student
        return copy.deepcopy(self._last[key])

    def kept(self, architecture: Architecture) -> Kept:
        """See `Beginning.kept`."""
        keep, first = keep_of(architecture), self.sources[1.0].structure
        source = self._source(keep.get("width", 1.0), keep.get("whole", []))
        units = chosen_units(source.structure, keep, source.scores, first)
        return self.kept_of(composed(source.units, units))

    def kept_of(self, units: Mapping[str, Tensor]) -> Kept:
        """What a part has kept that has these units of the net, by group that was cut."""
        net, structure = self.sources[1.0].whole.net, self.sources[1.0].structure
        channels = kept_channels(net, structure, self._sides, units)
        return Kept(self.weights, channels, kept_heads(structure, units))

    @cached_property
    def _sides(self) -> dict[str, Side]:
        assert self.context is not None, "students are asked for before the study is open"
        first = self.sources[1.0]
        return giving_sides(first.whole.net, first.structure, self.context.dataset.input)

    def file_of(self, width: float) -> Path:
        """Where the step of a width is kept."""
        return self.folder / f"{width:g}.safetensors"

    @property
    def named_in_news(self) -> str:
        """The net in the words of progress."""
        return "teacher" if self.kind == "teacher" else self.name

    def origin(self, architecture: Architecture) -> str:
        """See `Beginning.origin`."""
        return f"cut from {self.name}"

    def at_work(self, context: StudyContext) -> None:
        """See `Beginning.at_work`."""
        self.context = context

    def _source(self, width: float, left_whole: Sequence[str]) -> Source:
        """The smallest step that has all channels of a student of some width."""
        source = self.sources[1.0]
        for step in WIDTHS:
            if step < width:
                break
            if step not in self.sources:
                assert self.context is not None, "students are asked for before the study is open"
                keep = {"width": step, "whole": left_whole}
                self.sources[step] = make_step(self, self.context, source, keep)
            source = self.sources[step]
        return source


def open_cut(study: Study, teacher: Teacher, dataset: Dataset, emit: Emit) -> CutFrom:
    """Finds what students are cut from, and which of its channels matter.

    Args:
        study: The study.
        teacher: Its main teacher.
        dataset: Its data.
        emit: Told of what takes long.

    Raises:
        UserError: If the teacher is not the net that the space was made from, the weights of
            another one cannot be had, or peers would stay equal.
    """
    template = study.space.template
    assert template is not None
    refuse_peers(study)
    base = base_of(study.space.random(random.Random(0)))  # all have the same
    if template.base is None:
        kind: Begin = "teacher"
        name, whole = teacher.name, _module_of(teacher, base, dataset)
        _tell_other_size(teacher, dataset, emit)
    else:
        kind, name = "pretrained", template.base
        whole = load_fine_tunable(name, None, dataset).module
    cut_from = CutFrom(kind, name, folder=study.folder / "cut")
    open_source(cut_from, study, base, whole, dataset, emit)
    return cut_from


def refuse_peers(study: Study) -> None:
    """Refuses peers among students that are cut from a net.

    Raises:
        UserError: If the recipe has some.
    """
    peers = [name for name, each in study.recipe.teachers.items() if each.peers is not None]
    if peers:
        raise UserError(
            f"teachers.{peers[0]}: peers that begin as the same part of one net stay equal and "
            "teach each other nothing; allowed: --begin fresh, or teachers other than peers"
        )


def open_source(
    cut_from: CutFrom,
    study: Study,
    base: Architecture,
    whole: Classifier,
    dataset: Dataset,
    emit: Emit,
) -> None:
    """Finds which channels of a net matter, and makes it the one that students are cut from.

    Args:
        cut_from: Gets its first source, and its identity.
        study: The study.
        base: The net's architecture.
        whole: The net.
        dataset: The study's data.
        emit: Told of what takes long.
    """
    emit(Event("stage", f"judging the channels of {cut_from.name}", stage="teacher"))
    whole = whole.to(dataset.score.labels.device).eval().requires_grad_(False)
    cut_from.identity = f"{cut_from.kind} {weights_hash(whole)} {study.recipe.importance}"
    if cut_from.kind == "pretrained":
        _fit_head(cut_from.folder / "1-head.safetensors", study, whole, dataset, emit)
    cut_from.weights = weights_hash(whole)
    structure = structure_for(base, dataset.input, len(dataset.classes))
    path = cut_from.folder / "1-scores.safetensors"
    scores = channel_scores(path, study, whole, structure, dataset, emit)
    cut_from.sources[1.0] = Source(whole, structure, scores)


def _fit_head(path: Path, study: Study, whole: Classifier, dataset: Dataset, emit: Emit) -> None:
    """Gives a net whose head knows nothing of the classes one that does; kept in a file.

    It sees other images than those by which channels are judged: on its own it is too sure.
    """
    heads = [head.layer for head in all_heads(whole)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with study.files.making(path):
        stored = read_tensors(path, emit)
        if stored is None:
            torch.manual_seed(seed_of(study.recipe.seed, "head of the base"))
            for head in heads:
                head.reset_parameters()
            if dataset.has_training:  # no label of the score half may enter
                batches = looked_at_batches(dataset, dataset.input.size, LOOKED_AT)
                text, most = "fitting a first head", min(LOOKED_AT, len(dataset.sample))
                fit_head(
                    whole, heads, with_signs_of_life(batches, text, "teacher", most, emit, BATCH)
                )
            stored = {f"{i}.{k}": v for i, h in enumerate(heads) for k, v in h.state_dict().items()}
            write_tensors(path, stored)
    for index, head in enumerate(heads):
        own = {k.partition(".")[2]: v for k, v in stored.items() if k.startswith(f"{index}.")}
        load_weights(head, own, str(path))


def _module_of(teacher: Teacher, base: Architecture, dataset: Dataset) -> Classifier:
    """The teacher's module.

    Raises:
        UserError: If it is none that the space was made from.
    """
    module = teacher.module
    with torch.device("meta"):
        expected = build_base(base, dataset.input, len(dataset.classes)).state_dict()
    if isinstance(module, Classifier):
        state = module.net.state_dict()
        if {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}:
            return module
    raise UserError(
        f"--begin teacher: the teacher {teacher.name!r} is not the net that the space was made "
        "from; allowed: --begin fresh, or a teacher that can be built from its name or folder alone"
    )


def _tell_other_size(teacher: Teacher, dataset: Dataset, emit: Emit) -> None:
    own, students = teacher.input.size, dataset.input.size
    if own != students:
        seen = [f"{width}x{height}" for height, width in (own, students)]
        text = (
            f"the teacher sees images of {seen[0]}, students of {seen[1]}: what is cut from it "
            "knows things of another size"
        )
        if own[0] == own[1] and own[0] <= 256:
            text += f"; --image-size {own[0]} shows them as large"
        emit(Event("warning", text, stage="teacher"))


def steps_to_make(context: StudyContext) -> list[Architecture]:
    """The steps that a study's students may ask for and that are not made yet, widest first.

    None where students are not cut from a net.
    """
    beginning = context.scoring.beginning
    if not isinstance(beginning, CutFrom):
        return []
    (smallest_one,), structure = smallest(context.study.space), beginning.sources[1.0].structure
    least = smallest_one.values
    whole = least["keep"].get("whole", [])
    nets, before = list[Architecture](), counts_of(structure, {"whole": whole})
    for width in WIDTHS:
        if width < least["keep"]["width"]:
            break
        keep = {"width": width, "whole": whole}
        counts = counts_of(structure, keep)
        if counts != before and not beginning.file_of(width).exists():
            nets.append(Architecture(FAMILY, {"base": least["base"], "keep": keep}))
        before = counts
    return nets


def step_epochs(context: StudyContext) -> int:
    """Passes over the training split after each step of a study."""
    return max(1, min(STEP_EPOCHS, context.final_epochs // STEP_SHARE))


def make_step(
    cut_from: CutFrom, context: StudyContext, above: Source, keep: dict[str, Any]
) -> Source:
    """Cuts a net to a share of all its channels and distils what is left; or reads what was made.

    Args:
        cut_from: The net as it was, and where the step is kept.
        context: The study's.
        above: The step before, which is cut.
        keep: The share of the whole net that stays, as `pruning.counts_of` takes it.

    Returns:
        The step; `above` itself where no channel can go.
    """
    study, dataset, first = context.study, context.dataset, cut_from.sources[1.0]
    width, size = keep["width"], dataset.input.size
    counts = counts_of(first.structure, keep)
    if all(above.structure.groups[name].size <= count for name, count in counts.items()):
        return above
    path = cut_from.file_of(width)
    student = copy.deepcopy(above.whole)
    kept = cut(student.net, above.structure, keep, above.scores, first.structure)
    structure, units = narrowed(above.structure, kept), composed(above.units, kept)
    with study.files.making(path):
        if not read_step(path, student, context.emit):
            start = time.perf_counter()
            reestimate(student, (images for images, _ in looked_at_batches(dataset, size)))
            if context.final.objective.reads_layers:
                student.kept = cut_from.kept_of(units)
            name, checkpoint = cut_from.named_in_news, path.with_suffix(".checkpoint")
            student = _distil(context, student, width, name, checkpoint)
            write_tensors(path, student.state_dict())
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
            study.add_seconds("cutting", time.perf_counter() - start)
    student.eval().requires_grad_(False)
    file = path.with_name(f"{width:g}-scores.safetensors")
    scores = channel_scores(file, study, student, structure, dataset, context.emit)
    return Source(student, structure, scores, units)


def _distil(
    context: StudyContext, student: Classifier, width: float, name: str, checkpoint: Path
) -> Classifier:
    """Trains a step as finals are trained; goes on where its checkpoint stands."""
    from nasdistill.trials.autotune import choose_capture, precision_for

    setup = context.final
    per_epoch = setup.stream.examples_per_epoch
    epochs, rate = step_epochs(context), context.recipe.rate(setup.beginning.kind)
    total = epochs * per_epoch
    students = [student.requires_grad_(True)]
    run = setup.run(
        students,
        horizon=total,
        lr_schedule=LRSchedule(rate, per_epoch // 2, per_epoch // 2, total),
        seed=hash_seed((context.recipe.seed, "cut", width)),
        precision=precision_for(context, setup, students, None),
    )
    choose_capture(context, setup, run)
    labelled = context.labelled(f"{name} cut to {width:g} of its channels")
    with locks.busy(context.latency_lock):
        setup.prepare(total, 0)
    for _ in train_through(run, epochs, "teacher", labelled.emit, checkpoint, context.latency_lock):
        pass
    trained = run.student
    assert isinstance(trained, Classifier)
    return trained


def _cut(source: Source, keep: Mapping[str, Any], whole: Structure) -> Classifier:
    """A student of a step, before batch norm is estimated anew."""
    net = copy.deepcopy(source.whole.net).requires_grad_(True)
    cut(net, source.structure, keep, source.scores, whole)
    mean, std = (tuple(x.flatten().tolist()) for x in (source.whole.mean, source.whole.std))
    return Classifier(net, mean, std).to(source.whole.mean.device)
