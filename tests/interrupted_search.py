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


def run_and_signal(order: dict[str, Any]) -> None:
    """Runs a command, and has this process send itself a signal at a moment, if it comes."""
    event, part, left = order["moment"]

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name == event and left and part in str(arguments[0]):
            left -= 1
            if not left:
                os.kill(os.getpid(), order["signal"])

    sys.addaudithook(hook)
    sys.argv = ["nasdistill", *order["arguments"]]
    from nasdistill.__main__ import main

    main()


def run_forked(order: dict[str, Any]) -> int:
    """Runs a command in a fork, which need not import what is imported already.

    Returns:
        Its exit status.
    """
    process = os.fork()
    if process == 0:
        os.setsid()
        os.chdir(order["folder"])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = 1
        try:
            run_and_signal(order)
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Runs the command that is an argument, or those that come on stdin, each a line of JSON."""
    if len(sys.argv) > 1:
        run_and_signal(json.loads(sys.argv[1]))
        return
    for name in IMPORTED_FIRST:
        importlib.import_module(name)
    for line in sys.stdin:
        print(run_forked(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
