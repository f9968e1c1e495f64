"""A full run on several GPUs of this machine: its processes are started, listened to, and ended."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, event_from
from nasdistill.common.machine import pick_device
from nasdistill.common.processes import cause_of, kill_session, start_module
from nasdistill.finals.full_run import FullRun, StudentTeacher
from nasdistill.recipe import Recipe
from nasdistill.results import keys
from nasdistill.training import Run
from nasdistill.training.checkpoint import go_on_from
from nasdistill.training.data_parallel import micro_batches
from nasdistill.trials.context import StudyContext

ENDING_SECONDS = 2.0
"""Time in which processes that have lost one of them say so, before they are killed."""
LOST = "lost"
"""The kind of problem of a process that has lost another."""
ERRORS = {"memory": MemoryError, "user": UserError, "failure": RuntimeError}
"""What is raised here for a process's problem, by its kind."""

Message = dict[str, Any]
"""A line of JSON: to a process its order (see `finals.replica`); from it events, or what is wrong:
`problem`, in words, and its `kind`."""


class Replica(NamedTuple):
    """A process that trains a slice of every batch, and all lines that come from such processes."""

    process: subprocess.Popen[str]
    lines: queue.SimpleQueue[tuple[int, str | None]]


def check_cards(recipe: Recipe) -> None:
    """Looks whether there are as many cards as finals are to be trained on.

    Raises:
        UserError: If there are fewer.
    """
    count, device = recipe.final_gpus, pick_device(recipe.device)
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise UserError(
            f"--final-gpus {count}: this process sees {torch.cuda.device_count()} CUDA devices; "
            "allowed are as many as that, or --device cpu to train on so many processes"
        )


def train_on_several(
    context: StudyContext, full_run: FullRun, run: Run, micro_batch: int | None
) -> None:
    """Has processes train a full run to its end, from where its checkpoint stands.

    Args:
        context: The study's.
        full_run: As it is asked for.
        run: As this process made it; it then stands where its checkpoint stood before.
        micro_batch: Most examples of a batch that all processes see at once; None for all.

    Raises:
        MemoryError: If one of them has too little memory.
        RuntimeError: If the training fails in another way.
        UserError: If one of them ends: the next call goes on from the last checkpoint.
    """
    count = context.recipe.final_gpus
    check_cards(context.recipe)
    _check_division(run, micro_batch, count)
    go_on_from(run, full_run.checkpoint, lambda text: context.warn(text, stage="finals"))
    if run.step == run.stream.steps(run.horizon):
        return
    key = keys.PROCESSES.of(full_run.key)
    context.study.write(key, max(count, context.study.read(key) or 1))
    context.note(f"trained by {count} processes, each on its slice of a batch", stage="finals")
    with tempfile.TemporaryDirectory(prefix="nasdistill-") as folder:
        order = _order(context, full_run, run, micro_batch, Path(folder))
        with _started(order, _environments(run.device, count)) as replicas:
            _listen(replicas, context.emit)


def _check_division(run: Run, micro_batch: int | None, count: int) -> None:
    batch = run.stream.batch_size
    least = batch // micro_batches(batch, micro_batch)
    if least < count:
        kind = "batches" if micro_batch is None else "micro-batches"
        raise ValueError(f"{kind} of {least} cannot be divided over {count} processes")


def _order(
    context: StudyContext, full_run: FullRun, run: Run, micro_batch: int | None, folder: Path
) -> Message:
    """All that a process needs to make the same run; it may hold the storage's password."""
    variant = full_run.variant
    return {
        "recipe": context.recipe.model_dump(mode="json", by_alias=True),
        "study": context.folder.name,
        "path": [os.path.abspath(place) for place in sys.path],
        "rendezvous": str(folder / "rendezvous"),
        "processes": context.recipe.final_gpus,
        "kind": variant.kind,
        "values": dict(variant.values),
        "teacher": None if variant.teacher is None else _written(variant.teacher, folder),
        "architecture": full_run.architecture.to_json(),
        "checkpoint": str(full_run.checkpoint),
        "name": full_run.name,
        "epochs": full_run.epochs,
        "micro_batch": micro_batch,
        "identity": run.identity,
    }


