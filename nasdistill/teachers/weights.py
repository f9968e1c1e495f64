"""Weights from a file into a module, and the hash that names a module's weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.teachers.heads import head_of, replace_head

_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_WRAPPERS = ("module.", "net.", "model.")


class Normalisation(NamedTuple):
    """Mean and standard deviation by channel, of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class LoadedWeights:
    """The outcome of loading weights into a module.

    Attributes:
        description: One sentence for the teacher's card.
        normalisation: The file's own; None where it has none.
    """

    description: str
    normalisation: Normalisation | None


def load_file(net: nn.Module, path: Path, name: str, *, any_classes: bool = True) -> LoadedWeights:
    """Loads a weights file into a module.

    Args:
        net: Changed in place; its head follows the file's number of classes.
        path: safetensors, or a `torch.save`d state dict that reads with `weights_only=True`.
        name: Of the teacher, for messages.
        any_classes: Whether the file may have another number of classes than `net`.

    Raises:
        UserError: If the file cannot be read safely, or holds another architecture.
    """
    state = read_weights(path)
    ordered = path.suffix != ".safetensors"  # which sorts its tensors
    return load_state(net, state, str(path), name, ordered=ordered, any_classes=any_classes)


def load_state(
    net: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    name: str,
    *,
    ordered: bool = False,
    any_classes: bool = True,
) -> LoadedWeights:
    """Loads a state dict into a module.

    Names must match. Where they do not, tensors are taken in order if the state dict keeps an
    order and their number, every shape and the last part of every name agree: then it is the same
    architecture written by another library.

    Args:
        net: Changed in place; its head follows the number of classes in `state`.
        state: Tensors by name.
        source: Their origin, for messages and the card.
        name: Of the teacher, for messages.
        ordered: Whether the order of `state` is that of the module that wrote it.
        any_classes: Whether `state` may have another number of classes than `net`.

    Raises:
        UserError: If `state` belongs to another architecture.
    """
    normalisation, state = _own_normalisation(state), _without_wrappers(state, net)
    state = _with_present_names(state, net)
    in_order = ordered and set(state) != set(net.state_dict()) and _agree_in_order(net, state)
    if in_order:
        state = dict(zip(net.state_dict(), state.values(), strict=True))
    built, classes = _classes(net, net.state_dict()), _classes(net, state)
    if built is not None and classes is not None and classes != built:
        if not any_classes:
            raise UserError(f"{source} has {classes} classes, but {name!r} was built for {built}")
        replace_head(net, classes)
    # Old files lack the counters of batch normalisation, which no logit depends on.
    initial = net.state_dict()
    counters = {k: v for k, v in initial.items() if k.endswith("num_batches_tracked")}
    load_weights(net, {**counters, **state}, f"{source}, for {name}")
    description = f"{Path(source).name}, by name"
    if in_order:
        description = (
            f"{Path(source).name}, its {len(state)} tensors taken in order: their names are "
            "another library's"
        )
    return LoadedWeights(description, normalisation)


def weights_hash(module: nn.Module) -> str:
    """blake2b over a module's state dict: names, types, shapes and numbers; 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_classifier(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a `Classifier`, which normalises inside."""
    inner = [key for key in state if key not in ("mean", "std")]
    return len(inner) == len(state) - 2 and all(key.startswith("net.") for key in inner)


def _own_normalisation(state: Mapping[str, Tensor]) -> Normalisation | None:
    if not _is_classifier(state):
        return None
    mean, std = state["mean"], state["std"]
    return Normalisation(tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))


def _without_wrappers(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The same tensors without the prefixes of wrappers, and without a classifier's own mean."""
    excluded = ("mean", "std") if _is_classifier(state) else ()
    state, names = {k: v for k, v in state.items() if k not in excluded}, set(net.state_dict())
    for prefix in _WRAPPERS:
        if names != set(state) and state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _with_present_names(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Names as torchvision's models have them today, without heads that serve training alone."""
    if hasattr(net, "aux_logits"):  # GoogLeNet and Inception
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
    return {_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def _agree_in_order(net: nn.Module, state: Mapping[str, Tensor]) -> bool:
    expected = net.state_dict()
    if len(expected) != len(state):
        return False
    head = _head_names(net)
    pairs = zip(expected.items(), state.items(), strict=True)
    return all(
        name.rpartition(".")[2] == other_name.rpartition(".")[2]
        and (target.shape == tensor.shape or name in head)
        for (name, target), (other_name, tensor) in pairs
    )


def _head_names(net: nn.Module) -> tuple[str, ...]:
    try:
        name, _ = head_of(net)
    except UserError:
        return ()
    return (f"{name}.weight", f"{name}.bias")


def _classes(net: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes of the head in a state dict of `net`; None where it is not known."""
    weight = next((state[name] for name in _head_names(net) if name in state), None)
    return None if weight is None else int(weight.shape[0])
