"""The command line."""

from nasdistill.cli.commands import app

__all__ = ["app"]
