"""Students cut from several named nets, each with its own weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from nasdistill.common.events import Emit
from nasdistill.common.types import Begin
from nasdistill.data import Dataset
from nasdistill.models import Classifier
from nasdistill.models.pruned import base_of
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.trials.beginning import Beginning, OwnPretrained, open_beginning
from nasdistill.trials.cutting import CutFrom, open_source, refuse_peers

if TYPE_CHECKING:
    from nasdistill.trials.context import StudyContext


@dataclass(eq=False)
class CutFromNamed(Beginning):
    """Students cut from one of several nets, see `CutFrom`; each is judged when first asked for.

    Attributes:
        study: The study.
        dataset: Its data.
        emit: Told of what takes long.
        own: The weights of the nets.
    """

    kind: ClassVar[Begin] = "pretrained"
    study: Study
    dataset: Dataset
    emit: Emit
    own: OwnPretrained
    _nets: dict[str, CutFrom] = field(default_factory=dict, repr=False)
    _context: StudyContext | None = field(default=None, repr=False)

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `CutFrom.student`."""
        base = base_of(architecture)
        model = str(base.values["model"])
        if model not in self._nets:
            with torch.random.fork_rng():  # the student's own draws stay what they were
                self._nets[model] = self._open(model, base)
        return self._nets[model].student(architecture, images, fed)

    def origin(self, architecture: Architecture) -> str:
        """See `Beginning.origin`."""
        return f"cut from {self.own.origin(base_of(architecture))}"

    @property
    def identity(self) -> str:
        """See `Beginning.identity`."""
        return f"cut {self.own.identity} {self.study.recipe.importance}"

    def at_work(self, context: StudyContext) -> None:
        """See `Beginning.at_work`."""
        self._context = context

    def _open(self, model: str, base: Architecture) -> CutFrom:
        folder = self.study.folder / "cut" / re.sub(r"[^\w.-]", "-", model)
        cut_from = CutFrom("pretrained", model, folder=folder, context=self._context)
        whole = self.own.student(base, self.dataset, self.dataset)
        open_source(cut_from, self.study, base, whole, self.dataset, self.emit)
        return cut_from


def open_without_teacher(study: Study, dataset: Dataset, emit: Emit) -> Beginning | None:
    """Where students begin that are not cut from the teacher or another single net.

    Args:
        study: The study.
        dataset: Its data.
        emit: Told of what takes long.

    Returns:
        None for those that are; see `cutting.open_cut`.

    Raises:
        UserError: As of `open_beginning`, or if peers would stay equal.
    """
    template = study.space.template
    if template is not None and not template.models and study.recipe.begin != "fresh":
        return None
    begins = open_beginning(study, dataset, emit)
    if template is None or not isinstance(begins, OwnPretrained):
        return begins
    refuse_peers(study)
    return CutFromNamed(study, dataset, emit, begins)
