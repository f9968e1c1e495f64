"""Runs `nasdistill` and sends it a signal at given moments. Started by test_signals.py.

A moment is an audit event (PEP 578) of the interpreter, a part of its first argument, and how often
it must come: the second time that a file named so is opened, the import of a module.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

Moment = tuple[str, str, int]
"""Event, part of its argument, how often."""

IMPORTED_FIRST = (
    "alembic.command",
    "nasdistill.api.stages",
    "nasdistill.cli.display",
    "nasdistill.report",
    "nasdistill.study",
    "onnxruntime",
    "onnxscript",
    "torchvision",
)
"""What a search imports by and by, and forks need not."""


def signal_at(moment: Moment, number: int) -> None:
    """Has this process send itself a signal at a moment, from wherever it is then."""
    event, part, left = moment

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name == event and left and part in str(arguments[0]):
            left -= 1
            if not left:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def run(arguments: list[str]) -> None:
    sys.argv = ["nasdistill", *arguments]
    from nasdistill.__main__ import main

    main()


def run_forked(arguments: list[str], moment: Moment, number: int, said: Path) -> int:
    """Runs the command in a fork, which need not import what is imported already.

    Returns:
        Its exit status.
    """
    process = os.fork()
    if process == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = 1
        try:
            signal_at(moment, number)
            run(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Runs the commands that come as JSON on stdin, a line for each, and prints their statuses."""
    for line in sys.stdin:
        order = json.loads(line)
        moment = tuple(order["moment"])
        if order["fork"]:
            for name in IMPORTED_FIRST:
                importlib.import_module(name)
            status = run_forked(order["arguments"], moment, order["signal"], Path(order["said"]))
            print(status, flush=True)
        else:
            signal_at(moment, order["signal"])
            run(order["arguments"])


if __name__ == "__main__":
    main()
