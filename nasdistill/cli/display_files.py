"""The terminal's display of a final's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from nasdistill.cli.console import console
from nasdistill.common import formats
from nasdistill.results import Final


def print_file(made: Mapping[str, Any], as_json: bool) -> None:
    """Prints a file or page that was exported, as JSON or in a few lines.

    Args:
        made: The result of `api.export`.
        as_json: Whether as JSON.
    """
    if as_json:
        print(json.dumps(made))
    else:
        console().print(*file_lines(made), sep="\n")


def file_lines(made: Mapping[str, Any]) -> list[Text]:
    """A file or page that was exported, in a few lines; what is wrong with it in red.

    Args:
        made: The result of `api.export`.
    """
    if made["format"] == "web":
        return _page_lines(made)
    lines = [f"Written: {made['path']}, {formats.size(made['bytes'])}"]
    if made.get("test_accuracy") is not None:
        bounds = formats.interval(made["test_interval"])
        lines.append(
            f"accuracy     {formats.percent(made['test_accuracy'])} on test ({bounds}), "
            f"{-made['loss_points']:+.2f} points against fp32; as fp32 answers "
            f"{formats.percent(made['agreement'])}"
        )
    lines.append(
        f"difference   {made['largest_difference']:.2g} at most, {made['mean_difference']:.2g} on "
        f"average, between its logits and the module's ({made['pictures']:,} pictures)"
    )
    for row in made["latency"]:
        lines.append(
            f"latency      {row['median_ms']:.3f} ms median, quartiles {row['q1_ms']:.3f} to "
            f"{row['q3_ms']:.3f} ms, batch {row['batch']}; fp32 beside it {row['fp32_ms']:.3f} ms "
            f"({row['engine']}, {formats.counted(row['threads'], 'thread')})"
        )
    if made.get("preparation"):
        lines.append(f"preparation  {formats.preparation(made['preparation'])}")
    return [*map(Text, lines), *(Text(f"This file {text}", "red") for text in made["problems"])]


def _page_lines(made: Mapping[str, Any]) -> list[Text]:
    """A page that was exported, and how to see it."""
    lines = (
        f"Written: {made['path']}, a page with {made['model']}, {formats.size(made['bytes'])}",
        f"See it: python3 -m http.server --directory {made['path']}, then http://localhost:8000",
    )
    return [Text(line) for line in lines]


def problem_lines(finals: Sequence[Final]) -> list[Text]:
    """What is wrong with the files of finals, in red; none where all are well."""
    return [
        Text(f"final {final.rank}, {name}: {problem}", "red")
        for final in finals
        for name, file in final.metrics.get("files", {}).items()
        for problem in (file.get("problems") or filter(None, [file.get("failed")]))
    ]
