"""The other local workers of a command: started, given work, listened to, ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasdistill.common.events import Emit, Event
from nasdistill.recipe import Recipe

if TYPE_CHECKING:
    from nasdistill.study import Study


AT_ONCE = 4
"""Students that are tried at once on a card, where that is found to be faster."""

Task = Literal["search", "race", "finals", "open", "step", "leave"]
"""What workers do; `open` and `step` answer with a number."""


@dataclass(frozen=True)
class WorkerPool:
    """The local workers of a command: this process, and those it started.

    Attributes:
        others: The processes that were started. Each reads its tasks from its standard input, a
            line of JSON for each, writes its events to its standard output, and ends when its input
            does: also when this process is killed.
        on_trial: Whether they are kept only if that is faster; see `crowd`.
        said: What they answered.
    """

    others: tuple[subprocess.Popen[str], ...] = ()
    on_trial: bool = False
    said: queue.SimpleQueue[float] = field(default_factory=queue.SimpleQueue)

    @property
    def size(self) -> int:
        """How many are alive, this process included."""
        return 1 + sum(process.poll() is None for process in self.others)

    def share(self, task: Task, count: int, **more: float) -> None:
        """Has the others work with this process; those at it share the cores.

        Args:
            task: At what.
            count: How many can be at it.
            **more: What else the task needs.
        """
        from nasdistill.common.machine import set_threads

        processes = max(1, min(self.size, count))
        set_threads(processes)
        for process in self.others:
            _give(process, {"do": task, "processes": processes, **more})

    def answers(self, seconds: float) -> list[float]:
        """What the others answer to a task, one number each; fewer where one ends, or is late."""
        until, found = time.monotonic() + seconds, list[float]()
        while len(found) < self.size - 1 and time.monotonic() < until:
            with suppress(queue.Empty):
                found.append(self.said.get(timeout=0.2))
        return found

    def dismiss(self) -> None:
        """Has the others end, whatever they are at, and waits for that."""
        self.share("leave", 1)
        for process in self.others:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


@contextmanager
def crew(
    recipe: Recipe, study: Study, emit: Emit, *, finals: int | None = None
) -> Iterator[WorkerPool]:
    """Starts the other local workers of a study; their events come here, too.

    Args:
        recipe: Says how many.
        study: Says how many were found to be faster on its card.
        emit: Told what happens.
        finals: How many finals they are wanted for at most, if for nothing else.
    """
    of_use = max(recipe.trials, recipe.top_k) if finals is None else max(1, finals)
    size, on_trial = _size(recipe, study.attrs.get("at_once"))
    size = 1 if on_trial and finals is not None else min(size, of_use)
    started = WorkerPool(tuple(_start() for _ in range(size - 1)), on_trial and size > 1)
    first: dict[str, object] = {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "name": study.folder.name,
        "path": [os.path.abspath(place) for place in sys.path],
    }
    over = threading.Event()
    listeners = [
        threading.Thread(target=_listen, args=(process, emit, started.said, over), daemon=True)
        for process in started.others
    ]
    try:
        for process, listener in zip(started.others, listeners, strict=True):
            listener.start()
            _give(process, first)
        yield started
    finally:
        over.set()
        for process in started.others:
            if process.poll() is None:  # with those that it started, who decode images
                os.killpg(process.pid, signal.SIGKILL)
        for process, listener in zip(started.others, listeners, strict=True):
            process.wait()
            listener.join()


def _size(recipe: Recipe, at_once: int | None) -> tuple[int, bool]:
    """How many local workers, and whether they are on trial.

    Those asked for; where runs must not differ, one; else one for each core of a CPU, and on a card
    what was found to be faster there.
    """
    if recipe.workers is not None:
        return recipe.workers, False
    if recipe.deterministic:
        return 1, False
    if on_card(recipe):
        return at_once or AT_ONCE, at_once is None
    from nasdistill.common.machine import default_workers, pick_device

    return default_workers(pick_device(recipe.device)), False


def on_card(recipe: Recipe) -> bool:
    """Whether students are trained on a GPU."""
    from nasdistill.common.machine import pick_device

    return pick_device(recipe.device).type != "cpu"


def _start() -> subprocess.Popen[str]:
    """Starts a worker: a session of its own, because Ctrl-C is this process's to answer."""
    home, paths = Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")
    if home.name not in ("site-packages", "dist-packages"):  # else it is found anyway
        paths = os.pathsep.join(filter(None, (str(home), paths)))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nasdistill.workers.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _give(process: subprocess.Popen[str], task: dict[str, object]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # Of a worker that ended its listener tells.
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()


def _listen(
    process: subprocess.Popen[str],
    emit: Emit,
    said: queue.SimpleQueue[float],
    over: threading.Event,
) -> None:
    """Passes a worker's events on; one that nobody reads would fill the pipe and stand still."""
    assert process.stdout is not None
    deaf = False
    for line in process.stdout:
        try:
            told = json.loads(line)
        except ValueError:  # something else has printed it
            continue
        if isinstance(told, dict) and isinstance(told.get("answer"), float):
            said.put(told["answer"])
            continue
        if deaf or (event := _event_of(told)) is None:
            continue
        try:
            emit(event)
        except Exception:
            traceback.print_exc()
            deaf = True
    status = process.wait()
    if status != 0 and not over.is_set():
        why = f"by signal {-status}" if status < 0 else f"with status {status}"
        emit(Event("warning", f"a worker ended {why}; the others take over what it was at"))


def _event_of(told: Any) -> Event | None:
    """An event, from what a line of JSON says; None for what something else has printed."""
    try:
        return Event(**{**told, "front": tuple(tuple(point) for point in told["front"])})
    except (ValueError, TypeError, KeyError):
        return None
