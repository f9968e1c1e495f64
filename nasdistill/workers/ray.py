"""Workers on a Ray cluster: an actor for each, placed by its resources; see `host`.

One that dies is started again, on whatever node has room; leases see to it that its trial goes on.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, event_from
from nasdistill.common.interruption import before_exit
from nasdistill.results import keys
from nasdistill.results.storage import storage_path
from nasdistill.study import Study
from nasdistill.workers import process
from nasdistill.workers.cluster import (
    Placement,
    check_nodes,
    connected,
    living_nodes,
    node_answers,
    place_workers,
    problem_of,
    recipe_file,
)
from nasdistill.workers.host import END, LOOK_SECONDS, WorkerHost
from nasdistill.workers.pool import Message, first_message

SILENT_SECONDS = 120.0
"""After which an actor that does not answer is given up; one answers every half second."""
AGAIN_SECONDS, REFUSED_SECONDS = 1.0, 10.0
"""Time before a worker is started again; longer where a node could not take it."""
MOST_CRASHES = 3
"""How often in a row a worker may end before it has opened the study."""
OF_STORAGES = ("PGPASSWORD", "PGPASSFILE")
"""Variables of the driver by which workers, too, are let in by a storage."""


class Slot(threading.Thread):
    """A worker that is wanted: on some node, waiting for room, or about to be started again.

    Args:
        owner: The pool.
        tells: Whether it tells what all workers find alike.

    Attributes:
        actor: Its present actor.
        node: Ray's number of the node that it is on; None while it waits for room.
        opened: Whether its process has opened the study.
        task: What it has to do; given again to the next process if one dies over it.
        finished: The task that it has done last.
        problem: Why it has ended for good.
    """

    def __init__(self, owner: RayWorkers, tells: bool) -> None:
        super().__init__(daemon=True)
        self._owner, self._tells = owner, tells
        self.actor: Any = None
        self.node: str | None = None
        self.opened = False
        self.task: Message | None = None
        self.finished: Message | None = None
        self.problem: str | None = None

    def run(self) -> None:
        """Starts actors, one after the other, until the pool ends."""
        try:
            self._keep_running()
        except Exception as error:  # the pool must hear of it, and end
            traceback.print_exc()
            self.problem = repr(error)

    def _keep_running(self) -> None:
        crashes = 0
        while not self._owner.over.is_set() and self.problem is None:
            self.opened = False
            reason = self._run_actor()
            name = self._owner.name_of(self.node)
            was_placed, self.node = self.node is not None, None
            crashes = 0 if self.opened else crashes + 1
            if self._owner.over.is_set() or self.problem is not None:
                return
            if crashes >= MOST_CRASHES:
                self.problem = f"a worker on {name} {reason} before it had opened the study"
                return
            text = f"a worker on {name} {reason}; it is started again, and its trial goes on"
            if not was_placed:
                text = f"a worker could not be started: {reason}"
            self._owner.emit(Event("warning", text))
            self._owner.over.wait(AGAIN_SECONDS if was_placed else REFUSED_SECONDS)

    def _run_actor(self) -> str:
        """Starts one actor and serves it until it ends; gives why it ended."""
        import ray

        self.actor = self._owner.new_actor(self._tells)
        try:
            return self._serve(self.actor)
        except ray.exceptions.RayTaskError as error:
            return str(error.cause)
        except ray.exceptions.RayError as error:
            last = str(error).strip().split("\n")[-1]
            cause = last[:200] if "Error: " in last else type(error).__name__
            return f"cannot be reached any more ({cause})"
        finally:
            with suppress(Exception):  # Ray itself may be gone
                ray.kill(self.actor)

    def _serve(self, actor: Any) -> str:
        import ray

        placed, sent = actor.place.remote(), None
        while not ray.wait([placed], timeout=LOOK_SECONDS)[0]:
            if self._owner.over.is_set():
                return ""
        node = ray.get(placed, timeout=SILENT_SECONDS)
        refusal = self._owner.refusal(node)
        if refusal is not None:
            return refusal
        self.node = node
        while not self._owner.over.is_set():
            task = self.task
            if task is not None and task is not sent:
                begun = task.get("begun")
                spent = 0.0 if begun is None else time.monotonic() - begun
                actor.send.remote(task, spent)
                sent = task
            for message in ray.get(actor.read.remote(), timeout=SILENT_SECONDS):
                if END in message:
                    return message[END] or "has left"
                self._handle(message)
        return ""

    def _handle(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        if message.get("did") == "open":
            self.opened = True
        elif "did" in message and self.task is not None:
            if message["did"] == self.task["do"]:
                self.finished, self.task = self.task, None
        elif "share" in message:
            self._owner.share(self)
        elif "error" in message:
            self.problem = str(message["error"])
        elif (event := event_from(message)) is not None:
            self._owner.emit(event)


class RayWorkers:
    """The workers of a command on a cluster; this process itself trains nothing.

    Args:
        study: The study.
        emit: Told what happens.
        placement: What each takes, and how many there are.
    """

    def __init__(self, study: Study, emit: Emit, placement: Placement) -> None:
        self.emit = emit
        self.over = threading.Event()
        self._study, self._placement = study, placement
        self._names: dict[str, str] = {}
        self._fit: set[str] = set()
        self._problems: set[str] = set()
        self._reported = self._latest = ""
        self._slots = [Slot(self, tells=number == 0) for number in range(placement.workers)]

    def start(self) -> None:
        """Asks for the actors; whoever has no room yet waits for it."""
        self._fit = {node.number for node in living_nodes()}
        for slot in self._slots:
            slot.start()

    def search(self, begun: float) -> None:
        """Has all workers run trials until none is left.

        Args:
            begun: `time.monotonic()` at which the command began.

        Raises:
            UserError: If no worker can.
        """
        task = {"do": "search", "begun": begun, "workers": len(self._slots), **self._threads}
        for slot in self._slots:
            slot.task = task
        limit = self._study.recipe.time_limit
        while not any(slot.finished is task for slot in self._slots):
            self._look()
            placed = any(slot.node is not None for slot in self._slots)
            if limit is not None and time.monotonic() > begun + limit and not placed:
                raise UserError(
                    f"no worker found room in the cluster within --time-limit ({limit:g} s)"
                )

    def finish(self, chosen: list[int] | None, begun: float | None) -> None:
        """Has one worker choose and make the finals, and all others train them.

        Args:
            chosen: Trials that are to be finals, by rank; None for the best.
            begun: `time.monotonic()` at which the command began, if its time limit counts.

        Raises:
            UserError: If no worker can.
        """
        task = {"do": "finish", "chosen": chosen, "begun": begun, **self._threads}
        leader: Slot | None = None
        while leader is None or leader.finished is not task:
            if leader is None or leader.node is None:  # it died: somebody else may have room
                leader = self._leader(task, leader)
            self._look()

    def _leader(self, task: Message, former: Slot | None) -> Slot | None:
        ready = [slot for slot in self._slots if slot.node is not None and slot.problem is None]
        ready.sort(key=lambda slot: (not slot.opened, slot.task is not None))
        if not ready:
            return former
        if former is not None:
            former.task = None
        ready[0].task = task
        return ready[0]

    def share(self, leader: Slot) -> None:
        """Has the others train finals."""
        for slot in self._slots:
            if slot is not leader:
                slot.task = {"do": "finals", "begun": None, **self._threads}

    @property
    def _threads(self) -> Message:
        return {"threads": self._placement.cpus}

    def _look(self) -> None:
        """Waits for a moment, and tells how many are at work where, if that has changed.

        Raises:
            UserError: If every worker has ended for good.
        """
        self.over.wait(LOOK_SECONDS)
        problems = [slot.problem for slot in self._slots if slot.problem is not None]
        if len(problems) == len(self._slots):
            raise UserError(problems[0])
        for problem in set(problems) - self._problems:
            self.emit(Event("warning", f"a worker ended: {problem}"))
        self._problems |= set(problems)
        text = self._placed_workers()
        if text == self._latest != self._reported:
            self._reported = text
            self.emit(Event("note", text))
        self._latest = text

    def _placed_workers(self) -> str:
        places = Counter(self.name_of(s.node) for s in self._slots if s.node is not None)
        waiting = sum(s.node is None and s.problem is None for s in self._slots)
        text = f"{sum(places.values())} of {len(self._slots)} workers at work"
        where = ", ".join(f"{count} on {name}" for name, count in sorted(places.items()))
        text += f": {where}" if where else ""
        return text + (f"; {waiting} starting, or waiting for room" if waiting else "")

    def name_of(self, node: str | None) -> str:
        """The name of a node, for people."""
        if node is not None and node not in self._names:
            self._names |= {n.number: n.name for n in living_nodes() if n.number not in self._names}
        return "a node" if node is None else self._names.get(node, node[:8])

    def refusal(self, node: str) -> str | None:
        """Why a node that has joined since cannot work at the study; None if it can."""
        if node in self._fit:
            return None
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        ask = ray.remote(num_cpus=0)(node_answers()).options(scheduling_strategy=strategy)
        answers = ray.get(ask.remote(str(recipe_file(self._study))), timeout=SILENT_SECONDS)
        problem = problem_of(answers, self._study)
        if problem is None:
            self._fit.add(node)
            return None
        return f"the node {self.name_of(node)} {problem}"

    def new_actor(self, tells: bool) -> Any:
        """Asks Ray for an actor, wherever there is room."""
        import ray

        cpus, gpus, _ = self._placement
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": 4, "max_restarts": 0}
        host = ray.remote(WorkerHost).options(scheduling_strategy="SPREAD", **options)
        environment = {name: os.environ[name] for name in OF_STORAGES if name in os.environ}
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return host.remote(os.getcwd(), first_message(self._study, tells=tells), environment)

    def end(self) -> None:
        """Ends all workers, who have a moment to give back what they hold."""
        import ray

        self.over.set()
        actors = [slot.actor for slot in self._slots if slot.node is not None]
        with suppress(Exception):  # Ray itself may be gone
            ray.wait(
                [actor.end.remote() for actor in actors],
                num_returns=len(actors),
                timeout=process.ENDING_SECONDS + 1,
            )
        for slot in self._slots:
            with suppress(Exception):
                ray.kill(slot.actor)

    def join(self) -> None:
        """Waits until nobody is listened to any more."""
        for slot in self._slots:
            slot.join(process.ENDING_SECONDS + 5)


@contextmanager
def started_workers(study: Study, emit: Emit, *, useful: int) -> Iterator[RayWorkers]:
    """Starts the workers of a study on a cluster; their events come here.

    Args:
        study: Its recipe says where, how many, and what each takes.
        emit: Told what happens.
        useful: How many are of use at most, unless more are asked for.

    Raises:
        UserError: If there is no cluster, or it cannot work at the study.
    """
    recipe = study.recipe
    study.news = lambda text: emit(Event("warning", text))
    with connected(recipe.ray_address):
        nodes = living_nodes()
        students_at_once = study.read(keys.CONCURRENT_STUDENTS)
        placement = place_workers(recipe, nodes, students_at_once, useful)
        check_nodes(study, [n for n in nodes if n.cpus >= placement.cpus])
        hosts = {node.name.partition("/")[0] for node in nodes}
        if len(hosts) > 1 and storage_path(study.url) is not None:
            text = "several hosts share a file as storage, which few network disks bear"
            emit(Event("warning", f"{text}: give --storage postgresql+psycopg://…"))
        workers = RayWorkers(study, emit, placement)
        workers.start()
        try:
            with before_exit(workers.end):
                yield workers
        finally:
            workers.end()
            workers.join()
