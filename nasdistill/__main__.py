"""The command `nasdistill`, and `python -m nasdistill`."""

from __future__ import annotations

import os
import sys

from nasdistill.common.interruption import handle_signals
from nasdistill.common.streams import OutputLost, discard_from_now_on, prepare_streams


def main() -> None:
    """Runs the command line; before anything large is imported, signals are handled."""
    prepare_streams()
    handle_signals(lambda: "Interrupted before anything began. Go on with the same command.")
    # OpenMP reads it as torch is imported. Threads that spin for long while they wait take the
    # cores from those they wait for, as soon as others are at work too (docs/time.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's spins so often, then gives way
    try:
        try:
            from nasdistill.cli.commands import app
            from nasdistill.cli.console import show_any_character

            show_any_character()
            app()
        finally:
            sys.stdout.flush()
    except OutputLost as error:
        discard_from_now_on(1)
        reason = f"{error}. What was not printed is lost; what was saved is kept"
        print(f"nasdistill: cannot write to standard output: {reason}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
