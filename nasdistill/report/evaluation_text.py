"""Text and tables of a final's evaluation. All from outside passes `html.escape`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from nasdistill.analysis.evaluation import Quality, findings, points
from nasdistill.common import formats
from nasdistill.report.document import note, table
from nasdistill.report.evaluation import (
    MIN_EXAMPLES_IN_BIN,
    MODELS,
    EvaluatedFinal,
    classes_info,
)

NOTE = (
    "A student may be right as often as its teacher and still be another model. Here each final is "
    "held against the teacher on the same examples of the test split, which chose nothing. Bars "
    "are 95 % intervals. A confusion is worsened or mended where the student’s answers differ from "
    "the teacher’s by more than chance (exact McNemar test on the class’s examples, Holm-corrected "
    "for all pairs, 5 %), and inherited where the teacher has it, in 2 % of the class or more, and "
    "the student does not clearly have it less."
)
MAX_CONFUSIONS = 12


def arrange(parts: Mapping[str, str]) -> str:
    """Puts figures and texts in their order.

    Args:
        parts: HTML by name: the figures' boxes, and those of `evaluation_texts`.
    """
    bins_note = note(
        f"Larger marks hold more examples; those of fewer than {MIN_EXAMPLES_IN_BIN} are left out."
    )
    return (
        f"{parts['findings']}<h3>Accuracy by class</h3>{parts['classes']}{parts['left_out']}"
        f'<div class="pair"><div><h3>Confusions</h3>{parts["confusions"]}</div>'
        f"<div><h3>In figures</h3>{parts['facts']}</div></div>"
        f'<div class="pair"><div><h3>Under noise and blur</h3>{parts["robustness"]}'
        f"{parts['pictures']}</div><div><h3>Accuracy by confidence</h3>{parts['calibration']}"
        f"{bins_note}</div></div>"
    )


def evaluation_texts(evaluated: Sequence[EvaluatedFinal], first: int) -> dict[str, str]:
    """The section's texts by name, each once a final; all but the first's are hidden.

    Args:
        evaluated: The finals.
        first: Rank of the one that is shown at first.
    """
    return {
        name: "".join(
            f'<div data-of="{each.key}"{"" if each.final.rank == first else " hidden"}>'
            f"{write(each.quality)}</div>"
            for each in evaluated
        )
        for name, write in TEXTS.items()
    }


def _findings(quality: Quality) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(quality))
    return f'<ul class="findings">{items}</ul>'


def _left_out(quality: Quality) -> str:
    hidden = classes_info(quality).left_out
    sentence = f"{hidden} more classes, whose accuracy changes less, are in quality.json."
    return note(sentence) if hidden else ""


def _pictures(quality: Quality) -> str:
    examples = quality["robustness"]["examples"]
    return note(
        f"The same {formats.counted(examples, 'picture')} for both, made worse at the size "
        "that the student sees; at 0 they are clean. Blur is in per cent of the shorter side."
    )


def _confusions(quality: Quality) -> str:
    """The confusions that have a verdict: those that changed first, then the inherited ones."""
    bias = quality["bias"]
    confusions = bias["confusions"]
    if not confusions:
        return (
            "<p>The teacher confuses no two classes often enough to hand it on, and of "
            f"{formats.counted(bias['tested_pairs'], 'pair')} that could tell, none differs by "
            "more than chance.</p>"
        )
    ranked = sorted(confusions, key=lambda c: (c["verdict"] == "inherited", -c["student"]))
    rows = [
        f"<tr><td>{escape(c['true'])}</td><td>{escape(c['answered'])}</td>"
        f'<td class="{escape(c["verdict"])}">{escape(c["verdict"])}</td>'
        f"<td>{formats.percent(c['student'])}</td><td>{formats.percent(c['teacher'])}</td>"
        f"<td>{formats.percent(c['both'])}</td><td>{c['p']:.2g}</td></tr>"
        for c in ranked[:MAX_CONFUSIONS]
    ]
    titles = ("class", "taken for", "", "student", "teacher", "both alike", "p")
    more = len(ranked) - MAX_CONFUSIONS
    remark = note(f"{more} more are in quality.json.") if more > 0 else ""
    return table(titles, rows, name="confusions") + remark


def _facts(quality: Quality) -> str:
    """Student and teacher side by side."""
    percent = formats.percent
    calibration, drop = quality["calibration"], quality["robustness"]["mean_drop"]
    spread = quality["bias"]["spread"]
    rows = [
        ("accuracy", [percent(quality["accuracy"][m]["value"]) for m in MODELS]),
        *_balanced(quality),
        ("calibration error", [percent(calibration[m]["ece"]) for m in MODELS]),
        ("confidence − accuracy", [_signed(calibration[m]["overconfidence"]) for m in MODELS]),
        ("lost under noise and blur", [percent(drop[m]) for m in MODELS]),
        ("best − worst class", [percent(spread[m]["range"]) for m in MODELS]),
        ("deviation over classes", [percent(spread[m]["deviation"]) for m in MODELS]),
    ]
    agreement, relations = quality["agreement"], quality["class_relations"]
    rows += [
        ("agreement", [percent(agreement["all"]), ""]),
        ("… where the teacher is right", [percent(agreement["teacher_right"]), ""]),
        ("… where it is wrong", [percent(agreement["teacher_wrong"]), ""]),
        ("class relations kept", [percent(relations["preservation"], 2), ""]),
    ]
    for pair in relations["worst_pairs"][:3]:
        names = " / ".join(pair["classes"])
        rows.append((f"… {names}", [percent(pair["preserved"], 2), ""]))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    head = "<tr><th></th><th>student</th><th>teacher</th></tr>"
    return f'<div class="scroll"><table class="facts"><thead>{head}</thead>{body}</table></div>'


def _balanced(quality: Quality) -> list[tuple[str, list[str]]]:
    """Rows that earlier releases' evaluations lack."""
    if "balanced_accuracy" not in quality:
        return []
    balanced = [quality["balanced_accuracy"][m]["value"] for m in MODELS]
    return [
        ("balanced accuracy", [formats.percent(value) for value in balanced]),
        ("share of the largest class", [formats.percent(quality["majority"]), ""]),
    ]


def _signed(value: float | None) -> str:
    return formats.NONE if value is None else points(value)


TEXTS: Mapping[str, Callable[[Quality], str]] = {
    "findings": _findings,
    "left_out": _left_out,
    "confusions": _confusions,
    "pictures": _pictures,
    "facts": _facts,
}
