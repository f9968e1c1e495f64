"""Weights from a file into a module, and the hash that names a module's weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.teachers.heads import head_of, replace_head

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_WRAPPERS = ("module.", "net.", "model.")


@dataclass(frozen=True)
class Loaded:
    """The way in which weights of a file came into a module.

    Attributes:
        how: One sentence for the teacher's card.
        normalisation: Mean and standard deviation by channel, where the file brings its own.
    """

    how: str
    normalisation: Normalisation | None


def load_file(net: nn.Module, path: Path, name: str, *, any_classes: bool = True) -> Loaded:
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
) -> Loaded:
    """Loads a state dict into a module.

    Names must match. Where they do not, tensors are taken in order if the state dict keeps an
    order and their number, every shape and the last part of every name agree: then it is the same
    architecture written by another library.

    Args:
        net: Changed in place; its head follows the number of classes in `state`.
        state: Tensors by name.
        source: Where they come from, for messages and the card.
        name: Of the teacher, for messages.
        ordered: Whether the order of `state` is that of the module that wrote it.
        any_classes: Whether `state` may have another number of classes than `net`.

    Raises:
        UserError: If `state` belongs to another architecture.
    """
    bare, normalisation = _bare(state, net)
    bare = _modern(bare, net)
    in_order = ordered and set(bare) != set(net.state_dict()) and _agree_in_order(net, bare)
    if in_order:
        bare = dict(zip(net.state_dict(), bare.values(), strict=True))
    own, classes = _classes(net, net.state_dict()), _classes(net, bare)
    if own is not None and classes is not None and classes != own:
        if not any_classes:
            raise UserError(f"{source} has {classes} classes, but {name!r} was built for {own}")
        replace_head(net, classes)
    # Old files lack the counters of batch normalisation, which no answer depends on.
    ours = net.state_dict()
    counters = {k: v for k, v in ours.items() if k.endswith("num_batches_tracked")}
    load_weights(net, {**counters, **bare}, f"{source}, for {name}")
    file = Path(source).name
    if in_order:
        return Loaded(
            f"{file}, its {len(bare)} tensors taken in order: their names are another library's",
            normalisation,
        )
    return Loaded(f"{file}, by name", normalisation)


def weights_hash(module: nn.Module) -> str:
    """blake2b over a module's state dict: names, types, shapes and numbers; 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _bare(
    state: Mapping[str, Tensor], net: nn.Module
) -> tuple[dict[str, Tensor], Normalisation | None]:
    """Takes the names of wrappers off, and a classifier's own normalisation out."""
    state, normalisation, known = dict(state), None, set(net.state_dict())
    inner = [key for key in state if key not in ("mean", "std")]
    if len(inner) == len(state) - 2 and all(key.startswith("net.") for key in inner):
        mean, std = state.pop("mean"), state.pop("std")
        normalisation = (tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))
    for prefix in _WRAPPERS:
        if known != set(state) and state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, normalisation


def _modern(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Names as torchvision's models have them today, without heads that serve training alone."""
    if hasattr(net, "aux_logits"):  # GoogLeNet and Inception
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
    return {_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def _agree_in_order(net: nn.Module, state: Mapping[str, Tensor]) -> bool:
    expected = net.state_dict()
    if len(expected) != len(state):
        return False
    head = _head_names(net)
    return all(
        wanted.rpartition(".")[2] == found.rpartition(".")[2]
        and (target.shape == tensor.shape or wanted in head)
        for (wanted, target), (found, tensor) in zip(expected.items(), state.items(), strict=True)
    )


def _head_names(net: nn.Module) -> tuple[str, ...]:
    try:
        name, _ = head_of(net)
    except UserError:
        return ()
    return (f"{name}.weight", f"{name}.bias")


def _classes(net: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes of the head in a state dict of `net`; None where it cannot be told."""
    weight = next((state[name] for name in _head_names(net) if name in state), None)
    return None if weight is None else int(weight.shape[0])
