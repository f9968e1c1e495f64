"""The weights inside a checkpoint: which of its entries they are, and names without wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

AVERAGED_ENTRIES = (
    *("state_dict_ema", "ema_state_dict", "model_ema_state_dict", "model_ema", "ema_model"),
    *("ema", "ema_weights", "averaged_model", "swa_state_dict"),
)
"""Entries that hold an average of the weights over the training, in order of preference."""
ENTRIES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Entries that hold the weights themselves, in order of preference."""
DEEPEST = 4
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Parts of names that `torch.compile`, activation checkpointing and FSDP add."""


class Weights(NamedTuple):
    """The weights of a checkpoint.

    Attributes:
        tensors: By name.
        entry: Where in the checkpoint they are, such as `state_dict`; empty for the whole.
        left: Other entries of the checkpoint that hold weights, too.
    """

    tensors: dict[str, Tensor]
    entry: str
    left: tuple[str, ...]


def weights_in(content: Any) -> Weights | None:
    """Finds the weights in what `torch.save` wrote.

    An average over the training (EMA, SWA) is taken before the weights themselves, as timm does:
    it is what a training that keeps one evaluates. Else `ENTRIES` are looked through in order; else
    the one entry that holds tensors by name is taken, if there is but one.

    Args:
        content: As it was loaded.

    Returns:
        None where there are none.
    """
    entries = dict(_entries(content, "", DEEPEST))
    if not entries:
        return None
    ranked = [*AVERAGED_ENTRIES, *ENTRIES]
    known = [entry for name in ranked for entry in entries if name in entry.split(".")]
    if "" in entries:
        known = [""]
    if not known and len(entries) > 1:
        return None
    entry = known[0] if known else next(iter(entries))
    return Weights(entries[entry], entry, tuple(other for other in entries if other != entry))


def describe_content(content: Any) -> str:
    """What a file holds instead of weights, in a few words."""
    if not isinstance(content, dict):
        return f"found {type(content).__name__}"
    keys = ", ".join(f"{str(key)[:40]!r} ({type(v).__name__})" for key, v in content.items())
    return f"found {keys[:200]}" if keys else "found nothing"


def without_wrappers(name: str) -> str:
    """A tensor's name without what compiling and wrapping modules add to it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def is_averaged(entry: str) -> bool:
    """Whether an entry, or the beginning of names, is that of an average over the training."""
    parts = entry.lower().split(".")
    return any(part in AVERAGED_ENTRIES or part.startswith("ema_") for part in parts)


def _entries(content: Any, place: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All dicts of tensors by name within nested dicts, by their place."""
    if not isinstance(content, dict) or not depth:
        return
    if content and all(_is_weight(key, value) for key, value in content.items()):
        # An average counts its updates beside the weights.
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield place, tensors
        return
    for key, value in content.items():
        if isinstance(key, str) and not _is_optimizer(value):
            yield from _entries(value, f"{place}.{key}" if place else key, depth - 1)


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and (isinstance(value, Tensor) or key == "n_averaged")


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and {"state", "param_groups"} <= set(value)
