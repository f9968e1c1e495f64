"""Where students begin: the hook through which those of every run get their first weights."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.common.types import Begin
from nasdistill.data import Dataset
from nasdistill.models import Classifier, build
from nasdistill.models.classifier import Kept
from nasdistill.models.counts import Counts, count_architecture
from nasdistill.models.initialised import initialise
from nasdistill.models.pretrained import inner_net, model_name
from nasdistill.models.pruned import FAMILY, build_base, whole_of
from nasdistill.models.pruned_space import smallest
from nasdistill.models.weights import load_weights
from nasdistill.recipe import Recipe
from nasdistill.results import keys
from nasdistill.space import Architecture, SearchSpace
from nasdistill.study import Study
from nasdistill.teachers.at_hand import own_weights
from nasdistill.teachers.heads import all_heads
from nasdistill.teachers.pretrained import Pretrained, from_timm, from_torchvision
from nasdistill.trials.spaces import check_limits

if TYPE_CHECKING:
    from nasdistill.trials.context import StudyContext

_LOADERS = {"timm": from_timm, "torchvision": from_torchvision}
_SHOWN = 30
"""Models that a message lists."""


class Beginning(ABC):
    """Where the students of a run get their first weights.

    Attributes:
        kind: Its name in recipes and results.
    """

    kind: ClassVar[Begin]

    @abstractmethod
    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """A student before its first step.

        What is drawn at random comes from torch's generator, which the caller has seeded.

        Args:
            architecture: The student's.
            images: Whose shape and classes it has.
            fed: The data that it learns from, with the normalisation of fresh students.
        """

    def kept(self, architecture: Architecture) -> Kept | None:
        """What a student has kept of the net that it was cut from; None where it was not."""
        return None

    def origin(self, architecture: Architecture) -> str:
        """Where a student's first weights come from, in words; empty for fresh ones."""
        return ""

    @property
    def identity(self) -> str:
        """What full runs that begin here have in common; empty for fresh ones."""
        return ""

    def at_work(self, context: StudyContext) -> None:  # noqa: B027
        """Takes the study's context, made later than this; for those that train something."""


class Fresh(Beginning):
    """Students whose weights are drawn at random."""

    kind = "fresh"

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `Beginning.student`."""
        net = build(architecture, images.input, len(images.classes))
        if architecture.family == FAMILY:
            base = whole_of(architecture)
            initialise(net, lambda: build_base(base, images.input, len(images.classes)))
        return Classifier(net, fed.mean, fed.std)


@dataclass(frozen=True)
class OwnPretrained(Beginning):
    """Students with the weights that their library, or a file, has for them.

    The head is new: its weights are drawn at random, as fresh ones are. Images are normalised as
    the weights expect it.

    Attributes:
        files: Files of weights by model; the others' come from their library.
        origins: Where the weights of each model come from, in words.
        identity: See `Beginning.identity`.
    """

    kind: ClassVar[Begin] = "pretrained"
    files: Mapping[str, Path] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    identity: str = "pretrained"

    def student(self, architecture: Architecture, images: Dataset, fed: Dataset) -> Classifier:
        """See `Beginning.student`.

        Raises:
            UserError: If the weights cannot be had, or do not fit.
        """
        net = build(architecture, images.input, len(images.classes))
        model = str(architecture.values["model"])
        known = weights_of(model, self.files.get(model), images.input.height)
        _take_over(inner_net(net), known.net, model)
        return Classifier(net, known.mean, known.std)

    def origin(self, architecture: Architecture) -> str:
        """See `Beginning.origin`."""
        model = str(architecture.values["model"])
        return f"{model} ({self.origins[model]})" if model in self.origins else model


def weights_of(model: str, file: Path | None, pixels: int) -> Pretrained:
    """A net of a library with its own weights, or a file's; not to be changed.

    Args:
        model: `timm:NAME` or `torchvision:NAME`.
        file: safetensors, or a `torch.save`d state dict; None for the library's.
        pixels: Side of the images.

    Raises:
        UserError: If the weights cannot be had, or are another model's.
    """
    try:
        library, name = model_name(model)
    except ValueError as error:
        raise UserError(str(error)) from None
    mtime_ns = file.stat().st_mtime_ns if file is not None and file.is_file() else 0
    return _loaded(library, name, file, pixels, mtime_ns)


@lru_cache(maxsize=2)  # a trial builds its student several times
def _loaded(library: str, name: str, file: Path | None, pixels: int, mtime_ns: int) -> Pretrained:
    """See `weights_of`; `written` tells a file that has changed from what it was."""
    return _LOADERS[library](name, file, pixels)


def _take_over(net: nn.Module, known: nn.Module, model: str) -> None:
    """Loads all weights of `known` but those of its heads, whose classes are others."""
    heads = tuple(f"{head.name}." for head in all_heads(net))
    own = {name: value for name, value in net.state_dict().items() if name.startswith(heads)}
    load_weights(net, {**known.state_dict(), **own}, f"the pretrained weights of {model}")


def open_beginning(study: Study, dataset: Dataset, emit: Emit) -> Fresh | OwnPretrained:
    """Finds where a study's students begin, and sees that the weights of all of them can be had.

    Of cuts of named nets it says where those begin.

    Args:
        study: The study; what its students begin with is stored there once.
        dataset: Its data.
        emit: Told of what takes long.

    Raises:
        UserError: If weights cannot be had or have changed since the study was made.
    """
    recipe, space = study.recipe, study.space
    if recipe.begin != "pretrained":
        return Fresh()
    stored = study.get_or_measure(keys.FIRST_WEIGHTS, lambda: _gather(recipe, space, dataset, emit))
    for model, before in stored.items():
        now = _origin_of_file(space.weights[model]) if model in space.weights else None
        if (now or before) != before or ((now is None) and before.startswith(_FILE)):
            raise UserError(
                f"study {study.folder.name!r}: the weights of {model} are not those that it was "
                f"made with: was {before}, now {now or 'those of its library'}. Put the file back "
                f"under weights: in {recipe.space_name}, or give another --study NAME"
            )
    return OwnPretrained(space.weights, stored, f"pretrained {sorted(stored.items())}")


_FILE = "file "


def _origin_of_file(path: Path) -> str:
    """A file of weights in words that change with its content.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
    except OSError as error:
        raise UserError(f"weights: {path} cannot be read ({error.strerror})") from None
    return f"{_FILE}{path.name}, {digest}"


