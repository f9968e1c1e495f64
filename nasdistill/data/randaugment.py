"""RandAugment as a part of the view: its operations are drawn from a counter.

An operation that moves pixels is a fixed map, and one that blends is counted in whole numbers: a
picture is the same in every batch and on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.data.counter import below, bits

STREAM = 16  # The first operation's; the next ones follow.
LARGEST_MAGNITUDE = 30
MOST_OPERATIONS = 8
FINE_BITS = 16
MOVES = ("shear-x", "shear-y", "translate-x", "translate-y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
OPERATIONS = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")


@dataclass(frozen=True)
class RandAugment:
    """A few operations, each drawn from fourteen, at one strength.

    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
    2020; operations and strengths as in torchvision.

    Attributes:
        operations: Number of operations, applied one after another.
        magnitude: Their strength, 0 to 30.

    Raises:
        UserError: If a number is out of range.
    """

    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        ranges = {"operations": (1, MOST_OPERATIONS), "magnitude": (0, LARGEST_MAGNITUDE)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(
                    f"rand_augment: {name} {getattr(self, name)} is out of range "
                    f"(allowed: {least} to {most})"
                )

    def draw(self, ids_B: Tensor, view: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws the operations of one view.

        Args:
            ids_B: int64, on any device.
            view: Number of the view.
            seed: Of the views.

        Returns:
            Indices into `OPERATIONS`, int64 `[operations, B]`, and whether each is applied the
            other way round (to the left, darker), bool `[operations, B]`.
        """
        drawn = torch.stack(
            [bits(ids_B, view, seed, 2, STREAM + step) for step in range(self.operations)], dim=1
        )
        return below(drawn[0], len(OPERATIONS)), drawn[1] < 0

    def apply(self, images_BCHW: Tensor, ids_B: Tensor, view: int, seed: int) -> Tensor:
        """Augments each example by its own operations.

        Args:
            images_BCHW: uint8, grey or RGB.
            ids_B: int64, the examples that these are.
            view: Number of the view.
            seed: Of the views.

        Returns:
            uint8 `[B, C, H, W]`.
        """
        operations, reverse = self.draw(ids_B, view, seed)
        # On the CPU: the sizes of the groups are needed here.
        groups = (2 * operations + reverse).cpu()
        for group_B in groups:
            order_B = torch.argsort(group_B, stable=True)
            back_B = torch.argsort(order_B).to(images_BCHW.device)
            counts = torch.bincount(group_B, minlength=2 * len(OPERATIONS)).tolist()
            parts = torch.split(images_BCHW[order_B.to(images_BCHW.device)], counts)
            done = [
                operate(
                    part, OPERATIONS[number // 2], -self.magnitude if number % 2 else self.magnitude
                )
                for number, part in enumerate(parts)
                if len(part)
            ]
            images_BCHW = torch.cat(done)[back_B]
        return images_BCHW


def operate(images_BCHW: Tensor, operation: str, magnitude: int) -> Tensor:
    """Applies one operation to all images.

    Args:
        images_BCHW: uint8, grey or RGB.
        operation: One of `OPERATIONS`.
        magnitude: -30 to 30; the sign says nothing to the last four operations.

    Returns:
        uint8 `[B, C, H, W]`.
    """
    from torchvision.transforms.v2 import functional

    strength = abs(magnitude) / LARGEST_MAGNITUDE
    if operation in MOVES:
        return _moved(images_BCHW, operation, magnitude)
    if operation in BLENDS:
        return _blended(images_BCHW, operation, magnitude)
    match operation:
        case "identity":
            return images_BCHW
        case "posterize":
            out = functional.posterize(images_BCHW, bits=8 - round(4 * strength))
        case "solarize":
            out = functional.solarize(images_BCHW, threshold=255 * (1 - strength))
        case "autocontrast":
            out = functional.autocontrast(images_BCHW)
        case _:
            assert operation == "equalize"
            out = functional.equalize(images_BCHW)
    assert isinstance(out, Tensor)
    return out


def _moved(images_BCHW: Tensor, operation: str, magnitude: int) -> Tensor:
    """Shears, translates or rotates; what comes in at the edge is black."""
    height, width = images_BCHW.shape[-2:]
    origin = _origins(operation, magnitude, height, width, images_BCHW.device)
    moved = images_BCHW.flatten(2)[..., origin.clamp(min=0)]
    return (moved * (origin >= 0)).view_as(images_BCHW)


@lru_cache(maxsize=64)
def _origins(
    operation: str, magnitude: int, height: int, width: int, device: torch.device
) -> Tensor:
    """The place that each pixel comes from: int64 `[H * W]`, -1 for outside.

    torchvision moves a picture of the pixels' numbers, once and on the CPU: rounding to the nearest
    pixel cannot then depend on the batch or the device.
    """
    from torchvision.transforms.v2 import functional

    strength = magnitude / LARGEST_MAGNITUDE
    # float32 holds the numbers exactly: 16 million pixels are more than any image here has.
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width)
    angle, center = 0.0, None
    translate, shear = [0.0, 0.0], [0.0, 0.0]
    axis = int(operation.endswith("-y"))
    if operation == "rotate":
        angle = -30 * strength  # `affine` turns clockwise, torchvision's RandAugment does not.
    elif operation.startswith("shear"):
        shear[axis] = math.degrees(math.atan(0.3 * strength))
        center = [0.0, 0.0]
    else:
        translate[axis] = float(int(150 / 331 * (width, height)[axis] * strength))
    moved: Tensor = functional.affine(numbers, angle, translate, 1.0, shear, center=center)
    return (moved.flatten().long() - 1).to(device)