def _written(teacher: StudentTeacher, folder: Path) -> Message:
    """A teacher that stands in no file yet, with its weights in one."""
    path = folder / "teacher.safetensors"
    state = teacher.student.state_dict()
    save_file({name: values.cpu().contiguous() for name, values in state.items()}, path)
    architecture = teacher.architecture.to_json()
    return {"name": teacher.name, "architecture": architecture, "weights": str(path)}


def _environments(device: torch.device, count: int) -> list[dict[str, str]]:
    """The variables of each process: they meet on this machine, and each sees its own card."""
    if device.type != "cuda":
        return [{"GLOO_SOCKET_IFNAME": "lo"}] * count
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible else [str(card) for card in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": card} for card in cards[:count]]


@contextmanager
def _started(order: Message, environments: Sequence[dict[str, str]]) -> Iterator[list[Replica]]:
    """Starts the processes, which end with the body at the latest."""
    replicas: list[Replica] = []
    lines = queue.SimpleQueue[tuple[int, str | None]]()
    try:
        for number, environment in enumerate(environments):
            replica = Replica(start_module("nasdistill.finals.replica", None, environment), lines)
            replicas.append(replica)
            threading.Thread(target=_read, args=(replica, number), daemon=True).start()
            assert replica.process.stdin is not None
            with suppress(BrokenPipeError):  # its end will be told
                replica.process.stdin.write(json.dumps({**order, "replica": number}) + "\n")
                replica.process.stdin.flush()
        yield replicas
    finally:
        for replica in replicas:
            kill_session(replica.process)


def _read(replica: Replica, number: int) -> None:
    """Passes a process's lines on, and None at their end."""
    assert replica.process.stdout is not None
    for line in replica.process.stdout:
        replica.lines.put((number, line))
    replica.lines.put((number, None))


def _listen(replicas: Sequence[Replica], emit: Emit) -> None:
    """Passes events on until all processes have ended.

    Raises:
        MemoryError: See `train_on_several`, as for the others.
        RuntimeError: See there.
        UserError: See there.
    """
    problems: list[Message] = []
    statuses: list[int | None] = []
    speaking = len(replicas)
    while speaking:
        number, line = replicas[0].lines.get()
        if line is None:
            speaking -= 1
            if replicas[number].process.wait() != 0 and not statuses:
                statuses = _end_all(replicas)
            continue
        with suppress(ValueError):  # something else has printed it
            message = json.loads(line)
            if isinstance(message, dict) and "problem" in message:
                problems.append(message)
            elif (event := event_from(message)) is not None:
                emit(event)
    if statuses:
        raise _error(statuses, problems)


def _end_all(replicas: Sequence[Replica]) -> list[int | None]:
    """Ends all processes; gives the status of each that had ended by itself, in a moment's time."""
    until = time.monotonic() + ENDING_SECONDS
    for replica in replicas:
        with suppress(subprocess.TimeoutExpired):
            replica.process.wait(max(0.0, until - time.monotonic()))
    statuses = [replica.process.poll() for replica in replicas]
    for replica in replicas:
        kill_session(replica.process)
    return statuses


def _error(statuses: Sequence[int | None], problems: Sequence[Message]) -> Exception:
    """The error to raise: of whoever failed first, not of those who only lost another."""
    for problem in problems:
        if problem["kind"] != LOST:
            return ERRORS[problem["kind"]](problem["problem"])
    signalled = [n for n, status in enumerate(statuses) if status is not None and status < 0]
    failed = signalled or [n for n, status in enumerate(statuses) if status]
    number = failed[0]
    return UserError(
        f"process {number + 1} of the {len(statuses)} that trained a final ended "
        f"{cause_of(statuses[number] or 0)}; the others were ended. Nothing is lost but the epoch "
        "under way: start the command again, and it goes on from the last checkpoint"
    )
