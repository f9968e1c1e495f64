"""The command line."""

from nasdistill.__main__ import main
from nasdistill.cli.commands import app

__all__ = ["app", "main"]
