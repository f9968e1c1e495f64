"""Tables of the report as HTML. Everything that came from outside passes `html.escape`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from nasdistill.report import text
from nasdistill.report.figures import latency_of, limits_of, teacher_accuracy
from nasdistill.results import Candidate, Final, StudyRecord

Cell = Callable[[Final], str]


def finals_table(record: StudyRecord) -> str:
    """One column per final and one for the teacher, one row per metric."""
    rows = [
        _row("test accuracy", record, _accuracy, text.percent(teacher_accuracy(record))),
        _row("retention (student ÷ teacher)", record, _share("retention")),
        _row("agreement with the teacher", record, _share("agreement")),
        _row("class-relation preservation", record, _share("class_relation_preservation")),
        _row("calibration error", record, _share("ece"), text.percent(_teacher_ece(record))),
        _row("accuracy on labels alone (baseline)", record, _baseline),
        _row("gained by distillation", record, _gain),
        _head("Size", record),
        _row("parameters", record, _number("params"), text.count(record.teacher.get("params"))),
        _row("MACs", record, _number("macs"), text.count(record.teacher.get("macs"))),
        _row("weights", record, _size("bytes"), text.size(record.teacher.get("bytes"))),
        _row("ONNX file", record, _size("onnx_bytes")),
        _row("compression (parameters)", record, _ratio("compression")),
        _head("Latency: median [quartiles], student and teacher in the same minute", record),
        *_latency_rows(record),
        _row("speed-up, batch 1", record, _ratio("speedup")),
        _head("Checks", record),
        _row("limits, on the exported file", record, _limits),
        _row("export: largest difference", record, _export),
        _row("checkpoint", record, _checkpoint),
        _row("seconds spent", record, _seconds),
    ]
    head = "".join(_final_head(record, final) for final in record.finals)
    return (
        '<div class="scroll"><table class="finals"><thead><tr><th>Quality</th>'
        f'{head}<th class="teacher">teacher<br><small>{escape(str(record.teacher.get("name", "")))}'
        f"</small></th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def steps_table(record: StudyRecord) -> str:
    """What each generation or assistant added; empty where no final has any."""
    chains = [(final, final.metrics.get("steps") or []) for final in record.finals]
    if not any(steps for _, steps in chains):
        return ""
    rows = []
    for final, steps in chains:
        first: float | None = None
        for step in steps:
            name, gain = f"final {final.rank}", text.NONE
            if "assistant" in step:
                name = f"assistant {step['assistant']}"
            else:
                first = step["score_accuracy"] if first is None else first
                gain = f"{100 * (step['score_accuracy'] - first):+.1f} points"
            taken = "★ taken" if step.get("chosen") else ""
            cells = (
                name,
                str(step["taught_by"]),
                text.count(step["params"]),
                text.percent(step["score_accuracy"]),
                text.percent(step["audit_accuracy"]),
                gain,
                taken,
            )
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    titles = (
        "who",
        "taught by",
        "parameters",
        "score half",
        "audit half",
        "against the first teacher",
        "",
    )
    head = "".join(f"<th>{title}</th>" for title in titles)
    return (
        f'<div class="scroll"><table class="steps"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _final_head(record: StudyRecord, final: Final) -> str:
    star = '<span class="star">★ recommended</span>' if final.recommended else ""
    broken = '<span class="bad">breaks a limit</span>' if final.broken_limits else ""
    return f"<th>final {final.rank}<br><small>trial {final.number}</small>{star}{broken}</th>"


def _head(title: str, record: StudyRecord) -> str:
    return f'<tr class="group"><th colspan="{len(record.finals) + 2}">{title}</th></tr>'


def _row(title: str, record: StudyRecord, cell: Cell, teacher: str = "") -> str:
    cells = "".join(f"<td>{cell(final)}</td>" for final in record.finals)
    return f"<tr><th>{title}</th>{cells}<td class=teacher>{teacher}</td></tr>"


def _share(key: str) -> Cell:
    return lambda final: text.percent(final.metrics.get(key))


def _number(key: str) -> Cell:
    return lambda final: text.count(final.metrics.get(key))


def _size(key: str) -> Cell:
    return lambda final: text.size(final.metrics.get(key))


def _ratio(key: str) -> Cell:
    return lambda final: text.times(final.metrics.get(key))


def _accuracy(final: Final) -> str:
    metrics = final.metrics
    bounds = text.interval(metrics.get("test_interval"))
    return f"<b>{text.percent(metrics.get('test_accuracy'))}</b><br><small>{bounds}</small>"


def _teacher_ece(record: StudyRecord) -> float | None:
    known = [final.metrics.get("teacher_ece") for final in record.finals]
    return next((v for v in (*known, record.teacher.get("ece")) if v is not None), None)


def _baseline(final: Final) -> str:
    baseline = final.metrics.get("baseline")
    if not baseline:
        return "not trained"
    bounds = text.interval(baseline.get("test_interval"))
    return f"{text.percent(baseline.get('test_accuracy'))}<br><small>{bounds}</small>"


def _gain(final: Final) -> str:
    baseline, accuracy = (final.metrics.get(key) for key in ("baseline", "test_accuracy"))
    if not baseline or accuracy is None:
        return text.NONE
    return f"{100 * (accuracy - baseline['test_accuracy']):+.1f} points"


def _limits(final: Final) -> str:
    parts = []
    for limit in limits_of(final):
        above = limit.ok == (limit.name == "accuracy")
        sign = ("≥" if limit.ok else ">") if above else ("≤" if limit.ok else "<")
        value, bound = text.cost(limit.name, limit.value), text.cost(limit.name, limit.limit)
        kind, word = ("ok", "✓") if limit.ok else ("bad", "✗ breaks")
        name = "audit accuracy" if limit.name == "accuracy" else limit.name
        said = f"{word} {name}: {value} {sign} {bound}"
        parts.append(f'<span class="{kind}">{escape(said)}</span>')
    return "<br>".join(parts) or "none set"


def _export(final: Final) -> str:
    metrics = final.metrics
    value = metrics.get("onnx_max_abs_difference")
    if value is None:
        return text.NONE
    kind = "ok" if value <= 1e-4 else "bad"
    return f'<span class="{kind}">{value:.1e}</span>'


def _checkpoint(final: Final) -> str:
    metrics = final.metrics
    which = {"last": "last epoch", "best": "best on validation"}
    name = str(metrics.get("checkpoint", text.NONE))
    epochs = metrics.get("epochs")
    of = f"<br><small>{epochs:g} epochs</small>" if epochs else ""
    parts = metrics.get("micro_batch")
    of += f"<br><small>in micro-batches of {parts:g}</small>" if parts else ""
    return escape(which.get(name, name)) + of


def _seconds(final: Final) -> str:
    metrics = final.metrics
    stages = metrics.get("seconds") or {}
    lines = [f"{escape(str(name))} {text.seconds(value)}" for name, value in stages.items()]
    return f"<small>{'<br>'.join(lines)}</small>" if lines else text.NONE


def _latency_rows(record: StudyRecord) -> list[str]:
    entries = [entry for final in record.finals for entry in final.metrics.get("latency") or ()]
    keys = sorted({(e["batch"], e["engine"], e["threads"]) for e in entries})
    rows = []
    for batch, engine, threads in keys:
        wanted = {"batch": batch, "engine": engine, "threads": threads}

        def cell(final: Final, wanted: Mapping[str, Any] = wanted) -> str:
            teacher = _latency(final, wanted, "teacher")
            return f"{_latency(final, wanted, 'student')}<br><small>teacher {teacher}</small>"

        plural = "" if threads == 1 else "s"
        title = f"batch {batch}<br><small>{escape(str(engine))}, {threads} thread{plural}</small>"
        rows.append(_row(title, record, cell, "<small>beside each</small>"))
    return rows


def _latency(final: Final, wanted: Mapping[str, Any], model: str) -> str:
    for entry in final.metrics.get("latency") or ():
        if entry["model"] == model and all(entry[key] == wanted[key] for key in wanted):
            return f"{entry['median_ms']:.3g} [{entry['q1_ms']:.3g}–{entry['q3_ms']:.3g}] ms"
    return text.NONE


def trials_table(candidates: Sequence[Candidate]) -> str:
    """All trials with state, score, costs, architecture and remarks."""
    rows = [
        f'<tr class="{escape(c.state)}"><td>{c.number}</td><td>{escape(c.state)}</td>'
        f"<td>{text.percent(c.score)}</td><td>{len(c.rungs)}</td><td>{text.count(c.params)}</td>"
        f"<td>{text.count(c.macs)}</td><td>{text.size(c.bytes)}</td>"
        f"<td>{text.milliseconds(c.latency)}</td><td>{escape(_remarks(c))}</td>"
        f"<td><small>{_lines(c)}</small></td></tr>"
        for c in candidates
    ]
    titles = (
        "trial",
        "state",
        "score",
        "rungs",
        "parameters",
        "MACs",
        "weights",
        "latency",
        "remarks",
        "architecture",
    )
    head = "".join(f"<th>{title}</th>" for title in titles)
    return (
        f'<div class="scroll tall"><table class="trials"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _remarks(candidate: Candidate) -> str:
    """Why it ended early, and whether it was trained in another way than the rest."""
    parts = candidate.micro_batch
    marked = None if parts is None else f"in micro-batches of {parts} for want of memory"
    raced = candidate.race
    second = None
    if raced is not None:
        score = text.percent(raced.accuracy)
        second = f"in the race, second seed and {text.count(raced.budget)} images: {score}"
    return "; ".join(remark for remark in (candidate.reason, marked, second) if remark)


def _lines(candidate: Candidate) -> str:
    return "<br>".join(map(escape, text.architecture(candidate.architecture)))


def facts(values: Mapping[str, Any]) -> str:
    """A definition list; nested values on one line."""
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_fact(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>" if items else "<p>not recorded</p>"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: text.NONE}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(record: StudyRecord) -> str:
    """The head of the page: which final is recommended, and what it is worth."""
    chosen = next((final for final in record.finals if final.recommended), None)
    if chosen is None:
        return _no_verdict(record)
    m = chosen.metrics
    student, teacher = latency_of(chosen, "student"), latency_of(chosen, "teacher")
    latency = f"{text.milliseconds(student)}, teacher {text.milliseconds(teacher)}; batch 1"
    tiles = [
        (
            "test accuracy",
            text.percent(m.get("test_accuracy")),
            f"95 % interval {text.interval(m.get('test_interval'))}",
        ),
        (
            "retention",
            text.percent(m.get("retention")),
            f"of the teacher's {text.percent(teacher_accuracy(record))}",
        ),
        (
            "size",
            _smaller(m),
            f"{text.count(m.get('params'))} of {text.count(m.get('teacher_params'))} parameters",
        ),
        ("speed", _faster(m.get("speedup")), latency),
    ]
    boxes = "".join(
        f'<div class="tile"><span>{escape(a)}</span><b>{escape(b)}</b>'
        f"<small>{escape(c)}</small></div>"
        for a, b, c in tiles
    )
    said = f"Final {chosen.rank}, from trial {chosen.number}, is recommended."
    return f'<p class="verdict">{said}</p><div class="tiles">{boxes}</div>{_banner(chosen)}'


def _banner(chosen: Final) -> str:
    broken, limits = chosen.broken_limits, limits_of(chosen)
    if broken:
        said = f"Breaks its limits on the exported file: {escape(', '.join(broken))}."
        return f'<p class="banner bad">{said}</p>'
    if limits:
        names = escape(", ".join(limit.name for limit in limits))
        return f'<p class="banner ok">Meets its limits on the exported file: {names}.</p>'
    return '<p class="banner">No limits were set.</p>'


def _smaller(metrics: Mapping[str, Any]) -> str:
    if metrics.get("compression") is None:
        return text.count(metrics.get("params"))
    return f"{text.times(metrics['compression'])} smaller"


def _faster(speedup: float | None) -> str:
    if not speedup:
        return "not measured"
    return f"{text.times(speedup)} faster" if speedup >= 1 else f"{text.times(1 / speedup)} slower"


def _no_verdict(record: StudyRecord) -> str:
    scored = [c for c in record.candidates if c.score is not None and c.state == "complete"]
    if record.finals:
        said = "No final is recommended."
    elif scored:
        best = max(scored, key=lambda c: c.score or 0.0)
        said = (
            f"No finals yet. The best score so far is {text.percent(best.score)}, "
            f"trial {best.number}: {text.costs(best)}."
        )
    else:
        said = "No finals yet, and no trial is complete."
    return f'<p class="verdict">{escape(said)}</p>'
