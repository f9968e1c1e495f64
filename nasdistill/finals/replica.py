"""One of the processes that train a full run together. See `several`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent
from nasdistill.common.files import STUDIES
from nasdistill.common.processes import die_with_parent
from nasdistill.recipe import Recipe

if TYPE_CHECKING:  # what these import may be found on the other process's path alone
    from nasdistill.finals.full_run import Variant
    from nasdistill.trials.context import StudyContext

Order = dict[str, Any]


def main() -> None:
    """Works off the order that comes in by standard input."""
    die_with_parent()
    order = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, a user's code or a library, tells no event

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    sys.path += [place for place in order["path"] if place not in sys.path]
    try:
        _train(order, _emitting(send) if order["replica"] == 0 else silent)
    except Exception as error:
        problem = _problem(error)
        if problem is None:
            raise
        send(problem)
        os._exit(1)
    os._exit(0)  # nothing of torch's is to be taken apart


def _emitting(send: Callable[[dict[str, Any]], None]) -> Emit:
    """Tells of the training; the process that asked for it has told of data and teachers."""

    def emit(event: Event) -> None:
        if event.kind != "stage" and event.stage != "teacher":
            send(asdict(event))

    return emit


def _problem(error: Exception) -> dict[str, Any] | None:
    """What is wrong, for `several`; None for an error of ours."""
    from nasdistill.finals.several import LOST
    from nasdistill.training.data_parallel import ProcessLost
    from nasdistill.training.failures import FAILURES, failure_reason
    from nasdistill.training.memory import ran_out

    if isinstance(error, ProcessLost):
        return {"kind": LOST, "problem": str(error)}
    if isinstance(error, UserError):
        return {"kind": "user", "problem": str(error)}
    if ran_out(error):
        return {"kind": "memory", "problem": str(error)}
    if not isinstance(error, FAILURES):
        return None
    try:
        return {"kind": "failure", "problem": failure_reason(error)}
    except UserError as broken_device:
        return {"kind": "user", "problem": str(broken_device)}


def _train(order: Order, emit: Emit) -> None:
    """Makes the run, meets the other processes, and trains to the end."""
    from nasdistill.common import locks
    from nasdistill.common.machine import share_of_threads, use_threads
    from nasdistill.finals.full_run import FullRun, open_run
    from nasdistill.space import Architecture
    from nasdistill.study import Study
    from nasdistill.training.data_parallel import DataParallel
    from nasdistill.training.teacher import train_through
    from nasdistill.trials.context import open_context
    from nasdistill.trials.plugins import load_plugins

    recipe = Recipe.model_validate(order["recipe"]).model_copy(update={"study": order["study"]})
    plugins = load_plugins(recipe.import_file)
    context = open_context(Study.open(recipe, STUDIES, "", joining=True), plugins, emit)
    number, processes, checkpoint = order["replica"], order["processes"], Path(order["checkpoint"])
    use_threads(share_of_threads(processes))
    full_run = FullRun(
        _variant(order, context),
        Architecture.from_json(order["architecture"]),
        checkpoint,
        order["name"],
        order["epochs"],
    )
    setup = full_run.setup(context)
    run = open_run(context, full_run, setup, order["micro_batch"])
    assert run.identity == order["identity"], "another run than the one that is asked for"
    if checkpoint.exists():  # found to be whole by the process that asks
        run.restore(checkpoint)
    with locks.busy(context.latency_lock):
        setup.prepare(run.horizon, run.step)
    meeting = Path(order["rendezvous"])
    run.divide_over(DataParallel.join(number, processes, meeting, run.device))
    own = (checkpoint, context.latency_lock) if number == 0 else (None, None)
    for _ in train_through(run, full_run.epochs, "finals", emit, *own):
        if number == 0:
            context.study.files.push(checkpoint)
    DataParallel.leave()


def _variant(order: Order, context: StudyContext) -> Variant:
    """How the run's setup differs from that of finals."""
    from nasdistill.finals.full_run import StudentTeacher, Variant
    from nasdistill.models import Classifier
    from nasdistill.models.families import build
    from nasdistill.models.weights import load_weights, read_weights
    from nasdistill.space import Architecture

    teacher, data = order["teacher"], context.dataset
    if teacher is None:
        return Variant(order["kind"], order["values"])
    architecture = Architecture.from_json(teacher["architecture"])
    student = Classifier(build(architecture, data.input, len(data.classes)), data.mean, data.std)
    load_weights(student, read_weights(Path(teacher["weights"])), teacher["weights"])
    student_teacher = StudentTeacher(teacher["name"], student, architecture)
    return Variant(order["kind"], order["values"], student_teacher)


if __name__ == "__main__":
    main()
