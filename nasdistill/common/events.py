"""Events of a search, for the code that displays them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """One line of news from a search.

    Attributes:
        kind: `stage` begins a stage; `progress` is a sign of life within a run; `rung` a score;
            `trial` the end of a trial; `final` the end of a final; `note` and `warning` the rest.
        text: The news in words.
        stage: `teacher`, `answers`, `search`, `finals`, `report`, `audit`, `tune` or `evaluate`;
            empty where the news is of none.
        trial: The trial's number.
        rung: The rung, from 0.
        done: Progress: training examples in `progress`, trials in `rung` and `trial`, the
            rank in `final`, points in a `note` of `tune`.
        total: Out of so many.
        images_per_second: Training throughput.
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


def silent(event: Event) -> None:
    """Drops an event."""


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
