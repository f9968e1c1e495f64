"""Events of a search, for the code that displays them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar


@dataclass(frozen=True)
class Event:
    """One line of news from a search.

    Attributes:
        kind: `stage` begins a stage; `progress` is a sign of life within a run; `rung` a score;
            `trial` the end of a trial; `final` the end of a final; `note` and `warning` the rest.
        text: The news in words.
        stage: `data`, `teacher`, `answers`, `search`, `finals`, `report`, `audit`, `tune` or
            `evaluate`; empty where the news is of none.
        trial: The trial's number.
        rung: The rung, from 0.
        done: Progress: examples in `progress`, trials in `rung` and `trial`, the
            rank in `final`, points in a `note` of `tune`.
        total: Out of so many.
        images_per_second: Throughput.
        eta_seconds: Seconds to the end of the stage, where it can be told.
        front: `(trial, accuracy, params)` of each candidate on the front so far.
    """

    kind: Literal["stage", "trial", "progress", "rung", "final", "note", "warning"]
    text: str
    stage: str = ""
    trial: int | None = None
    rung: int | None = None
    done: int = 0
    total: int = 0
    images_per_second: float = 0.0
    eta_seconds: float | None = None
    front: tuple[tuple[int, float, float], ...] = ()


Emit = Callable[[Event], None]
"""The receiver of events."""


SILENT_SECONDS, PAUSE_SECONDS = 2.0, 0.5
"""Time after which work that has told nothing gives its first sign of life, and between two."""

Item = TypeVar("Item")


def silent(event: Event) -> None:
    """Drops an event."""


def event_from(message: Any) -> Event | None:
    """An event, from a line of JSON; None for what something else has printed."""
    try:
        return Event(**{**message, "front": tuple(tuple(point) for point in message["front"])})
    except (ValueError, TypeError, KeyError):
        return None


def with_signs_of_life(
    items: Iterable[Item], text: str, stage: str, total: int, emit: Emit, images: int = 1
) -> Iterator[Item]:
    """Passes items on, and tells how far it is once they take a while.

    Args:
        items: Images, or batches of them.
        text: What is being done.
        stage: As of `Event`.
        total: Number of images.
        emit: Told the progress.
        images: Images in each item; the last may have fewer.
    """
    begun = last_event = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - begun < SILENT_SECONDS or now - last_event < PAUSE_SECONDS:
            continue
        last_event, done = now, min(number * images, total)
        rate = done / (now - begun)
        left = (total - done) / rate
        emit(Event("progress", text, stage, None, None, done, total, rate, left))


def telling(
    text: str, stage: str, total: int, emit: Emit
) -> Callable[[Iterable[Item], int], Iterator[Item]]:
    """`with_signs_of_life` for those who know how many images are in each item."""

    def with_progress(items: Iterable[Item], images: int) -> Iterator[Item]:
        return with_signs_of_life(items, text, stage, total, emit, images)

    return with_progress


def warn_of(notes: Iterable[str], emit: Emit, stage: str = "") -> None:
    """Tells notes, as of a teacher, as warnings."""
    for note in notes:
        emit(Event("warning", note, stage=stage))


def warning_once(emit: Emit) -> Emit:
    """Passes events on; of a warning that several workers give, only the first."""
    warned: set[str] = set()

    def filtered(event: Event) -> None:
        if event.kind == "warning":
            if event.text in warned:
                return
            warned.add(event.text)
        emit(event)

    return filtered
