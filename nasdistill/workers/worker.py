"""A further local worker of a command: runs trials and trains finals. See `crew`."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from nasdistill.common.errors import UserError, disk_problem
from nasdistill.common.events import Emit, Event
from nasdistill.common.files import STUDIES
from nasdistill.recipe import Recipe
from nasdistill.trials.loop import Deadlines, note_saved, run
from nasdistill.trials.plugins import load_plugins


def main() -> None:
    """Works off the tasks that come in by standard input, until it ends."""
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, tasks), daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, a user's code or a library, tells no event
    speaking = threading.Lock()

    def tell(event: Event) -> None:
        if event.kind == "stage" or event.stage == "teacher":  # the first worker has told it
            return
        say(asdict(event))

    def say(told: dict[str, Any]) -> None:
        with speaking:
            print(json.dumps(told), file=out, flush=True)

    first = tasks.get()
    try:
        _work(first, tasks, tell, say)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else disk_problem(error)
        if said is None:
            raise
        tell(Event("warning", f"a worker of {first['name']} ended: {said}"))
    os._exit(0)  # who reads the tasks is in the middle of a line


def _work(
    first: dict[str, Any],
    tasks: queue.Queue[dict[str, Any]],
    tell: Emit,
    say: Callable[[dict[str, Any]], None],
) -> None:
    recipe = Recipe.model_validate(first["recipe"])
    sys.path += [place for place in first["path"] if place not in sys.path]
    imported = load_plugins(recipe)
    from nasdistill.common import locks
    from nasdistill.common.machine import set_threads
    from nasdistill.finals.pipeline import train_ahead
    from nasdistill.study import Study
    from nasdistill.training import steps_a_second
    from nasdistill.trials.autotune import example_run
    from nasdistill.trials.context import open_context
    from nasdistill.trials.race import run_race
    from nasdistill.trials.trial import FAILURES

    study = Study.open(recipe, STUDIES, "")
    bench, deadlines = None, Deadlines(None, None)
    while (task := tasks.get())["do"] != "leave":
        bench = bench or open_context(study, imported, tell)
        set_threads(task["processes"])
        match task["do"]:
            case "search":
                deadlines = run(study, bench, task["begun"], tell)
            case "race":
                run_race(study, bench, study.attrs["race"], tell, deadlines.search, wait=False)
            case "finals":
                train_ahead(study, bench, tell, deadlines.whole)
            case "open":
                say({"answer": 0.0})
            case "step":
                try:
                    run_of_all = example_run(study, bench)
                    with locks.busy(bench.lock):
                        steps = steps_a_second(run_of_all, task["begin"], task["end"])
                except FAILURES:  # no room for it beside the others
                    steps = 0.0
                say({"answer": steps})
        note_saved(study, bench)


def _read(lines: TextIO, tasks: queue.Queue[dict[str, Any]]) -> None:
    """Passes tasks on. Their end is that of the command: nothing goes on behind a user's back."""
    for line in lines:
        tasks.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    main()
