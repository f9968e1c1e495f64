"""How much the channels of a net matter, judged on a few images, and the files of a cut."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, with_signs_of_life
from nasdistill.common.files import set_aside, write_whole
from nasdistill.data import Dataset
from nasdistill.models import Classifier
from nasdistill.models.importance import Scores, importance
from nasdistill.models.pruning import Structure
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.study import Study

LOOKED_AT = 320
"""Training images by which channels are judged, and batch norm is estimated anew."""
BATCH = 32


def channel_scores(
    path: Path,
    study: Study,
    whole: Classifier,
    structure: Structure,
    dataset: Dataset,
    emit: Emit,
) -> Scores:
    """How much each channel of a net matters, measured once and kept in a file.

    Args:
        path: The file; a damaged one is put aside.
        study: Says by which measure.
        whole: The net, normalisation inside; not changed.
        structure: What can be cut from it.
        dataset: The study's.
        emit: Told of what takes long.
    """
    sizes = {name: (group.size,) for name, group in structure.groups.items() if not group.fixed}
    path.parent.mkdir(parents=True, exist_ok=True)
    with study.files.making(path):
        stored = read_tensors(path, emit)
        if stored is not None and {k: tuple(v.shape) for k, v in stored.items()} == sizes:
            return stored
        net: nn.Module = copy.deepcopy(whole)  # gradients would stay with the teacher
        assert isinstance(net, Classifier)
        batches = looked_at_batches(dataset, dataset.input.size)
        if not dataset.has_training:  # no label of the score half may enter
            batches = ((images, net(images).argmax(dim=1)) for images, _ in batches)
        looked_at = min(LOOKED_AT, len(dataset.sample))
        batches = with_signs_of_life(batches, "judging channels", "teacher", looked_at, emit, BATCH)
        scores = importance(study.recipe.importance, net.net, structure, batches, net)
        write_tensors(path, scores)
        return scores


def looked_at_batches(
    dataset: Dataset, size: tuple[int, int], skipped: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images and their labels, the same ones whenever they are asked for.

    Batches are of nearly equal size: all count alike, and one image has no variance on a 1×1 map.

    Args:
        dataset: The study's.
        size: Of the images, in pixels.
        skipped: So many others are left out before them, where there are more than these.
    """
    generator = torch.Generator().manual_seed(0)
    split = dataset.sample
    order = torch.randperm(len(split), generator=generator)
    ids = order[skipped if skipped < len(order) else 0 :][:LOOKED_AT]
    parts = ids.tensor_split(-(-len(ids) // BATCH))
    for batch in split.batches([(part, None) for part in parts], size):
        yield batch.images, batch.labels


def read_step(path: Path, student: Classifier, emit: Emit) -> bool:
    """Loads a step's weights, if they are there."""
    weights = read_tensors(path, emit)
    if weights is None:
        return False
    try:
        load_weights(student, weights, str(path))
    except UserError as error:
        _put_aside(path, str(error), emit)
        return False
    return True


def read_tensors(path: Path, emit: Emit) -> dict[str, Tensor] | None:
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


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors as safetensors, whole or not at all."""
    from safetensors.torch import save

    content = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    write_whole(path, save(content))
