"""Checkpoints of runs: written whole, and checked before anything of them is taken over."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nasdistill.common.errors import DamagedFileError
from nasdistill.common.files import set_aside, write_whole

if TYPE_CHECKING:
    from nasdistill.training.run import Run

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""Tensors that AdamW keeps of each parameter."""


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes tensors and plain values so that the file is either old or new, never half."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a file that `write_checkpoint` wrote, without running anybody's code.

    Returns:
        Tensors, on the CPU, and plain values by name.

    Raises:
        DamagedFileError: If it cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # Broken bytes make the unpickler raise nearly anything.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedFileError(
            str(path), f"cut off, or not a checkpoint ({reason[:200]})"
        ) from None
    if not isinstance(content, dict):
        raise DamagedFileError(str(path), "not a checkpoint (it holds no tensors by name)")
    return content


def modules_problem(modules: Mapping[str, nn.Module], state: Mapping[str, Any]) -> str:
    """What keeps modules from taking over a checkpoint's tensors, in words; empty if nothing."""
    for name, module in modules.items():
        stored, own = state.get(name), module.state_dict()
        if not isinstance(stored, dict) or set(stored) != set(own):
            return f"its {name} are those of another run"
        for key, value in own.items():
            other = stored[key]
            if type(other) is not type(value) or (
                isinstance(value, Tensor) and other.shape != value.shape
            ):
                return f"its {name} are those of another run ({key} differs)"
    return ""


def optimizer_problem(optimizer: torch.optim.Optimizer, stored: Any) -> str:
    """What keeps an optimiser from taking over a checkpoint's moments; empty if nothing."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = stored.get("state") if isinstance(stored, dict) else None
    if not isinstance(moments, dict):
        return "it holds no state of the optimiser"
    for index, values in moments.items():
        if type(index) is not int or not 0 <= index < len(parameters):
            return "its optimiser has other parameters"
        if not isinstance(values, dict) or set(values) != MOMENTS:
            return f"its optimiser lacks the moments of parameter {index}"
        shape = parameters[index].shape
        expected = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
        for name, tensor in values.items():
            if not isinstance(tensor, Tensor) or tensor.shape != expected[name]:
                return f"the {name} of its optimiser's parameter {index} has another shape"
    return ""


def go_on_from(run: Run, path: Path, warn: Callable[[str], None]) -> None:
    """Has a fresh run go on from its checkpoint, where there is one that is whole and its own.

    Any other is set aside under another name, and the run begins again.

    Args:
        run: As it was made; left so where nothing can be taken over.
        path: The checkpoint.
        warn: Told what is wrong with it.
    """
    if not path.exists():
        return
    try:
        run.restore(path)
    except DamagedFileError as error:
        aside = set_aside(path)
        warn(f"{error}; it was put aside as {aside.name}, and this run begins again")
