"""The files of a final as its model card lists them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdistill.common import formats
from nasdistill.common.files import write_whole

CARD = "README.md"
BEGIN, END = "<!-- files: begin -->", "<!-- files: end -->"


def list_files(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the list of files into a final's card, in the place of an earlier one or at its end.

    Args:
        folder: The final's.
        records: Of its files, by format; those that could not be made are left out. A card that
            is not there is not written.
    """
    card = folder / CARD
    if not card.is_file():
        return
    lines = [line for record in records.values() if "file" in record for line in _lines(record)]
    text = card.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):  # no list yet, or one whose marks somebody removed
        before, after = text, "\n"
    section = "\n".join(["## Files", "", *lines])
    write_whole(card, f"{before.rstrip()}\n\n{BEGIN}\n{section}\n{END}{after}")


def _lines(record: Mapping[str, Any]) -> list[str]:
    """What a file is and what was proven of it; what it takes, where it prepares pictures."""
    figures = [record["engine"], f"{record['bytes']:,} bytes"]
    if record.get("test_accuracy") is not None:
        figures.append(f"test accuracy {record['test_accuracy']:.4f}")
        figures.append(f"{record['loss_points']:.2f} points lost against fp32")
    figures.append(f"logits within {record['largest_difference']:.2g} of the module's")
    lines = [f"- `{record['file']}`: {', '.join(figures)}"]
    takes, preparation = record["remarks"].get("takes"), record.get("preparation")
    if takes is not None:  # records of earlier releases do not say it
        lines.append(f"  - takes {takes}")
    if preparation is not None:
        lines.append(f"  - prepares it {formats.preparation(preparation)}")
    return [*lines, *(f"  - {problem}" for problem in record["problems"])]
