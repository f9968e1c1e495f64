"""Students that begin as parts of a net that knows something: which channels they take over.

A net that loses most of its channels at once loses all that it knows. So it is cut in steps, and
distilled for a while after each; students are cut from the step that is next above them. The steps
are made once for a study, when they are first needed, and serve all its trials and finals.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, with_signs_of_life
from nasdistill.common.files import set_aside, write_whole
from nasdistill.common.seeds import hash_seed, seed_of
from nasdistill.common.types import Begin
from nasdistill.data import Dataset
from nasdistill.models import Classifier
from nasdistill.models.classifier import Kept
from nasdistill.models.coupling import Side
from nasdistill.models.importance import Scores, importance
from nasdistill.models.kept import composed, giving_sides, kept_channels, kept_heads
from nasdistill.models.pruned import FAMILY, base_of, build_base, structure_for
from nasdistill.models.pruned_space import smallest
from nasdistill.models.pruning import Structure, chosen_units, counts_of, cut, narrowed
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.fine_tunable import load_fine_tunable
from nasdistill.training import LRSchedule
from nasdistill.training.batch_norm import reestimate
from nasdistill.training.teacher import train_through
from nasdistill.trials.beginning import Beginning

if TYPE_CHECKING:
    from nasdistill.trials.context import StudyContext

WIDTHS = (0.75, 0.5, 0.375, 0.25, 0.125)
"""Shares of all channels that the steps keep."""
STEP_EPOCHS = 2
"""Passes over the training split after each step."""
LOOKED_AT = 320
"""Training images by which channels are judged, and batch norm is estimated anew."""
BATCH = 32


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
        sources: The net as it is (1.0) and its steps so far, by the share of channels kept.
        context: The study's, set once there is one; makes the steps.
    """

    kind: Begin = "teacher"  # type: ignore[misc]
    name: str = ""
    identity: str = ""
    weights: str = ""
    sources: dict[float, Source] = field(default_factory=dict)
    context: StudyContext | None = field(default=None, repr=False)
    _last: dict[str, Classifier] = field(default_factory=dict, repr=False)

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `Beginning.student`; batch norm is estimated anew on what the student is fed."""
        key = f"{architecture.fingerprint} {fed.fingerprint}"
        if key not in self._last:  # a trial builds its student several times
            keep = architecture.values["keep"]
            source = self._source(keep.get("width", 1.0), keep.get("whole", []))
            student = _cut(source, keep, self.sources[1.0].structure)
            reestimate(student, (batch for batch, _ in _batches(fed, images.input.size)))
            self._last.clear()
            self._last[key] = student
        return copy.deepcopy(self._last[key])

    def kept(self, architecture: Architecture) -> Kept:
        """See `Beginning.kept`."""
        keep, first = architecture.values["keep"], self.sources[1.0].structure
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

    def origin(self, architecture: Architecture) -> str:
        """See `Beginning.origin`."""
        return f"cut from {self.name}"

    def _source(self, width: float, left_whole: list[str]) -> Source:
        """The smallest step that has all channels of a student of some width."""
        source = self.sources[1.0]
        for step in WIDTHS:
            if step < width:
                break
            if step not in self.sources:
                assert self.context is not None, "students are asked for before the study is open"
                keep = {"width": step, "whole": left_whole}
                self.sources[step] = make_step(self.context, self.sources[1.0], source, keep)
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
    peers = [name for name, each in study.recipe.teachers.items() if each.peers is not None]
    if peers:
        raise UserError(
            f"teachers.{peers[0]}: peers that begin as the same part of one net stay equal and "
            "teach each other nothing; allowed: --begin fresh, or teachers other than peers"
        )
    base = base_of(study.space.random(random.Random(0)))  # all have the same
    if template.base is None:
        kind: Begin = "teacher"
        name, whole = teacher.name, _module_of(teacher, base, dataset)
        _tell_other_size(teacher, dataset, emit)
    else:
        kind, name = "pretrained", template.base
        torch.manual_seed(seed_of(study.recipe.seed, "head of the base"))
        whole = load_fine_tunable(name, None, dataset).module
        whole = whole.to(dataset.score.labels.device).eval().requires_grad_(False)
    emit(Event("stage", f"judging the channels of {name}", stage="teacher"))
    structure = structure_for(base, dataset.input, len(dataset.classes))
    scores = _scores(
        study.folder / "cut" / "1-scores.safetensors", study, whole, structure, dataset, emit
    )
    weights = weights_hash(whole)
    identity = f"{kind} {weights} {study.recipe.importance}"
    return CutFrom(kind, name, identity, weights, {1.0: Source(whole, structure, scores)})


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
    least, structure = smallest(context.study.space).values, beginning.sources[1.0].structure
    whole = least["keep"].get("whole", [])
    nets, before = list[Architecture](), counts_of(structure, {"whole": whole})
    for width in WIDTHS:
        if width < least["keep"]["width"]:
            break
        keep = {"width": width, "whole": whole}
        counts = counts_of(structure, keep)
        if counts != before and not _file_of(context, width).exists():
            nets.append(Architecture(FAMILY, {"base": least["base"], "keep": keep}))
        before = counts
    return nets


def _file_of(context: StudyContext, width: float) -> Path:
    return context.folder / "cut" / f"{width:g}.safetensors"


def make_step(context: StudyContext, first: Source, above: Source, keep: dict[str, Any]) -> Source:
    """Cuts a net to a share of all its channels and distils what is left; or reads what was made.

    Args:
        context: The study's; the step is kept in its folder.
        first: The net as it was.
        above: The step before, which is cut.
        keep: The share of `first` that stays, as `pruning.counts_of` takes it.

    Returns:
        The step; `above` itself where no channel can go.
    """
    study, dataset = context.study, context.dataset
    width, size = keep["width"], dataset.input.size
    counts = counts_of(first.structure, keep)
    if all(above.structure.groups[name].size <= count for name, count in counts.items()):
        return above
    path = _file_of(context, width)
    student = copy.deepcopy(above.whole)
    kept = cut(student.net, above.structure, keep, above.scores, first.structure)
    structure, units = narrowed(above.structure, kept), composed(above.units, kept)
    with locks.alone(path.with_suffix(".lock")):
        if not _read_step(path, student, context.emit):
            start = time.perf_counter()
            reestimate(student, (images for images, _ in _batches(dataset, size)))
            student.kept = _kept_of(context, units)
            student = _distil(context, student, width, path.with_suffix(".checkpoint"))
            _write(path, student.state_dict())
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
            study.add_seconds("cutting", time.perf_counter() - start)
    student.eval().requires_grad_(False)
    file = path.with_name(f"{width:g}-scores.safetensors")
    scores = _scores(file, study, student, structure, dataset, context.emit)
    return Source(student, structure, scores, units)


def _kept_of(context: StudyContext, units: Mapping[str, Tensor]) -> Kept | None:
    beginning = context.final.beginning
    assert isinstance(beginning, CutFrom)
    return beginning.kept_of(units) if context.final.objective.reads_layers else None


def _distil(
    context: StudyContext, student: Classifier, width: float, checkpoint: Path
) -> Classifier:
    """Trains a step as finals are trained; goes on where its checkpoint stands."""
    from nasdistill.trials.autotune import choose_capture, precision_for

    setup = context.final
    per_epoch = setup.stream.examples_per_epoch
    total, rate = STEP_EPOCHS * per_epoch, context.recipe.rate(setup.beginning.kind)
    students = [student.requires_grad_(True)]
    run = setup.run(
        students,
        horizon=total,
        lr_schedule=LRSchedule(rate, per_epoch // 2, per_epoch // 2, total),
        seed=hash_seed((context.recipe.seed, "cut", width)),
        precision=precision_for(context, setup, students, None),
    )
    choose_capture(context, setup, run)
    labelled = context.labelled(f"teacher cut to {width:g} of its channels")
    with locks.busy(context.latency_lock):
        setup.prepare(total, 0)
    steps = train_through(
        run, STEP_EPOCHS, "teacher", labelled.emit, checkpoint, context.latency_lock
    )
    for _ in steps:
        pass
    trained = run.student
    assert isinstance(trained, Classifier)
    return trained


def _cut(source: Source, keep: dict[str, Any], whole: Structure) -> Classifier:
    """A student of a step, before batch norm is estimated anew."""
    net = copy.deepcopy(source.whole.net).requires_grad_(True)
    cut(net, source.structure, keep, source.scores, whole)
    mean, std = (tuple(x.flatten().tolist()) for x in (source.whole.mean, source.whole.std))
    return Classifier(net, mean, std).to(source.whole.mean.device)


def _scores(
    path: Path,
    study: Study,
    whole: Classifier,
    structure: Structure,
    dataset: Dataset,
    emit: Emit,
) -> Scores:
    """How much each channel matters, measured once and kept in a file."""
    sizes = {name: (group.size,) for name, group in structure.groups.items() if not group.fixed}
    path.parent.mkdir(exist_ok=True)
    with locks.alone(path.with_suffix(".lock")):
        stored = _read(path, emit)
        if stored is not None and {k: tuple(v.shape) for k, v in stored.items()} == sizes:
            return stored
        net: nn.Module = copy.deepcopy(whole)  # gradients would stay with the teacher
        assert isinstance(net, Classifier)
        batches = _batches(dataset, dataset.input.size)
        if not dataset.has_training:  # no label of the score half may enter
            batches = ((images, net(images).argmax(dim=1)) for images, _ in batches)
        looked_at = min(LOOKED_AT, len(dataset.sample))
        batches = with_signs_of_life(batches, "judging channels", "teacher", looked_at, emit, BATCH)
        scores = importance(study.recipe.importance, net.net, structure, batches, net)
        _write(path, scores)
        return scores


def _batches(dataset: Dataset, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images and their labels, the same ones whenever they are asked for.

    Batches are of nearly equal size: all count alike, and one image has no variance on a 1×1 map.
    """
    generator = torch.Generator().manual_seed(0)
    split = dataset.sample
    ids = torch.randperm(len(split), generator=generator)[:LOOKED_AT]
    parts = ids.tensor_split(-(-len(ids) // BATCH))
    for batch in split.batches([(part, None) for part in parts], size):
        yield batch.images, batch.labels


def _read_step(path: Path, student: Classifier, emit: Emit) -> bool:
    """Loads a step's weights, if they are there."""
    weights = _read(path, emit)
    if weights is None:
        return False
    try:
        load_weights(student, weights, str(path))
    except UserError as error:
        _put_aside(path, str(error), emit)
        return False
    return True


def _read(path: Path, emit: Emit) -> dict[str, Tensor] | None:
    """Tensors that `_write` wrote; None where there are none, or they are damaged."""
    if not path.exists():
        return None
    try:
        return read_weights(path)
    except UserError as error:
        _put_aside(path, str(error), emit)
        return None


def _put_aside(path: Path, problem: str, emit: Emit) -> None:
    aside = set_aside(path)
    text = f"{problem}; it was put aside as {aside.name}, and is made again"
    emit(Event("warning", text, stage="teacher"))


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    content = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    write_whole(path, save(content))
