"""Limits of what a file from elsewhere may ask for, checked before any memory is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.families import FAMILIES, build
from nasdistill.space import Architecture

LARGEST_SIDE = 65_536
"""Pixels of an image's side."""
MOST_CHANNELS = 1024
LARGEST_IMAGE = 1 << 26
"""Numbers of an image: channels · height · width."""
MOST_CLASSES = 1_000_000
MOST_PARAMETERS = 1_000_000_000
"""Parameters of a module that is built from an architecture.json: 4 GB in fp32."""
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

    A family of the user's own file is not checked: its code is the user's.

    Args:
        architecture: From a file that anybody may have written.
        input: The image.
        classes: Number of logits.
        source: The file, for messages.

    Returns:
        The module on the meta device, without weights; None for a family of the user's own.

    Raises:
        UserError: If the module cannot be built, has more than `MOST_PARAMETERS` parameters, or a
            layer that gives more than `LARGEST_OUTPUT` numbers.
    """
    problem = image_problem(input.channels, input.height, input.width)
    if not problem and not 1 <= classes <= MOST_CLASSES:
        problem = f"found {classes:,} classes, allowed: 1 to {MOST_CLASSES:,}"
    if problem:
        raise UserError(f"{source}: {problem}")
    if architecture.family not in FAMILIES:
        return None
    with torch.device("meta"):
        module = build(architecture, input, classes).eval()
    params = sum(parameter.numel() for parameter in module.parameters())
    if params > MOST_PARAMETERS:
        raise UserError(
            f"{source}: its architecture has {params:,} parameters; allowed are at most "
            f"{MOST_PARAMETERS:,}"
        )
    widest = max((p.shape[0] for p in module.parameters() if p.ndim > 1), default=1)
    # No layer gives more than this, padding included; to count exactly takes a second.
    if 4 * widest * input.height * input.width > LARGEST_OUTPUT:
        _check_outputs(module, input, source)
    return module


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
