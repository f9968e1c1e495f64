"""Students that begin as parts of a net that knows something: which channels they take over."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import set_aside, write_whole
from nasdistill.common.seeds import seed_of
from nasdistill.common.types import Begin
from nasdistill.data import Dataset
from nasdistill.models import Classifier
from nasdistill.models.importance import Scores, importance
from nasdistill.models.pruned import base_of, build_base, structure_for
from nasdistill.models.pruning import Structure, cut
from nasdistill.models.weights import read_weights
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.fine_tunable import load_fine_tunable
from nasdistill.training.batch_norm import reestimate
from nasdistill.trials.beginning import Beginning

LOOKED_AT = 320
"""Training images by which channels are judged, and batch norm is estimated anew."""
BATCH = 32
SCORES_FILE = "importance.safetensors"


@dataclass(frozen=True)
class CutFrom(Beginning):
    """Students cut from a net, with the weights of the channels that matter most there.

    Attributes:
        kind: `teacher`, or `pretrained` where the space names another net.
        whole: The net, normalisation inside; not changed.
        structure: What can be cut from it.
        scores: How much each channel matters, by group.
        name: The net's, in words.
        identity: See `Beginning.identity`.
    """

    kind: Begin  # type: ignore[misc]
    whole: Classifier
    structure: Structure
    scores: Scores
    name: str
    identity: str
    _last: dict[str, Classifier] = field(default_factory=dict, repr=False)

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `Beginning.student`; batch norm is estimated anew on what the student is fed."""
        key = f"{architecture.fingerprint} {fed.fingerprint}"
        if key not in self._last:  # a trial builds its student several times
            self._last.clear()
            self._last[key] = self._cut(architecture, images, fed)
        return copy.deepcopy(self._last[key])

    def _cut(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        net = copy.deepcopy(self.whole.net).requires_grad_(True)
        cut(net, self.structure, architecture.values["keep"], self.scores)
        mean, std = (tuple(x.flatten().tolist()) for x in (self.whole.mean, self.whole.std))
        student = Classifier(net, mean, std).to(self.whole.mean.device)
        reestimate(student, (batch for batch, _ in _batches(fed, images.input.size)))
        return student.train()

    def origin(self, architecture: Architecture) -> str:
        """See `Beginning.origin`."""
        return f"cut from {self.name}"


def open_cut(study: Study, teacher: Teacher, dataset: Dataset, emit: Emit) -> CutFrom:
    """Finds what students are cut from, and which of its channels matter.

    The latter is measured once and kept in the study's folder.

    Args:
        study: The study.
        teacher: Its main teacher.
        dataset: Its data.
        emit: Told of what takes long.

    Raises:
        UserError: If the teacher is not the net that the space was made from, or the weights of
            another one cannot be had.
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
    structure = structure_for(base, dataset.input, len(dataset.classes))
    identity = f"{kind} {weights_hash(whole)} {study.recipe.importance}"
    path = study.folder / SCORES_FILE
    with locks.alone(path.with_name(f".{SCORES_FILE}.lock")):
        scores = _read_scores(path, structure, emit)
        if scores is None:
            emit(Event("stage", f"judging the channels of {name}", stage="teacher"))
            scores = _judge(study, whole, structure, dataset)
            _write_scores(path, scores)
    return CutFrom(kind, whole, structure, scores, name, identity)


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
        sizes = (
            f"the teacher sees images of {own[1]}x{own[0]}, students {students[1]}x{students[0]}"
        )
        text = f"{sizes}: what is cut from it knows things of another size"
        if own[0] == own[1] and own[0] <= 256:
            text += f"; --image-size {own[0]} shows them as large"
        emit(Event("warning", text, stage="teacher"))


def _judge(
    study: Study, whole: Classifier, structure: Structure, dataset: Dataset
) -> Mapping[str, Tensor]:
    """The score of every channel, from a copy: gradients would stay with the teacher."""
    net: nn.Module = copy.deepcopy(whole)
    assert isinstance(net, Classifier)
    batches = _batches(dataset, dataset.input.size)
    return importance(study.recipe.importance, net.net, structure, batches, net)


def _batches(dataset: Dataset, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images and their labels, the same ones whenever they are asked for."""
    generator = torch.Generator().manual_seed(0)
    split = dataset.sample
    ids = torch.randperm(len(split), generator=generator)[:LOOKED_AT]
    for batch in split.batches([(part, None) for part in torch.split(ids, BATCH)], size):
        yield batch.images, batch.labels


def _read_scores(path: Path, structure: Structure, emit: Emit) -> Scores | None:
    """The scores that were stored; None where there are none, or they are damaged."""
    if not path.exists():
        return None
    sizes = {name: (group.size,) for name, group in structure.groups.items() if not group.fixed}
    try:
        scores = read_weights(path)
        if {name: tuple(score.shape) for name, score in scores.items()} == sizes:
            return scores
        problem = f"{path}: it is of another net"
    except UserError as error:
        problem = str(error)
    aside = set_aside(path)
    text = f"{problem}; it was put aside as {aside.name}, and channels are judged again"
    emit(Event("warning", text, stage="teacher"))
    return None


def _write_scores(path: Path, scores: Scores) -> None:
    from safetensors.torch import save

    write_whole(path, save({name: score.contiguous() for name, score in scores.items()}))
