"""The frame of every page: one HTML file with Plotly, styles and script inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from nasdistill.common.files import write_whole

_PACKAGE = Path(__file__).parent

Plots = Mapping[str, Mapping[str, go.Figure]]
"""Figures by the name of their box, each in its variants by key; a single one has the key ``""``.
The first variant is shown when the page opens."""


class Section(NamedTuple):
    """A part of a page: its HTML, empty where there is nothing to show, and its figures."""

    html: str
    plots: Plots


def document(title: str, summary: str, verdict: str, sections: Sequence[Section]) -> str:
    """A page that needs no network.

    Nothing is loaded from elsewhere: the page's own policy forbids it, and only the scripts whose
    hashes it names may run.

    Args:
        title: Plain text.
        summary: HTML below the title.
        verdict: HTML that heads the page.
        sections: The parts, in their order.
    """
    scripts = [_script(get_plotlyjs()), _script((_PACKAGE / "page.js").read_text("utf-8"))]
    return Template((_PACKAGE / "page.html").read_text("utf-8")).substitute(
        policy="; ".join(
            [
                "default-src 'none'",
                "style-src 'unsafe-inline'",
                "img-src data: blob:",
                "script-src " + " ".join(f"'sha256-{_hash(script)}'" for script in scripts),
            ]
        ),
        title=escape(title),
        style=(_PACKAGE / "page.css").read_text("utf-8"),
        summary=summary,
        verdict=verdict,
        sections="\n".join(section.html for section in sections),
        figures=_embed({n: variants for s in sections for n, variants in s.plots.items()}),
        plotly=scripts[0],
        script=scripts[1],
    )


def write_page(path: Path, html: str) -> None:
    """Writes a page; it appears whole or not at all, and folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, html)


def _script(source: str) -> str:
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    assert "</script" not in source.lower(), "a script must not hold its own end tag"
    return source


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _embed(plots: Plots) -> str:
    """JSON that can stand inside a script element: no `<`, `>`, `&` or line separators."""
    data = {
        name: {key: json.loads(figure.to_json()) for key, figure in variants.items()}
        for name, variants in plots.items()
    }
    result = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        result = result.replace(character, f"\\u{ord(character):04x}")
    return result


def section(title: str, body: str, remark: str = "", plots: Plots | None = None) -> Section:
    """A titled part of a page.

    Args:
        title: HTML of the heading.
        body: HTML.
        remark: HTML above the body: how to read it.
        plots: The figures that the body has boxes for.
    """
    lead = note(remark) if remark else ""
    return Section(f"<section><h2>{title}</h2>{lead}{body}</section>", plots or {})


def note(html: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html}</p>'


def figure_box(name: str, figure: go.Figure) -> str:
    """The element in which the script draws a figure."""
    height = int(figure.layout.height)
    return f'<div class="plot" id="{name}" style="height:{height}px"></div>'


def buttons(kind: str, labels: Mapping[str, str], pressed: str) -> str:
    """A row of buttons of which one is pressed."""
    inner = "".join(
        f'<button type="button" data-{kind}="{key}" aria-pressed="{str(key == pressed).lower()}">'
        f"{escape(label)}</button>"
        for key, label in labels.items()
    )
    return f'<div class="buttons" role="group">{inner}</div>'


def table(titles: Iterable[str], rows: Iterable[str], name: str = "", box: str = "scroll") -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        titles: HTML of the columns' heads.
        rows: HTML of the rows, each a `tr` element.
        name: Class of the table.
        box: Classes of the box around it.
    """
    kind = f' class="{name}"' if name else ""
    head = "".join(f"<th>{title}</th>" for title in titles)
    return (
        f'<div class="{box}"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def text_row(cells: Iterable[str]) -> str:
    """A table's row of plain texts, which are escaped."""
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