def _gather(recipe: Recipe, space: SearchSpace, dataset: Dataset, emit: Emit) -> dict[str, str]:
    """The origin of each model's weights; those that do not lie here are fetched.

    Raises:
        UserError: If some cannot be had; the message names all of them.
    """
    models = _needed(recipe, space, dataset, emit)
    emit(Event("stage", f"pretrained weights of {len(models)} students", stage="teacher"))
    away = [m for m in models if m not in space.weights and own_weights(m).file is None]
    if away:
        text = f"{len(away)} of them do not lie here and are fetched: {', '.join(away)}"
        emit(Event("note", text, stage="teacher"))
    pixels, origins = dataset.input.height, dict[str, str]()
    for model in [m for m in models if m not in away]:
        file = space.weights.get(model)
        known = weights_of(model, file, pixels)
        origins[model] = known.weights if file is None else _origin_of_file(file)
    while away:
        try:
            origins[away[0]] = weights_of(away[0], None, pixels).weights
        except UserError as error:  # without a connection each further try takes a minute
            raise _cannot_be_had(recipe, away, list(origins), str(error)) from None
        away.pop(0)
    return origins


def _needed(recipe: Recipe, space: SearchSpace, dataset: Dataset, emit: Emit) -> list[str]:
    """The models of a space that students can be of: those that keep the limits that are named.

    Assistants may be larger; and a model that cannot take the images is never built.
    """
    limits = {"params": recipe.max_params, "macs": recipe.max_macs, "bytes": recipe.max_bytes}
    if recipe.iterate is not None and recipe.iterate.assistants is not None:
        limits = {}
    needed, unfit, all_counts = list[str](), list[str](), list[Counts]()
    for model, architecture in _smallest_by_model(space).items():
        try:
            counts = count_architecture(architecture, dataset.input, len(dataset.classes))
        except UserError:
            unfit.append(model)
            continue
        all_counts.append(counts)
        if all(limit is None or getattr(counts, cost) <= limit for cost, limit in limits.items()):
            needed.append(model)
    if unfit:
        size = f"{dataset.input.height}x{dataset.input.width}"
        text = f"images of {size} are too small for {', '.join(unfit)}: trials of these will fail"
        emit(Event("warning", f"{text}; --image-size makes them larger", stage="teacher"))
    if all_counts and not needed:
        check_limits(recipe, space.name, all_counts)
    return needed


def _smallest_by_model(space: SearchSpace) -> dict[str, Architecture]:
    """The smallest architecture of each model: its cut, or the whole net."""
    if space.template is None:
        return {model: Architecture(space.family, {"model": model}) for model in space.models}
    return dict(zip(space.models, smallest(space), strict=True))


def _cannot_be_had(
    recipe: Recipe, away: Sequence[str], models_here: Sequence[str], reason: str
) -> UserError:
    """The refusal that says which files to bring where, or how to do without them."""
    files = "\n".join(f"  {model}: {own_weights(model).address}" for model in away[:_SHOWN])
    example = f"weights: {{{away[0]!r}: FILE}}"
    narrowed = f"model: {{choice: {list(models_here)}}}"
    others = (
        f"To search those whose weights lie here, narrow the space to {narrowed}."
        if models_here
        else "No other model of the space has its weights here."
    )
    return UserError(
        f"the space {recipe.space_name!r}: the pretrained weights of {len(away)} of its models do "
        f"not lie here and could not be fetched ({_reason(reason)}):\n{files}\nBring these files "
        "from a machine that has a connection, and name them in a YAML file of your own for "
        f"--space (a copy of the space, with a key such as {example}). {others} --begin fresh "
        "needs no weights"
    )


def _reason(message: str) -> str:
    """What went wrong, without the advice for teachers."""
    words = message.partition(" Check the name and the connection")[0]
    return words.removeprefix("the pretrained weights of ")
