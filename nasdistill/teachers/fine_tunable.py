"""Pretrained classifiers with a head for other data, and their architectures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from nasdistill.common.class_names import match_classes
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import Dataset
from nasdistill.data.pictures import Preparation
from nasdistill.models import Classifier, build
from nasdistill.models.artifact import ModelSpec
from nasdistill.space import Architecture
from nasdistill.teachers.heads import all_heads, reorder_head, replace_head
from nasdistill.teachers.pretrained import Pretrained
from nasdistill.teachers.spec import parse
from nasdistill.teachers.teacher import KINDS, load_pretrained
from nasdistill.teachers.weights import weights_hash


@dataclass(frozen=True)
class FineTunable:
    """A pretrained classifier that gives the data's classes, not yet trained on them.

    Attributes:
        module: Normalises inside; takes images of the data's channels, at `spec.input`.
        spec: From which its module is built again.
        weights: The origin of its weights, in words.
        head: What became of its head, in words.
        weights_hash: Of the module as it is.
    """

    module: Classifier
    spec: ModelSpec
    weights: str
    head: str
    weights_hash: str

    def heads(self) -> list[nn.Module]:
        """The layers that give its logits; most have one."""
        return [head.layer for head in all_heads(self.module)]


def load_fine_tunable(
    text: str, weights: str | None, dataset: Dataset, size: int | None = None
) -> FineTunable:
    """Loads a pretrained classifier; gives it a head for the data's classes.

    A head that knows classes of the same names is kept, in the data's order; so is one of as many
    classes whose names are not known.

    Args:
        text: `torchvision:NAME`, `timm:NAME` or `transformers:NAME`, as `--teacher` takes them.
        weights: File with its weights; None for the library's own.
        dataset: The data.
        size: Pixels along each side where `text` names none; None for those that the weights were
            trained at.

    Raises:
        UserError: If it cannot be loaded, takes no such images, or cannot be written to a folder.
    """
    spec = parse(text, weights, "--from")
    if spec.kind not in KINDS or not spec.name:
        known = ", ".join(f"{kind}:NAME" for kind in KINDS)
        raise UserError(f"--from {text}: allowed are {known}, with ,weights=PATH and ,size=PIXELS")
    if spec.size is None:
        spec = replace(spec, size=size)
    pretrained = load_pretrained(spec, dataset)
    net, names, head = pretrained.net, pretrained.names, "its head is kept"
    matched = [] if names is None else match_classes(names, dataset.classes)
    order = [label for label in matched if label is not None]
    known_classes = all_heads(net)[-1].layer.weight.shape[0]
    if known_classes != len(dataset.classes) or len(order) != len(matched):
        replace_head(net, len(dataset.classes))
        head = f"a new head for {len(dataset.classes)} classes"
    elif order != sorted(order):
        reorder_head(net, order)
        head += ", its classes in the data's order"
    shape = Input(len(pretrained.mean), *pretrained.size)
    stored = dataset.preparation.stored
    architecture = Architecture(spec.kind, pretrained.values)
    _check_rebuilds(text, pretrained, architecture, shape, len(dataset.classes))
    module = Classifier(net, pretrained.mean, pretrained.std)
    way = Preparation(shape.channels, shape.size, stored, dataset.bits)
    model = ModelSpec(architecture, way, dataset.classes)
    return FineTunable(module, model, pretrained.weights, head, weights_hash(module))


def _check_rebuilds(
    text: str, pretrained: Pretrained, architecture: Architecture, shape: Input, classes: int
) -> None:
    """Before hours of training: the folder must be loadable by name, without the library's hub.

    Raises:
        UserError: If the architecture builds another network.
    """
    expected = {name: t.shape for name, t in pretrained.net.state_dict().items()}
    try:
        built = {n: t.shape for n, t in build(architecture, shape, classes).state_dict().items()}
    except UserError as error:
        raise UserError(f"--from {text}: cannot be built again without its hub: {error}") from None
    if built != expected:
        odd = next(iter(dict(built.items() ^ expected.items())), "")
        raise UserError(
            f"--from {text}: the library builds another network from its name alone (it differs in "
            f"{odd}); choose another model"
        )
