"""The frame of every page: one HTML file with Plotly, styles and script inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

_HERE = Path(__file__).parent


def document(
    title: str,
    summary: str,
    verdict: str,
    sections: Sequence[str],
    plots: Mapping[str, Mapping[str, go.Figure]],
) -> str:
    """A page that needs no network.

    Nothing is loaded from elsewhere: the page's own policy forbids it, and only the scripts whose
    hashes it names may run.

    Args:
        title: Plain text.
        summary: HTML below the title.
        verdict: HTML that heads the page.
        sections: HTML.
        plots: Figures by the name of their box, in their variants.
    """
    scripts = [_script(get_plotlyjs()), _script((_HERE / "page.js").read_text("utf-8"))]
    return Template((_HERE / "page.html").read_text("utf-8")).substitute(
        policy="; ".join(
            [
                "default-src 'none'",
                "style-src 'unsafe-inline'",
                "img-src data: blob:",
                "script-src " + " ".join(f"'sha256-{_hash(script)}'" for script in scripts),
            ]
        ),
        title=escape(title),
        style=(_HERE / "page.css").read_text("utf-8"),
        summary=summary,
        verdict=verdict,
        sections="\n".join(sections),
        figures=_embed(plots),
        plotly=scripts[0],
        script=scripts[1],
    )


def _script(source: str) -> str:
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    assert "</script" not in source.lower(), "a script must not hold its own end tag"
    return source


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _embed(plots: Mapping[str, Mapping[str, go.Figure]]) -> str:
    """JSON that can stand inside a script element: no `<`, `>`, `&` or line separators."""
    data = {
        name: {key: json.loads(figure.to_json()) for key, figure in variants.items()}
        for name, variants in plots.items()
    }
    result = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        result = result.replace(character, f"\\u{ord(character):04x}")
    return result


def section(title: str, body: str, note: str = "") -> str:
    """A titled part of a page; title, body and note are HTML."""
    lead = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{lead}{body}</section>"


def figure_box(name: str, figure: go.Figure) -> str:
    """Where the script draws a figure."""
    height = int(figure.layout.height)
    return f'<div class="plot" id="{name}" style="height:{height}px"></div>'


def buttons(kind: str, labels: dict[str, str], pressed: str) -> str:
    """A row of buttons of which one is pressed."""
    inner = "".join(
        f'<button type="button" data-{kind}="{key}" aria-pressed="{str(key == pressed).lower()}">'
        f"{escape(label)}</button>"
        for key, label in labels.items()
    )
    return f'<div class="buttons" role="group">{inner}</div>'