def _blended(images_BCHW: Tensor, operation: str, magnitude: int) -> Tensor:
    """Moves images towards or away from their form without brightness, colour and so on.

    By hand, as torchvision cuts fractions off: less colour would darken what is grey already, and
    a product that is almost whole may come out one apart on another device.
    """
    if operation == "color" and images_BCHW.shape[1] == 1:
        return images_BCHW
    factor = round((1 + 0.9 * magnitude / LARGEST_MAGNITUDE) * (1 << FINE_BITS))
    without = _without(images_BCHW, operation)
    mixed = images_BCHW.int() * factor + without * ((1 << FINE_BITS) - factor)
    return ((mixed + (1 << (FINE_BITS - 1))) >> FINE_BITS).clamp(0, 255).to(torch.uint8)


def _without(images_BCHW: Tensor, operation: str) -> Tensor:
    """int32, broadcast to the images: black, their grey, its mean, or the blurred images."""
    if operation == "brightness":
        return images_BCHW.new_zeros((), dtype=torch.int32)
    if operation == "sharpness":
        return _blurred(images_BCHW.int())
    grey_B1HW = _grey(images_BCHW.int())
    if operation == "color":
        return grey_B1HW
    assert operation == "contrast"
    pixels = grey_B1HW[0].numel()
    total_B111 = grey_B1HW.sum(dim=(1, 2, 3), keepdim=True)
    return ((total_B111 + pixels // 2) // pixels).int()


def _grey(images_BCHW: Tensor) -> Tensor:
    """int32 `[B, 1, H, W]`: luma of ITU-R 601, as PIL rounds it."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW
    red, green, blue = torch.split(images_BCHW, 1, dim=1)
    luma: Tensor = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
    return luma


def _blurred(images_BCHW: Tensor) -> Tensor:
    """PIL's smoothing, int32 `[B, C, H, W]`: the centre weighs 5 of 13; edges stay as they are."""
    inner = images_BCHW[..., 1:-1, 1:-1]
    rows = images_BCHW[..., :-2, :] + images_BCHW[..., 1:-1, :] + images_BCHW[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    out = images_BCHW.clone()
    out[..., 1:-1, 1:-1] = (2 * total + 13) // 26
    return out
