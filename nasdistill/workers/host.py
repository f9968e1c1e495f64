"""A Ray actor that keeps a worker's process on its node.

It starts the same process as a command does for a local worker, and passes lines on: what Ray does
with signals, threads and the ends of processes never meets training.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress

from nasdistill.common.processes import cause_of
from nasdistill.workers import process
from nasdistill.workers.pool import Message

LOOK_SECONDS = 0.5
"""Time between two looks at what a worker is at."""
END = "end"
"""Key of an actor's last message: how its process ended."""


class WorkerHost:
    """An actor that keeps a worker's process on its node.

    Args:
        folder: Where the process works: the driver's; it is made where it is not there.
        first: Its first message; it comes by a pipe.
        environment: Variables of the process beside those of the actor.
    """

    def __init__(self, folder: str, first: Message, environment: dict[str, str]) -> None:
        self._messages: queue.Queue[Message] = queue.Queue()
        self._begun = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        arguments = (folder, first, environment)
        threading.Thread(target=self._keep, args=arguments, daemon=True).start()

    def _keep(self, folder: str, first: Message, environment: dict[str, str]) -> None:
        """Starts the process, which ends with the thread that did, and listens to it."""
        try:
            os.makedirs(folder, exist_ok=True)
            kept = process.start(folder, environment, subprocess.PIPE)
        except OSError as error:
            self._messages.put({END: f"could not be started: {error}"})
            return
        self._process, last = kept, deque[str](maxlen=3)
        errors = threading.Thread(target=lambda: last.extend(kept.stderr or ()), daemon=True)
        errors.start()
        process.send(kept, first)
        self._begun.set()
        for line in kept.stdout or ():
            with suppress(ValueError):  # something else has printed it
                self._messages.put(json.loads(line))
        status = kept.wait()
        errors.join(1.0)
        complaint = "" if status == 0 else " ".join("".join(last).split())[-300:]
        cause = f"ended {cause_of(status)}" if status else ""
        self._messages.put({END: f"{cause} ({complaint})" if complaint else cause})

    def place(self) -> str:
        """Ray's number of the node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def send(self, message: Message, spent: float) -> None:
        """Gives the process a task.

        Args:
            message: The task; where it holds `begun`, that is this host's clock from here on.
            spent: Seconds since the command began.
        """
        self._begun.wait()
        if message.get("begun") is not None:
            message = {**message, "begun": time.monotonic() - spent}
        if self._process is not None:
            process.send(self._process, message)

    def read(self) -> list[Message]:
        """What the process has told since; waits for a moment if it has told nothing."""
        messages: list[Message] = []
        with suppress(queue.Empty):
            messages.append(self._messages.get(timeout=LOOK_SECONDS))
            while len(messages) < 1000:
                messages.append(self._messages.get_nowait())
        return messages

    def end(self) -> None:
        """Ends the process, which gives back what it holds."""
        if self._process is not None:
            process.end_all([self._process])
