"""The command line."""

from nasdistill.cli.commands import app, main

__all__ = ["app", "main"]
