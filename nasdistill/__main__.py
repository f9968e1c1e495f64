"""The command `nasdistill`, and `python -m nasdistill`."""

from __future__ import annotations

from nasdistill.common.interruption import heed_signals


def main() -> None:
    """Runs the command line; signals are heeded before anything large is imported."""
    heed_signals(lambda: "Interrupted before anything began. Go on with the same command.")
    from nasdistill.cli.commands import app

    app()


if __name__ == "__main__":
    main()
