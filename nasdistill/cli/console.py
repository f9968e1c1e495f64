"""What the commands share: one message for whatever may go wrong, and the console."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nasdistill.common.errors import UserError, disk_problem

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 140
"""Columns where the output is no terminal."""


@contextmanager
def error_messages(study: str | None = None) -> Iterator[None]:
    """Turns what may go wrong into one message on stderr and an exit status.

    Status 2 for what the user can mend, 130 for Ctrl-C, 1 for a full or read-only disk.

    Args:
        study: The study that is being worked on; named when the user interrupts.
    """
    try:
        yield
    except UserError as error:
        print(f"nasdistill: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"\n{_interrupted(study)}", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"nasdistill: cannot write: {problem}{_goes_on(study)}", file=sys.stderr)
        raise typer.Exit(1) from None


def console(stderr: bool = False) -> Console:
    """A Rich console on stdout or stderr, wide and plain where that is no terminal."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, soft_wrap=not terminal, width=None if terminal else PLAIN_WIDTH)


def _saved(study: str | None) -> bool:
    return study is not None and (Path("studies") / study / "recipe.yaml").exists()


def _interrupted(study: str | None) -> str:
    if _saved(study):
        return f"Saved. Go on with: nasdistill resume {study}"
    return "Interrupted; nothing was begun, so nothing is lost."


def _goes_on(study: str | None) -> str:
    if not _saved(study):
        return ""
    return f"\nWhat was saved is kept. With room again, go on with: nasdistill resume {study}"
