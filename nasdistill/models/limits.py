"""Limits of what a file from elsewhere may ask for, checked before any memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.families import FAMILIES, build
from nasdistill.models.pruned import has_imported_base
from nasdistill.space import Architecture

LARGEST_SIDE = 65_536
"""Pixels of an image's side."""
MOST_CHANNELS = 1024
LARGEST_IMAGE = 1 << 26
"""Numbers of an image: channels · height · width."""
MOST_CLASSES = 1_000_000
MOST_PARAMETERS = 1_000_000_000
"""Parameters of a module that is built from a file, or by a family: 4 GB in fp32."""
MOST_TENSORS = 20_000
"""Tensors that these are in: each takes time and memory to make, whatever its size."""
LARGEST_OUTPUT = 1 << 30
"""Numbers that a layer of it may give for one image."""


def image_problem(channels: Any, height: Any, width: Any) -> str:
    """What is wrong with the shape of an image, in words; empty if nothing is."""
    sides = {"channels": (channels, MOST_CHANNELS), "height": (height, LARGEST_SIDE)}
    for name, (value, most) in (sides | {"width": (width, LARGEST_SIDE)}).items():
        if type(value) is not int or not 1 <= value <= most:
            return f"{name}: found {str(value)[:80]}, allowed: a whole number from 1 to {most:,}"
    if channels * height * width > LARGEST_IMAGE:
        return (
            f"an image of {channels}x{height}x{width} has {channels * height * width:,} numbers; "
            f"allowed are at most {LARGEST_IMAGE:,}"
        )
    return ""


def check_size(
    architecture: Architecture, input: Input, classes: int, source: str
) -> nn.Module | None:
    """Builds an architecture on the meta device and checks what it would take.

    Of a family of the user's own file its parameters alone are checked, where it can be built on
    that device: its code is the user's, its values may come from a space or a file.

    Args:
        architecture: From a file that anybody may have written.
        input: The image.
        classes: Number of logits.
        source: The file, for messages.

    Returns:
        The module on the meta device, without weights; None for a family of the user's own.

    Raises:
        UserError: If the module cannot be built, has more than `MOST_PARAMETERS` parameters, or a
            layer that gives more than `LARGEST_OUTPUT` numbers or none.
    """
    problem = image_problem(input.channels, input.height, input.width)
    if not problem and not 1 <= classes <= MOST_CLASSES:
        problem = f"found {classes:,} classes, allowed: 1 to {MOST_CLASSES:,}"
    if problem:
        raise UserError(f"{source}: {problem}")
    own = architecture.family not in FAMILIES or has_imported_base(architecture)
    try:
        with torch.device("meta"), bounded(source):
            module = build(architecture, input, classes).eval()
    except TooLargeError:
        raise
    except UserError:
        if own:  # built without that device it may do, or tell of what is wrong
            return None
        raise
    check_parameters(module, source)
    if own:
        return None
    widest = max((p.shape[0] for p in module.parameters() if p.ndim > 1), default=1)
    # No layer gives more than this, padding included; to count exactly takes a second.
    if 4 * widest * input.height * input.width > LARGEST_OUTPUT:
        _check_outputs(module, input, source)
    return module


class TooLargeError(UserError):
    """A module is larger than what may be built."""


@contextmanager
def bounded(source: str) -> Iterator[None]:
    """Ends the building of a module on the meta device that does not end: its layers take memory.

    Args:
        source: What describes the module, for messages.

    Raises:
        TooLargeError: If its parameters get to be in more than `MOST_TENSORS` tensors.
    """
    tensors = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal tensors
        tensors += parameter is not None
        if tensors > MOST_TENSORS:
            raise TooLargeError(
                f"{source}: its architecture has more than {MOST_TENSORS:,} tensors of parameters, "
                "which is the most that is allowed"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_parameters(module: nn.Module, source: str) -> None:
    """Checks a module's parameters, which may be on the meta device.

    Args:
        module: The module.
        source: What describes it, for messages.

    Raises:
        UserError: If there are more than `MOST_PARAMETERS`, or a layer has a width of 0.
    """
    sizes = {name: p.numel() for name, p in module.named_parameters() if not is_lazy(p)}
    params = sum(sizes.values())
    if params > MOST_PARAMETERS:
        raise UserError(
            f"{source}: its architecture has {params:,} parameters; allowed are at most "
            f"{MOST_PARAMETERS:,}"
        )
    empty = next((name for name, size in sizes.items() if not size), None)
    if empty is not None:
        raise UserError(f"{source}: a width of 0: {empty} of its architecture has no numbers")


def _check_outputs(module: nn.Module, input: Input, source: str) -> None:
    """Runs a module on the meta device, up to a layer whose output is too large.

    Raises:
        UserError: Naming the size.
    """
    size = f"{input.channels}x{input.height}x{input.width}"

    def check(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.numel() > LARGEST_OUTPUT:
            raise UserError(
                f"{source}: on images of {size} a layer of its architecture gives "
                f"{output.numel():,} numbers; allowed are at most {LARGEST_OUTPUT:,}"
            )

    handles = [layer.register_forward_hook(check) for layer in module.modules()]
    try:
        with torch.no_grad():
            module(torch.empty(1, input.channels, *input.size, device="meta"))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: it cannot take images of {size} ({reason})") from None
    finally:
        for handle in handles:
            handle.remove()
