"""The command by which a worker joins a study, and its options."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from nasdistill.cli import options
from nasdistill.cli.console import error_messages, with_progress

JoinedStudy = Annotated[
    str,
    typer.Argument(
        help="Name of the study, begun in the current folder, or the path of its folder, which "
        "this host must see."
    ),
]
JoinedStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="NASDISTILL_STORAGE",
        show_envvar=False,
        help="Optuna storage URL, where this host calls it otherwise than the study's folder does; "
        "give one with a password by the variable NASDISTILL_STORAGE (default: as the folder "
        "says).",
        show_default=False,
    ),
]
JoinedFiles = Annotated[
    str | None,
    typer.Option(
        "--files",
        envvar="NASDISTILL_FILES",
        show_envvar=False,
        help="URL by which the study's hosts share its files, where this one does not see its "
        "folder; or NASDISTILL_FILES (default: as the study was begun).",
        show_default=False,
    ),
]
OwnWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=64,
        help="Local processes (default: as in search, on this machine).",
        show_default=False,
    ),
]


def worker(
    study: JoinedStudy,
    storage: JoinedStorage = None,
    files: JoinedFiles = None,
    workers: OwnWorkers = None,
    as_json: options.Json = False,
) -> None:
    """Join a study that runs elsewhere, and leave when nothing is left to do.

    The command that began it makes the report.
    """
    with error_messages():
        from nasdistill.api import enter

        name = enter(study)
    complete = with_progress(
        lambda api, emit: api.join(
            name, storage=storage, files=files, workers=workers, on_event=emit
        )
    )
    end = "is complete" if complete else "has no work left for this worker"
    result = {"study": name, "complete": complete}
    print(json.dumps(result) if as_json else f"The study {name} {end}.")
