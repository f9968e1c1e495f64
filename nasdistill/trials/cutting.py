"""Students that begin as parts of their teacher: which channels they take over."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import set_aside, write_whole
from nasdistill.common.seeds import seed_of
from nasdistill.common.types import Begin
from nasdistill.data import Dataset
from nasdistill.models import Classifier
from nasdistill.models.importance import Scores, scores_of
from nasdistill.models.pruned import base_of, structure_for
from nasdistill.models.pruning import Structure, cut
from nasdistill.models.weights import read_weights
from nasdistill.recipe import Recipe
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.teachers import Teacher
from nasdistill.training.batch_norm import reestimate
from nasdistill.trials.beginning import Beginning

LOOKED_AT = 320
"""Training images on which channels are judged, and batch norm is estimated anew."""
BATCH = 32
FILE = "importance.safetensors"


@dataclass(frozen=True)
class CutTeacher(Beginning):
    """Students cut from their teacher, with the weights of the channels that matter most.

    Attributes:
        teacher: The whole net, normalisation inside; not changed.
        structure: What can be cut from it.
        scores: How much each channel matters, by group.
        name: The teacher's, in words.
        identity: See `Beginning.identity`.
    """

    kind: ClassVar[Begin] = "teacher"
    teacher: Classifier
    structure: Structure
    scores: Scores
    name: str
    identity: str

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `Beginning.student`; batch norm is estimated anew on what the student is fed."""
        net = copy.deepcopy(self.teacher.net).requires_grad_(True)
        cut(net, self.structure, architecture.values["keep"], self.scores)
        teacher = self.teacher
        mean, std = (tuple(x.flatten().tolist()) for x in (teacher.mean, teacher.std))
        student = Classifier(net, mean, std).to(teacher.mean.device)
        reestimate(student, (batch for batch, _ in _plain_batches(fed, images.input.size)))
        return student

    def origin(self, architecture: Architecture) -> str:
        """See `Beginning.origin`."""
        return f"cut from {self.name}"


def open_cut_teacher(study: Study, teacher: Teacher, dataset: Dataset, emit: Emit) -> CutTeacher:
    """Finds what can be cut from a study's teacher, and which of its channels matter.

    The scores are measured once and kept in the study's folder.

    Args:
        study: The study.
        teacher: Its main teacher.
        dataset: Its data.
        emit: Told of what takes long.

    Raises:
        UserError: If the teacher is not the net that the space was made from, or takes other
            images than students do.
    """
    recipe, module = study.recipe, teacher.module
    sample = study.space.random(_random())
    base = base_of(sample)
    if not isinstance(module, Classifier):
        raise UserError(f"--begin teacher: the teacher {teacher.name!r} cannot be run, so that ...")
    _check_input(teacher, dataset)
    structure = structure_for(base, dataset.input, len(dataset.classes), module.net)
    path = study.folder / FILE
    with locks.alone(path.with_suffix(".lock")):
        scores = _read(path, structure, emit)
        if scores is None:
            emit(Event("stage", "judging the teacher's channels", stage="teacher"))
            scores = _judge(recipe, module, structure, dataset)
            _write(path, scores)
    identity = f"teacher {teacher.weights_hash} {recipe.importance}"
    return CutTeacher(module, structure, scores, teacher.name, identity)
