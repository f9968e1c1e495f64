"""A study as one HTML page. The only package that imports Plotly."""

from __future__ import annotations

from pathlib import Path

from nasdistill.files import write_whole
from nasdistill.report.page import render
from nasdistill.results import StudyRecord

__all__ = ["write_report"]


def write_report(record: StudyRecord, path: Path) -> None:
    """Writes a study's report as one HTML file that needs no network.

    The file appears whole or not at all; folders above it are made.

    Args:
        record: The study.
        path: Where the file goes, e.g. `reports/<study>/index.html`.

    Raises:
        UserError: If the study has no trials yet.
    """
    text = render(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
