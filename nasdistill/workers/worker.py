"""A worker: a process that runs trials and trains finals, here or on another host. See `pool`."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from nasdistill.common import locks
from nasdistill.common.errors import UserError, disk_problem
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import STUDIES
from nasdistill.common.interruption import handle_signals
from nasdistill.common.processes import die_with_parent
from nasdistill.recipe import Recipe
from nasdistill.results import storage_problem, storage_url
from nasdistill.workers.pool import Message


def main() -> None:
    """Works off the tasks that come in by standard input, until it ends."""
    handle_signals()
    die_with_parent()
    tasks: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, tasks), daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, a user's code or a library, tells no event
    writing = threading.Lock()

    def send(message: Message) -> None:
        with writing:
            print(json.dumps(message), file=out, flush=True)

    first = tasks.get()

    def emit(event: Event) -> None:
        if first.get("tells") or (event.kind != "stage" and event.stage != "teacher"):
            send(asdict(event))

    try:
        _work(first, tasks, emit, send)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else _problem(error, first)
        if reason is None:
            raise
        send({"error": reason})
    os._exit(0)  # the thread that reads the tasks is in the middle of a line


def _problem(error: Exception, first: Message) -> str | None:
    """What is wrong with disk or storage, if an exception came of that."""
    url = storage_url(STUDIES / first["name"], first["recipe"]["storage"])
    return disk_problem(error) or storage_problem(error, url)


def _work(
    first: Message, tasks: queue.Queue[Message], emit: Emit, send: Callable[[Message], None]
) -> None:
    # Its name does not follow from the recipe, where that says by now what was left open.
    recipe = Recipe.model_validate(first["recipe"]).model_copy(update={"study": first["name"]})
    sys.path += [place for place in first["path"] if place not in sys.path]
    # After sys.path: what these import may be found there alone.
    from nasdistill.common.machine import share_of_threads, use_threads
    from nasdistill.finals.leading import tell_prospects
    from nasdistill.finals.pipeline import train_ahead
    from nasdistill.study import Study
    from nasdistill.study.sharing import take_study
    from nasdistill.trials.context import open_context
    from nasdistill.trials.loop import record_saved_answers, search
    from nasdistill.trials.plugins import load_plugins

    if recipe.files is not None:
        take_study(recipe.files, first["name"], recipe.storage)
    plugins = load_plugins(recipe.import_file)
    study, context = Study.open(recipe, STUDIES, "", joining=True), None
    while (task := tasks.get())["do"] != "leave":
        if context is None:
            context = open_context(study, plugins, emit)
            send({"did": "open"})
        use_threads(task.get("threads") or share_of_threads(task["processes"]))
        match task["do"]:
            case "search":
                if first.get("tells"):
                    tell_prospects(context, task["workers"])
                search(context, task["begun"])
            case "finals":
                train_ahead(context)
            case "finish":
                first["tells"] = True
                _finish(context, task, send)
            case "open":
                send({"answer": 0.0})
            case "step":
                send({"answer": _time_steps(context, task["begin"], task["end"])})
        record_saved_answers(context)
        send({"did": task["do"]})


def _finish(context: Any, task: Message, send: Callable[[Message], None]) -> None:
    """Makes the finals that the command names, or else the best."""
    from nasdistill.finals.leading import choose_finals, finish
    from nasdistill.trials.loop import choose_deadlines

    if task["begun"] is not None:
        context.deadlines = choose_deadlines(context, task["begun"])
    chosen = choose_finals(context) if task["chosen"] is None else task["chosen"]
    finish(context, chosen, lambda count: send({"share": count}))


def _time_steps(context: Any, begin: float, end: float) -> float:
    """Steps a second of an example run in the same seconds as the others; see `calibration`."""
    from nasdistill.training import steps_per_second
    from nasdistill.training.failures import FAILURES
    from nasdistill.trials.autotune import example_run

    try:
        run = example_run(context)
        with locks.busy(context.latency_lock):
            return steps_per_second(run, begin, end)
    except FAILURES:  # no room for it beside the others
        return 0.0


def _read(lines: TextIO, tasks: queue.Queue[Message]) -> None:
    """Passes tasks on. Their end is that of the command: nothing goes on behind a user's back."""
    for line in lines:
        tasks.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    main()
