"""The way a model is run forward: images at a time, and their layout in memory.

Of small pictures it does not matter much and is always the same. Of large ones on a CPU it decides
about speed and memory, and what is best depends on machine and model, so it is probed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

SMALL = 64
"""Largest side of pictures, in pixels, that are run as `WHOLE` without a probe."""
BATCHES = (16, 32, 64, 128, 500)
"""Numbers of images that are tried."""
MOST_BYTES = 64 << 20
"""Of the largest tensor within a forward pass. A pass holds some four of that size: the input and
the output of a layer, and copies of both in the layout that its kernel wants."""
GAIN = 1.05
"""How many times as fast a larger batch, or the other layout, must be to be taken."""
LONG_SECONDS = 0.5
"""Of a pass that is not timed a second time."""


class Inference(NamedTuple):
    """The way a model is run forward.

    Attributes:
        batch: Most images in one pass.
        channels_last: Whether weights, and with them images, have their channels last in memory.
    """

    batch: int
    channels_last: bool


WHOLE = Inference(500, False)
"""Of small pictures, and on a card."""

TimePass = Callable[[nn.Module, Tensor], float]
"""Runs a module on images; gives the seconds that a pass takes."""


def is_probed(images: Tensor) -> bool:
    """Whether the way to run images `[B, C, H, W]` is probed: large ones on a CPU."""
    return images.device.type == "cpu" and max(images.shape[-2:]) > SMALL


def set_layout(module: nn.Module, inference: Inference) -> None:
    """Gives a module's weights the layout, in place; their values stay."""
    layout = torch.channels_last if inference.channels_last else torch.contiguous_format
    module.to(memory_format=layout)


def has_channels_last(module: nn.Module) -> bool:
    """Whether the weights of a module's convolutions have their channels last."""
    kernels = [p for p in module.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def fastest_inference(
    module: nn.Module,
    image: Tensor,
    *,
    both_layouts: bool = False,
    time_pass: TimePass | None = None,
) -> Inference:
    """Times a few passes: the quickest per image wins, the smaller batch where two are as quick.

    Args:
        module: In eval mode; gives logits of uint8 images.
        image: One of those that it will see, uint8 `[1, C, H, W]`.
        both_layouts: Whether the other layout is tried too. The module is left in the layout that
            wins; without, it stays in its own. A module that learns must keep its own.
        time_pass: The clock; by default the shorter of two passes.

    Returns:
        `WHOLE` for small pictures and on a card, where nothing is timed.
    """
    if not is_probed(image):
        return WHOLE
    most = most_images(module, image)
    layouts = [has_channels_last(module)]
    both_layouts = both_layouts and _may_change_layout(module)
    if both_layouts:
        layouts = [False, True]
    best, seconds = Inference(1, layouts[0]), float("inf")
    for layout in layouts:
        if both_layouts:
            set_layout(module, Inference(1, layout))
        chosen, per_image = _fastest_batch(module, image, most, time_pass or _seconds)
        if per_image * GAIN < seconds:
            best, seconds = Inference(chosen, layout), per_image
    if both_layouts:
        set_layout(module, best)
    return best


def _may_change_layout(module: nn.Module) -> bool:
    """Whether it has planar convolutions, and no others, whose weights know no such layout."""
    planar = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    return planar and all(parameter.ndim <= 4 for parameter in module.parameters())


def most_images(module: nn.Module, image: Tensor) -> int:
    """Images in a pass whose largest tensor keeps `MOST_BYTES`, at least one.

    Args:
        module: In eval mode.
        image: uint8 `[1, C, H, W]`; the module is run on it once.
    """
    largest = 4 * image.numel()

    def look(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    handles = [layer.register_forward_hook(look) for layer in module.modules()]
    try:
        with torch.inference_mode():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    return max(1, MOST_BYTES // largest)


def _fastest_batch(
    module: nn.Module, image: Tensor, most: int, time_pass: TimePass
) -> tuple[int, float]:
    """A batch and its seconds per image: doubled for as long as that is faster."""
    best, seconds = 1, float("inf")
    for batch in _batches(most):
        per_image = time_pass(module, image.expand(batch, -1, -1, -1).contiguous()) / batch
        if per_image * GAIN >= seconds:
            break
        best, seconds = batch, per_image
    return best, seconds


def _batches(most: int) -> Iterator[int]:
    """Those of `BATCHES` that fit; the largest power of two that fits, where none does."""
    fitting = [batch for batch in BATCHES if batch <= most]
    yield from fitting or [1 << (most.bit_length() - 1)]


@torch.inference_mode()
def _seconds(module: nn.Module, images: Tensor) -> float:
    """The shorter of two passes, the first of which chooses kernels, in the process's own time.

    That is what counts where several processes share the cores, and others do not disturb it.
    """
    shortest = float("inf")
    for _ in range(2):
        start = time.process_time()
        module(images)
        shortest = min(shortest, time.process_time() - start)
        if shortest > LONG_SECONDS:
            break
    return shortest
