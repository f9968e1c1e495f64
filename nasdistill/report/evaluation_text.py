"""Text and tables of what `evaluate` found of a final. All from outside passes `html.escape`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from nasdistill.analysis.evaluation import Quality, findings, points
from nasdistill.report import text
from nasdistill.report.evaluation import LEAST_IN_BIN, MODELS, Judged, classes_info

NOTE = (
    "A student may be right as often as its teacher and still be another model. Here each final is "
    "held against the teacher on the same examples of the test split, which chose nothing. Bars "
    "are 95 % intervals. A confusion is worsened or mended where the student’s answers differ from "
    "the teacher’s by more than chance (exact McNemar test on the class’s examples, Holm-corrected "
    "for all pairs, 5 %), and inherited where the teacher has it, in 2 % of the class or more, and "
    "the student does not clearly have it less."
)
MOST_CONFUSIONS = 12


def arranged(parts: Mapping[str, str]) -> str:
    """Puts figures and texts in their order.

    Args:
        parts: HTML by name: the figures' boxes, and those of `blocks`.
    """
    return (
        f"{parts['findings']}<h3>Accuracy by class</h3>{parts['classes']}{parts['left_out']}"
        f'<div class="pair"><div><h3>Confusions</h3>{parts["confusions"]}</div>'
        f"<div><h3>In figures</h3>{parts['facts']}</div></div>"
        f'<div class="pair"><div><h3>Under noise and blur</h3>{parts["robustness"]}'
        f"{parts['shown']}</div><div><h3>Accuracy by confidence</h3>{parts['calibration']}"
        f'<p class="note">Larger marks hold more examples; those of fewer than {LEAST_IN_BIN} are '
        "left out.</p></div></div>"
    )


def blocks(judged: Judged, first: int) -> dict[str, str]:
    """The section's texts by name, each once a final; all but the first's are hidden.

    Args:
        judged: Finals with what was found.
        first: Rank of the one that is shown at first.
    """
    return {
        name: "".join(
            f'<div data-of="final-{final.rank}"{"" if final.rank == first else " hidden"}>'
            f"{write(found)}</div>"
            for final, found in judged
        )
        for name, write in TEXTS.items()
    }


def _findings(quality: Quality) -> str:
    items = "".join(f"<li>{escape(said)}</li>" for said in findings(quality))
    return f'<ul class="findings">{items}</ul>'


def _left_out(quality: Quality) -> str:
    hidden = classes_info(quality).left_out
    said = f"{hidden} more classes, whose accuracy changes less, are in quality.json."
    return f'<p class="note">{said}</p>' if hidden else ""


def _shown(quality: Quality) -> str:
    found = quality["robustness"]
    said = (
        f"The same {text.counted(found['examples'], 'picture')} for both, made worse at the size "
        "that the student sees; at 0 they are clean. Blur is in per cent of the shorter side."
    )
    return f'<p class="note">{said}</p>'


def _confusions(quality: Quality) -> str:
    """The confusions that have a verdict: what changed first, then what was inherited."""
    bias = quality["bias"]
    found = bias["confusions"]
    if not found:
        return (
            "<p>The teacher confuses no two classes often enough to hand it on, and of "
            f"{text.counted(bias['tested_pairs'], 'pair')} that could tell, none differs by more "
            "than chance.</p>"
        )
    ranked = sorted(found, key=lambda c: (c["verdict"] == "inherited", -c["student"]))
    rows = "".join(
        f"<tr><td>{escape(c['true'])}</td><td>{escape(c['answered'])}</td>"
        f'<td class="{escape(c["verdict"])}">{escape(c["verdict"])}</td>'
        f"<td>{text.percent(c['student'])}</td><td>{text.percent(c['teacher'])}</td>"
        f"<td>{text.percent(c['both'])}</td><td>{c['p']:.2g}</td></tr>"
        for c in ranked[:MOST_CONFUSIONS]
    )
    titles = ("class", "taken for", "", "student", "teacher", "both alike", "p")
    head = "".join(f"<th>{title}</th>" for title in titles)
    more = len(ranked) - MOST_CONFUSIONS
    note = f'<p class="note">{more} more are in quality.json.</p>' if more > 0 else ""
    return (
        f'<div class="scroll"><table class="confusions"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _facts(quality: Quality) -> str:
    """Student and teacher side by side."""
    rows = [("accuracy", [text.percent(quality["accuracy"][m]["value"]) for m in MODELS])]
    calibration, bias = quality["calibration"], quality["bias"]
    rows += [
        ("calibration error", [text.percent(calibration[m]["ece"]) for m in MODELS]),
        ("confidence − accuracy", [_signed(calibration[m]["overconfidence"]) for m in MODELS]),
        (
            "lost under noise and blur",
            [text.percent(quality["robustness"]["mean_drop"][m]) for m in MODELS],
        ),
        ("best − worst class", [text.percent(bias["spread"][m]["range"]) for m in MODELS]),
        ("deviation over classes", [text.percent(bias["spread"][m]["deviation"]) for m in MODELS]),
    ]
    agreed, relations = quality["agreement"], quality["class_relations"]
    rows += [
        ("agreement", [text.percent(agreed["all"]), ""]),
        ("… where the teacher is right", [text.percent(agreed["teacher_right"]), ""]),
        ("… where it is wrong", [text.percent(agreed["teacher_wrong"]), ""]),
        ("class relations kept", [text.percent(relations["preservation"], 2), ""]),
    ]
    for pair in relations["worst_pairs"][:3]:
        names = " / ".join(pair["classes"])
        rows.append((f"… {names}", [text.percent(pair["preserved"], 2), ""]))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    head = "<tr><th></th><th>student</th><th>teacher</th></tr>"
    return f'<div class="scroll"><table class="facts"><thead>{head}</thead>{body}</table></div>'


def _signed(value: float | None) -> str:
    return text.NONE if value is None else points(value)


TEXTS: Mapping[str, Callable[[Quality], str]] = {
    "findings": _findings,
    "left_out": _left_out,
    "confusions": _confusions,
    "shown": _shown,
    "facts": _facts,
}
