"""Numbers as short text, for the terminal and the report. Escaping is up to the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"


def count(value: float | None) -> str:
    """A number of things in three digits: `812`, `81.2k`, `1.05M`."""
    if value is None:
        return NONE
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """A number of bytes: `325 kB`; powers of 1000."""
    if value is None:
        return NONE
    text = count(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1] in "kMG" else f"{text} B"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as per cent: `90.6 %`."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """Two shares in [0, 1]: `89.8–91.4 %`."""
    return NONE if not bounds else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f} %"


def milliseconds(value: float | None) -> str:
    """Milliseconds in three digits: `1.25 ms`."""
    return NONE if value is None else f"{value:.3g} ms"


def seconds(value: float | None) -> str:
    """A duration: `0.42 s`, `38 s`, `4 min 12 s`, `2 h 5 min`."""
    if value is None:
        return NONE
    if value < 59.5:
        return f"{value:.2g} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def times(value: float | None) -> str:
    """A ratio: `13.1×`."""
    return NONE if value is None else f"{value:.3g}×"


def preparation(figures: Mapping[str, Any]) -> str:
    """How far a file that prepares pictures itself does as Pillow, from its proof."""
    return (
        f"as Pillow {figures['pillow']} on {figures['pictures']} pictures of odd sizes and 1 to 4 "
        f"channels: logits {figures['largest_difference']:.2g} apart at most"
    )


def cost(name: str, value: float | None) -> str:
    """The value of a cost or limit, in its unit.

    Args:
        name: A cost (`params`, `macs`, `latency`, `bytes`) or `accuracy`.
        value: The number.
    """
    formats = {"latency": milliseconds, "bytes": size, "accuracy": percent}
    return formats.get(name, count)(value)


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 final`, `2 finals`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
