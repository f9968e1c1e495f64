"""`python -m nasdistill.cli`."""

from nasdistill.cli.commands import main

main()
