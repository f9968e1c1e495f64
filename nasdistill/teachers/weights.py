"""Weights from a file into a module, and the hash that names a module's weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.models.checkpoints import is_averaged, without_wrappers
from nasdistill.models.weights import load_weights, read_checkpoint
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
    weights = read_checkpoint(path)
    ordered = path.suffix != ".safetensors"  # which sorts its tensors
    loaded = load_state(
        net, weights.tensors, str(path), name, ordered=ordered, any_classes=any_classes
    )
    if not weights.entry:
        return loaded
    average = " (averaged over the training)" if is_averaged(weights.entry) else ""
    left = f", not {', '.join(map(repr, weights.left))}" if weights.left else ""
    description = f"{loaded.description}; its {weights.entry!r}{average}{left}"
    return replace(loaded, description=description)


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
    state = _unwrapped(state, net)
    normalisation, state = _own_normalisation(state), _without_prefixes(state, net)
    state, averaged = _average_or_only(state, net)
    state = _with_names_of(net, _with_present_names(state, net))
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
    description = f"{Path(source).name}, by name{averaged}"
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


def _unwrapped(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The same tensors without what compiling, wrapping and averaging modules add to names."""
    names = _plain_names(net)
    entries = {k: v for k, v in state.items() if k != "n_averaged" or k in names}
    return _stripped({without_wrappers(k): v for k, v in entries.items()}, names, ("module.",))


def _without_prefixes(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The same tensors without prefixes that all have, nor a classifier's own mean."""
    excluded = ("mean", "std") if _is_classifier(state) else ()
    inner = {k: v for k, v in state.items() if k not in excluded}
    return _stripped(inner, _plain_names(net), _WRAPPERS)


def _stripped(
    state: dict[str, Tensor], names: Mapping[str, str], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """The same tensors without prefixes that all have, as long as their names are not `names`."""
    while state and names.keys() != state.keys():
        shared = [p for p in prefixes if all(key.startswith(p) for key in state)]
        if not shared:
            break
        state = {key.removeprefix(shared[0]): value for key, value in state.items()}
    return state


def _average_or_only(state: Mapping[str, Tensor], net: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Of several networks side by side the averaged one, else the only one that has all names.

    Returns:
        Its tensors, and a remark for the card.
    """
    names = [name for name in _plain_names(net) if not name.endswith("num_batches_tracked")]
    if not names or set(names) <= set(state):
        return dict(state), ""
    ends = (key.removesuffix(names[0]) for key in state if key.endswith(f".{names[0]}"))
    places = [place for place in ends if all(f"{place}{name}" in state for name in names)]
    averaged = [place for place in places if is_averaged(place.rstrip("."))]
    alone = all(key.startswith(places[0]) for key in state) if places else True
    if alone or (not averaged and len(places) != 1):
        return dict(state), ""
    place = (averaged or places)[0]
    inner = {k.removeprefix(place): v for k, v in state.items() if k.startswith(place)}
    return inner, f", those that begin with {place!r}"


def _plain_names(net: nn.Module) -> dict[str, str]:
    """The names of a module's tensors, by what they are without wrappers."""
    return {without_wrappers(name): name for name in net.state_dict()}


def _with_names_of(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of `net`, of which parts may be compiled or wrapped."""
    names = _plain_names(net)
    names = {_without_module(plain): name for plain, name in names.items()} | names
    return {names.get(k) or names.get(_without_module(k)) or k: v for k, v in state.items()}


def _without_module(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "module")


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
