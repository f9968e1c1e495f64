"""Parts that the commands share: the console, the display of progress, messages for errors."""

from __future__ import annotations

import codecs
import io
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from nasdistill.common.environment import environment_problem
from nasdistill.common.errors import UserError, disk_problem
from nasdistill.common.files import STUDIES
from nasdistill.common.interruption import set_exit_message

if TYPE_CHECKING:
    from rich.console import Console

    from nasdistill.common.events import Emit

PLAIN_WIDTH = 140
"""Columns where the output is no terminal."""
_IN_ASCII = {
    **{"–": "-", "—": "-", "−": "-", "×": "x", "÷": "/", "≤": "<=", "≥": ">=", "·": "*", "±": "+-"},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "√": "sqrt", "✓": "yes", "✗": "no"},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "λ": "lambda"},
    **{"ρ": "rho", "σ": "sigma", "τ": "tau"},
}
"""ASCII for what messages and tables may hold."""


def show_any_character() -> None:
    """Has stdout and stderr replace a character that they cannot show, instead of raising.

    An ASCII or Latin-1 console, or a name that is not UTF-8, must not end a search.
    """
    codecs.register_error("nasdistill", _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nasdistill")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    """The handler of encoding errors: the character in ASCII, without its accent, or `?`."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    plain = _IN_ASCII.get(character) or unicodedata.normalize("NFKD", character)
    text = plain.encode("ascii", "ignore").decode() or "?"
    return text, error.start + 1


@contextmanager
def error_messages(study: str | None = None) -> Iterator[None]:
    """Turns errors into one message on stderr and an exit status.

    Status 2 for what the user can mend; 1 for a full or read-only disk, and where the process lacks
    something. Ctrl-C and other signals end it elsewhere (`common.interruption`), which is told here
    what to say.

    Args:
        study: The study that is being worked on; named in how to go on.
    """
    set_exit_message(lambda: _interruption_message(study))
    try:
        yield
    except UserError as error:
        print(f"nasdistill: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except Exception as error:
        disk, lacking = disk_problem(error), environment_problem(error)
        if disk is None and lacking is None:
            raise
        problem = lacking if disk is None else f"cannot write: {disk}"
        print(f"nasdistill: {problem}{_how_to_go_on(study)}", file=sys.stderr)
        raise typer.Exit(1) from None


def console(stderr: bool = False) -> Console:
    """A Rich console on stdout or stderr, wide and plain where that is no terminal."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, soft_wrap=not terminal, width=None if terminal else PLAIN_WIDTH)


Result = TypeVar("Result")


def with_progress(run: Callable[[Any, Emit], Result], study: str | None = None) -> Result:
    """Calls a function that takes a while, and shows its events on stderr.

    Args:
        run: Takes `nasdistill.api`, which is imported only now, and the receiver of the events.
        study: As for `error_messages`.
    """
    with error_messages(study):
        from nasdistill import api
        from nasdistill.cli.display import Display

        with Display(console(stderr=True)) as display:
            return run(api, display)


def _saved(study: str | None) -> bool:
    return study is not None and (STUDIES / study / "recipe.yaml").exists()


def _interruption_message(study: str | None) -> str:
    if _saved(study):
        return f"Saved. Go on with: nasdistill resume {shlex.quote(str(study))}"
    return "Interrupted; what was saved is kept. Go on with the same command."


def _how_to_go_on(study: str | None) -> str:
    if not _saved(study):
        return ""
    name = shlex.quote(str(study))
    return f"\nWhat was saved is kept. When that is mended: nasdistill resume {name}"
