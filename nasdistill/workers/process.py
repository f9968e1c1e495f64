"""Local workers: processes that a command starts, gives tasks, listens to, and ends."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from nasdistill.common.events import Emit, Event, event_from
from nasdistill.common.interruption import before_exit
from nasdistill.common.machine import set_threads
from nasdistill.common.processes import cause_of, is_stopped, kill_session, start_module
from nasdistill.results import keys
from nasdistill.study import Study
from nasdistill.study.leases import LEASE_SECONDS
from nasdistill.workers.pool import Message, Task, choose_size, first_message

ENDING_SECONDS = 2.0
"""Time that a worker has to give back what it holds before it is killed."""
LOOK_SECONDS = 2.0
"""Time between two looks at whether a worker is stopped."""


@dataclass(frozen=True)
class WorkerPool:
    """The local workers of a command: this process, and those it started.

    Attributes:
        others: The processes that were started. Each reads its tasks from its standard input, a
            line of JSON for each, writes its events to its standard output, and ends when its input
            does: also when this process is killed.
        provisional: Whether they are kept only if that is faster; see `calibration`.
        replies: Numbers with which they answered.
    """

    others: tuple[subprocess.Popen[str], ...] = ()
    provisional: bool = False
    replies: queue.SimpleQueue[float] = field(default_factory=queue.SimpleQueue)

    @property
    def size(self) -> int:
        """How many are alive, this process included."""
        return 1 + sum(process.poll() is None for process in self.others)

    def assign(self, task: Task, count: int, **more: float) -> None:
        """Has the others work with this process; those at it share the cores.

        Args:
            task: Their task.
            count: How many can be at it.
            **more: Further figures of the task.
        """
        processes = max(1, min(self.size, count))
        set_threads(processes)
        for process in self.others:
            send(process, {"do": task, "processes": processes, **more})

    def wait_for_replies(self, seconds: float) -> list[float]:
        """The others' answers to a task, one number each; fewer where one ends, or is late."""
        until, numbers = time.monotonic() + seconds, list[float]()
        while len(numbers) < self.size - 1 and time.monotonic() < until:
            with suppress(queue.Empty):
                numbers.append(self.replies.get(timeout=0.2))
        return numbers

    def stop(self) -> None:
        """Has the others end, whatever they are at, and waits for that."""
        self.assign("leave", 1)
        for process in self.others:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


@contextmanager
def started_workers(
    study: Study, emit: Emit, *, finals: int | None = None, tries_out: bool = True
) -> Iterator[WorkerPool]:
    """Starts the other local workers of a study; their events come here, too.

    Args:
        study: Its recipe says how many, and how many were found to be faster on its card.
        emit: Told what happens.
        finals: How many finals they are wanted for at most, if for nothing else.
        tries_out: Whether there may be provisional ones.
    """
    recipe = study.recipe
    useful = max(recipe.trials, recipe.top_k) if finals is None else max(1, finals)
    size = choose_size(recipe, study.read(keys.CONCURRENT_STUDENTS))
    may_try = tries_out and finals is None
    count = 1 if size.provisional and not may_try else min(size.workers, useful)
    first = first_message(study)
    over, replies = threading.Event(), queue.SimpleQueue[float]()
    processes: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []

    def in_background(function: Callable[..., None], *arguments: object) -> None:
        threads.append(threading.Thread(target=function, args=arguments, daemon=True))
        threads[-1].start()

    def end() -> None:
        over.set()
        end_all(processes)

    try:
        with before_exit(end):
            for _ in range(count - 1):
                processes.append(start())
                in_background(_listen, processes[-1], emit, replies, over)
                send(processes[-1], first)
            in_background(_end_stopped, processes, emit, over)
            yield WorkerPool(tuple(processes), size.provisional and count > 1, replies)
    finally:
        end()
        for thread in threads:
            thread.join()


def start(
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[str]:
    """Starts a worker: a session of its own, because Ctrl-C is this process's to answer.

    It dies with the thread that calls this.

    Args:
        folder: Where it works; by default where this process does.
        environment: Variables beside those of this process.
        stderr: As for `Popen`.
    """
    return start_module("nasdistill.workers.worker", folder, environment, stderr)


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ends workers, whatever they are at; they have a moment to give back what they hold."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + ENDING_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        kill_session(process)


def _end_stopped(
    processes: Sequence[subprocess.Popen[str]], emit: Emit, over: threading.Event
) -> None:
    """Ends workers that were stopped for as long as a lease: they hold locks that others need."""
    stopped_since: dict[int, float] = {}
    while not over.wait(LOOK_SECONDS):
        now = time.monotonic()
        stopped = [process for process in processes if is_stopped(process.pid)]
        stopped_since = {p.pid: stopped_since.get(p.pid, now) for p in stopped}
        for process in stopped:
            if now - stopped_since[process.pid] >= LEASE_SECONDS:
                text = f"a worker was stopped for {LEASE_SECONDS:.0f} s and is ended"
                emit(Event("warning", text))
                kill_session(process)


def send(process: subprocess.Popen[str], message: Message) -> None:
    """Writes one message to a worker; of one that has ended its listener tells."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _listen(
    process: subprocess.Popen[str],
    emit: Emit,
    replies: queue.SimpleQueue[float],
    over: threading.Event,
) -> None:
    """Passes a worker's events on; one that nobody reads would fill the pipe and stand still."""
    assert process.stdout is not None
    broken = False
    for line in process.stdout:
        try:
            message = json.loads(line)
        except ValueError:  # something else has printed it
            continue
        if isinstance(message, dict) and isinstance(message.get("answer"), float):
            replies.put(message["answer"])
            continue
        if isinstance(message, dict) and "error" in message:
            message = asdict(Event("warning", f"a worker ended: {message['error']}"))
        if broken or (event := event_from(message)) is None:
            continue
        try:
            emit(event)
        except Exception:
            traceback.print_exc()
            broken = True
    status = process.wait()
    if status != 0 and not over.is_set():
        cause = cause_of(status)
        emit(Event("warning", f"a worker ended {cause}; the others take over what it was at"))
