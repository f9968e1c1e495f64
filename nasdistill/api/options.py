"""Numbers that callers give beside a recipe, and the limits that hold for them."""

from __future__ import annotations

from nasdistill.common.errors import UserError

MOST_THREADS = 256
MOST_BATCH = 16_384
MOST_SIDE = 1024
"""Of an image, in pixels."""
MOST_CLASSES = 100_000
MOST_EPOCHS = 10_000
MOST_TRIALS = 10_000
"""That are audited."""
LARGEST_SEED = 2**32 - 1
SMALLEST_RATE, LARGEST_RATE = 1e-8, 10.0
"""Of learning."""


def check_number(option: str, value: float, least: float, most: float) -> None:
    """Refuses a number that is out of its range.

    Args:
        option: Its name, as in Python or as a flag without dashes.
        value: What was given.
        least: The smallest that is allowed.
        most: The largest.

    Raises:
        UserError: If it is not allowed, or is no number (NaN).
    """
    if not least <= value <= most:
        flag = option.replace("_", "-")
        raise UserError(f"--{flag}: found {value}; must be from {least:,} to {most:,}")


def check_shape(size: int, channels: int, classes: int) -> None:
    """Refuses an input that no model of ours takes, or more classes than one can tell apart.

    Raises:
        UserError: If one of them is out of its range.
    """
    check_number("size", size, 1, MOST_SIDE)
    if channels not in (1, 3):
        raise UserError(f"--channels: found {channels}; must be 1 (grey) or 3 (RGB)")
    check_number("classes", classes, 1, MOST_CLASSES)
