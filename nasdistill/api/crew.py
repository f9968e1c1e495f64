"""The other local workers of a command: started, given work, listened to, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nasdistill
from nasdistill.recipe import Recipe
from nasdistill.results import Emit, Event


@dataclass(frozen=True)
class Crew:
    """The local workers of a command: this process, and those it started.

    Attributes:
        others: The processes that were started. Each reads its tasks from its standard input, a
            line of JSON for each, writes its events to its standard output, and ends when its input
            does: also when this process is killed.
    """

    others: tuple[subprocess.Popen[str], ...] = ()

    @property
    def size(self) -> int:
        """How many are alive, this process included."""
        return 1 + sum(process.poll() is None for process in self.others)

    def share(self, task: Literal["race", "finals"], count: int) -> None:
        """Has the others work at so many runs with this process; those at it share the cores."""
        from nasdistill.machine import set_threads

        processes = max(1, min(self.size, count))
        set_threads(processes)
        for process in self.others:
            _give(process, {"do": task, "processes": processes})


@contextmanager
def crew(
    recipe: Recipe,
    name: str,
    emit: Emit,
    *,
    finals: int | None = None,
    begun: float | None = None,
) -> Iterator[Crew]:
    """Starts the other local workers of a study; their events come here, too.

    Args:
        recipe: Says how many.
        name: Of the study.
        emit: Told what happens.
        finals: How many finals they are wanted for at most; the top-k if not given.
        begun: `time.monotonic()` at which the command began, if they are to run trials first.
    """
    of_use = max(recipe.trials, recipe.top_k) if finals is None else max(1, finals)
    size = min(_size(recipe), of_use)
    started = Crew(tuple(_start() for _ in range(size - 1)))
    task = {
        "recipe": recipe.model_dump(mode="json", by_alias=True), "name": name, "size": size,
        "begun": begun, "path": [os.path.abspath(place) for place in sys.path],
    }  # fmt: skip
    over = threading.Event()
    listeners = [
        threading.Thread(target=_listen, args=(process, emit, over), daemon=True)
        for process in started.others
    ]
    try:
        for process, listener in zip(started.others, listeners, strict=True):
            listener.start()
            _give(process, task)
        yield started
    finally:
        over.set()
        for process in started.others:
            if process.poll() is None:  # with those that it started, who decode images
                os.killpg(process.pid, signal.SIGKILL)
        for process, listener in zip(started.others, listeners, strict=True):
            process.wait()
            listener.join()


def _size(recipe: Recipe) -> int:
    """How many local workers: those asked for, or one for each core of a CPU.

    On a GPU, and where runs must not differ, one.
    """
    if recipe.workers is not None:
        return recipe.workers
    if recipe.deterministic:
        return 1
    from nasdistill.machine import default_workers, pick_device

    return default_workers(pick_device(recipe.device))


def _start() -> subprocess.Popen[str]:
    """Starts a worker: a session of its own, because Ctrl-C is this process's to answer."""
    home, paths = Path(nasdistill.__file__).parents[1], os.environ.get("PYTHONPATH", "")
    if home.name not in ("site-packages", "dist-packages"):  # else it is found anyway
        paths = os.pathsep.join(filter(None, (str(home), paths)))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nasdistill.api.worker"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def _give(process: subprocess.Popen[str], task: dict[str, object]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # Of a worker that ended its listener tells.
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()


def _listen(process: subprocess.Popen[str], emit: Emit, over: threading.Event) -> None:
    """Passes a worker's events on; one that nobody reads would fill the pipe and stand still."""
    assert process.stdout is not None
    deaf = False
    for line in process.stdout:
        if deaf or (event := _event_of(line)) is None:
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


def _event_of(line: str) -> Event | None:
    """An event, from a line of JSON; None for what something else has printed."""
    try:
        told = json.loads(line)
        return Event(**{**told, "front": tuple(tuple(point) for point in told["front"])})
    except (ValueError, TypeError, KeyError):
        return None
