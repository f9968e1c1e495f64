"""Weights by name: read without running anybody's code, and loaded into a module."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.models.checkpoints import (
    AVERAGED_ENTRIES,
    ENTRIES,
    Weights,
    describe_content,
    weights_in,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads tensors by name; see `read_checkpoint`."""
    return read_checkpoint(path).tensors


def read_checkpoint(path: Path) -> Weights:
    """Reads weights from safetensors, or from a `torch.save` file without code in it.

    Of a checkpoint that holds more, see `checkpoints.weights_in`.

    Raises:
        UserError: If the file is missing, truncated, or a pickle that would run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path), "", ())
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            if _is_pickle(path):
                raise pickle_refused(f"{path}: not safetensors, but") from None
            raise UserError(f"{path}: truncated, or not safetensors ({error})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Broken bytes make the unpickler raise nearly anything.
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise pickle_refused(f"{path}:") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: truncated, or not a file of weights ({reason})") from None
    weights = weights_in(content)
    if weights is None:
        description = describe_content(content)
        raise UserError(
            f"{path}: holds no state_dict (tensors by name), or several of which none has a known "
            f"name ({', '.join(ENTRIES)}, {', '.join(AVERAGED_ENTRIES)}); {description}"
        )
    return weights


def pickle_refused(source: str) -> UserError:
    """The refusal of a pickle that could run code, in the same words wherever one turns up.

    Args:
        source: The beginning of the message, which names the file.
    """
    return UserError(
        f"{source} a pickle that holds more than tensors; it is not loaded, because it could run "
        "code. Save a state_dict, best as safetensors"
    )


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as `torch.save` or `pickle.dump` begin one."""
    with open(path, "rb") as file:
        head = file.read(4)
    return head == b"PK\x03\x04" or head[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Loads tensors into a module, all of them and no others.

    Args:
        module: The module.
        weights: Tensors by name; half precision is widened.
        source: Their name in errors.

    Raises:
        UserError: As of `check_weights`.
    """
    check_weights(module, weights, source)
    state = module.state_dict()
    module.load_state_dict({k: v.to(state[k].dtype) for k, v in weights.items()})


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Checks that tensors are those of a module, which may be on the meta device.

    Args:
        module: The module.
        weights: Tensors by name.
        source: Their name in errors.

    Raises:
        UserError: Naming what is missing, what is too much, and which shapes differ.
    """
    state = module.state_dict()
    missing = [k for k in state if k not in weights]
    extra = [k for k in weights if k not in state]
    shapes = [
        f"{k} is {tuple(weights[k].shape)}, expected {tuple(state[k].shape)}"
        for k in state
        if k in weights and weights[k].shape != state[k].shape
    ]
    problems = [("missing", missing), ("unknown", extra), ("other shapes", shapes)]
    reasons = [
        f"{kind}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for kind, keys in problems
        if keys
    ]
    if reasons:
        raise UserError(
            f"{source}: weights of another architecture or other classes ({'; '.join(reasons)})"
        )
