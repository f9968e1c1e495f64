"""Tables of the report as HTML. Everything that came from outside passes `html.escape`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from nasdistill.common import formats
from nasdistill.report import text
from nasdistill.report.document import table, text_row
from nasdistill.report.figures import (
    latency_of,
    limits_of,
    score_name,
    teacher_accuracy,
    teacher_score,
)
from nasdistill.report.rivals import begin_of, begun, gain_over, rival
from nasdistill.results import Candidate, Final, StudyRecord, tested_by_score

Cell = Callable[[Final], str]


def finals_table(record: StudyRecord) -> str:
    """One column per final and one for the teacher, one row per metric."""
    rows = [
        *_quality_rows(record),
        _head("Size", record),
        *_size_rows(record),
        _head("Latency: median [quartiles], student and teacher in the same minute", record),
        *_latency_rows(record),
        _row("speed-up, batch 1", record, _metric("speedup", formats.times)),
        _head("Checks", record),
        _row("limits, on the exported file", record, _limits),
        _row("export: largest difference", record, _export),
        _row("checkpoint", record, _checkpoint),
        _row("seconds spent", record, _seconds),
    ]
    head = "".join(_final_head(final) for final in record.finals)
    return (
        '<div class="scroll"><table class="finals"><thead><tr><th>Quality</th>'
        f'{head}<th class="teacher">teacher<br><small>{escape(str(record.teacher.get("name", "")))}'
        f"</small></th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _quality_rows(record: StudyRecord) -> list[str]:
    percent, preservation = formats.percent, "class_relation_preservation"
    return [
        _row("test accuracy", record, _accuracy, percent(teacher_accuracy(record))),
        *_deployed_rows(record),
        *_balanced_rows(record),
        _row(f"{_retention(record)} (student ÷ teacher)", record, _kept),
        _row("agreement with the teacher", record, _metric("agreement", percent)),
        _row("class-relation preservation", record, _metric(preservation, percent)),
        _row("calibration error", record, _metric("ece", percent), percent(_teacher_ece(record))),
        _row("accuracy on labels alone (baseline)", record, rival("baseline")),
        _row("gained by distillation", record, gain_over("baseline")),
        *_begin_rows(record),
    ]


def _begin_rows(record: StudyRecord) -> list[str]:
    """Where finals began, and what that was worth; empty where all began fresh."""
    if all(begin_of(final) == "fresh" for final in record.finals):
        return []
    return [
        _row("began with weights", record, begun),
        _row("accuracy from fresh weights (control)", record, rival("fresh")),
        _row("gained by where it began", record, gain_over("fresh")),
    ]


def _deployed_rows(record: StudyRecord) -> list[str]:
    """What ships where that is not fp32; empty where it is."""
    if all(final.deployed is None for final in record.finals):
        return []
    return [_row("as the int8 file that ships", record, _as_deployed)]


def _as_deployed(final: Final) -> str:
    tested, file = final.test_score, final.deployed or {}
    if tested.share is None:
        return '<span class="bad">no int8 file</span>'
    single = next((row for row in file["latency"] if row["batch"] == 1), None)
    milliseconds = formats.milliseconds(single and single["median_ms"])
    bounds = f"{formats.interval(tested.interval)}<br>" if tested.interval else ""
    return (
        f"<b>{formats.percent(tested.share)}</b><br><small>{bounds}{formats.size(file['bytes'])} · "
        f"{milliseconds}</small>"
    )


def _balanced_rows(record: StudyRecord) -> list[str]:
    """What accuracy hides where classes are uneven, or have no examples."""
    known = [final.metrics for final in record.finals if "majority" in final.metrics]
    if not known:  # finals of an earlier release
        return []
    majority, teacher = known[0]["majority"], known[0]["teacher_test_balanced_accuracy"]
    share, even = (formats.percent(majority[key]) for key in ("share", "even"))
    constant = f"{share}<br><small>balanced {even}</small>"
    rows = [
        _row("balanced accuracy (mean over classes)", record, _balanced, formats.percent(teacher)),
        _row(f"always answering {escape(repr(majority['class']))}", record, lambda final: constant),
    ]
    untested = escape(", ".join(known[0]["untested_classes"]))
    if untested:
        rows.append(_row("without test examples", record, lambda final: untested))
    return rows


def _size_rows(record: StudyRecord) -> list[str]:
    count, size, teacher = formats.count, formats.size, record.teacher
    return [
        _row("parameters", record, _metric("params", count), count(teacher.get("params"))),
        _row("MACs", record, _metric("macs", count), count(teacher.get("macs"))),
        _row("weights", record, _metric("bytes", size), size(teacher.get("bytes"))),
        _row("ONNX file", record, _metric("onnx_bytes", size)),
        _row("compression (parameters)", record, _metric("compression", formats.times)),
    ]


def steps_table(record: StudyRecord) -> str:
    """The gain of each generation or assistant; empty where no final has any."""
    rows = [row for final in record.finals for row in _step_rows(final)]
    titles = (
        "who",
        "taught by",
        "parameters",
        "score half",
        "audit half",
        "against the first teacher",
        "",
    )
    return table(titles, rows, name="steps") if rows else ""


def _step_rows(final: Final) -> list[str]:
    """A row for each full training on the way to a final."""
    steps = final.metrics.get("steps") or []
    generations = [step["score_accuracy"] for step in steps if "assistant" not in step]
    rows = []
    for step in steps:
        name, gain = f"final {final.rank}", formats.NONE
        if "assistant" in step:
            name = f"assistant {step['assistant']}"
        else:
            gain = f"{100 * (step['score_accuracy'] - generations[0]):+.1f} points"
        cells = (
            name,
            str(step["taught_by"]),
            formats.count(step["params"]),
            formats.percent(step["score_accuracy"]),
            formats.percent(step["audit_accuracy"]),
            gain,
            "★ taken" if step.get("chosen") else "",
        )
        rows.append(text_row(cells))
    return rows


def _final_head(final: Final) -> str:
    star = '<span class="star">★ recommended</span>' if final.recommended else ""
    broken = '<span class="bad">breaks a limit</span>' if final.broken_limits else ""
    return f"<th>final {final.rank}<br><small>trial {final.number}</small>{star}{broken}</th>"


def _head(title: str, record: StudyRecord) -> str:
    return f'<tr class="group"><th colspan="{len(record.finals) + 2}">{title}</th></tr>'


def _row(title: str, record: StudyRecord, cell: Cell, teacher: str = "") -> str:
    cells = "".join(f"<td>{cell(final)}</td>" for final in record.finals)
    return f"<tr><th>{title}</th>{cells}<td class=teacher>{teacher}</td></tr>"


def _metric(key: str, in_words: Callable[[float | None], str]) -> Cell:
    return lambda final: in_words(final.metrics.get(key))


def _accuracy(final: Final) -> str:
    metrics = final.metrics
    bounds = formats.interval(metrics.get("test_interval"))
    return f"<b>{formats.percent(metrics.get('test_accuracy'))}</b><br><small>{bounds}</small>"


def _retention(record: StudyRecord) -> str:
    score = score_name(record)
    return "retention" if score == "accuracy" else f"retention of {score}"


def _kept(final: Final) -> str:
    return formats.percent(tested_by_score(final.metrics).retention)


def _balanced(final: Final) -> str:
    metrics = final.metrics
    bounds = formats.interval(metrics.get("test_balanced_interval"))
    share = formats.percent(metrics.get("test_balanced_accuracy"))
    return f"{share}<br><small>{bounds}</small>"


def _teacher_ece(record: StudyRecord) -> float | None:
    known = [final.metrics.get("teacher_ece") for final in record.finals]
    return next((v for v in (*known, record.teacher.get("ece")) if v is not None), None)


def _limits(final: Final) -> str:
    parts = []
    for limit in limits_of(final):
        above = limit.ok == (limit.name == "accuracy")
        sign = ("≥" if limit.ok else ">") if above else ("≤" if limit.ok else "<")
        value, bound = formats.cost(limit.name, limit.value), formats.cost(limit.name, limit.limit)
        kind, word = ("ok", "✓") if limit.ok else ("bad", "✗ breaks")
        name = _audited(final) if limit.name == "accuracy" else limit.name
        parts.append(
            f'<span class="{kind}">{escape(f"{word} {name}: {value} {sign} {bound}")}</span>'
        )
    return "<br>".join(parts) or "none set"


def _audited(final: Final) -> str:
    balanced = final.metrics.get("score") == "balanced-accuracy"
    return "balanced audit accuracy" if balanced else "audit accuracy"


def _export(final: Final) -> str:
    metrics = final.metrics
    value = metrics.get("onnx_max_abs_difference")
    if value is None:
        return formats.NONE
    kind = "ok" if value <= metrics.get("onnx_allowed_difference", 1e-4) else "bad"
    return f'<span class="{kind}">{value:.1e}</span>'


def _checkpoint(final: Final) -> str:
    metrics = final.metrics
    names = {"last": "last epoch", "best": "best on validation"}
    name = str(metrics.get("checkpoint", formats.NONE))
    epochs = metrics.get("epochs")
    remarks = f"<br><small>{formats.counted(round(epochs), 'epoch')}</small>" if epochs else ""
    micro_batch = metrics.get("micro_batch")
    remarks += f"<br><small>in micro-batches of {micro_batch:g}</small>" if micro_batch else ""
    processes, examples = metrics.get("processes") or 1, metrics.get("batch_norm_examples")
    if processes > 1:
        norms = "" if examples is None else f", batch norm of {examples:g} examples"
        remarks += f"<br><small>on {processes:g} GPUs or processes{norms}</small>"
    return escape(names.get(name, name)) + remarks


def _seconds(final: Final) -> str:
    metrics = final.metrics
    stages = metrics.get("seconds") or {}
    lines = [f"{escape(str(name))} {formats.seconds(value)}" for name, value in stages.items()]
    return f"<small>{'<br>'.join(lines)}</small>" if lines else formats.NONE


def _latency_rows(record: StudyRecord) -> list[str]:
    entries = [entry for final in record.finals for entry in final.metrics.get("latency") or ()]
    keys = sorted({(e["batch"], e["engine"], e["threads"]) for e in entries})
    rows = []
    for batch, engine, threads in keys:
        setting = {"batch": batch, "engine": engine, "threads": threads}

        def cell(final: Final, setting: Mapping[str, Any] = setting) -> str:
            teacher = _latency(final, setting, "teacher")
            return f"{_latency(final, setting, 'student')}<br><small>teacher {teacher}</small>"

        cores = formats.counted(threads, "thread")
        title = f"batch {batch}<br><small>{escape(str(engine))}, {cores}</small>"
        rows.append(_row(title, record, cell, "<small>beside each</small>"))
    return rows


def _latency(final: Final, setting: Mapping[str, Any], model: str) -> str:
    for entry in final.metrics.get("latency") or ():
        if entry["model"] == model and all(entry[k] == setting[k] for k in setting):
            return f"{entry['median_ms']:.3g} [{entry['q1_ms']:.3g}–{entry['q3_ms']:.3g}] ms"
    return formats.NONE


def trials_table(candidates: Sequence[Candidate]) -> str:
    """All trials with state, score, costs, architecture and remarks."""
    rows = [
        f'<tr class="{escape(c.state)}"><td>{c.number}</td><td>{escape(c.state)}</td>'
        f"<td>{formats.percent(c.score)}</td><td>{len(c.rungs)}</td><td>{formats.count(c.params)}</td>"
        f"<td>{formats.count(c.macs)}</td><td>{formats.size(c.bytes)}</td>"
        f"<td>{formats.milliseconds(c.latency)}</td><td>{escape(_remarks(c))}</td>"
        f"<td><small>{_architecture(c)}</small></td></tr>"
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
    return table(titles, rows, name="trials", box="scroll tall")


def _remarks(candidate: Candidate) -> str:
    """The reason for an early end, and what differs in its training from the rest."""
    remarks = [candidate.reason or ""]
    if candidate.micro_batch is not None:
        remarks.append(f"in micro-batches of {candidate.micro_batch} for want of memory")
    return "; ".join(filter(None, remarks))


def _architecture(candidate: Candidate) -> str:
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
        return {True: "yes", False: "no", None: formats.NONE}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(record: StudyRecord) -> str:
    """The head of the page: the recommended final, and its worth."""
    recommended = next((final for final in record.finals if final.recommended), None)
    if recommended is None:
        return _no_verdict(record)
    boxes = "".join(
        f'<div class="tile"><span>{escape(tile.title)}</span><b>{escape(tile.value)}</b>'
        f"<small>{escape(tile.remark)}</small></div>"
        for tile in _tiles(record, recommended)
    )
    sentence = f"Final {recommended.rank}, from trial {recommended.number}, is recommended."
    return (
        f'<p class="verdict">{sentence}</p><div class="tiles">{boxes}</div>'
        f"{_limits_banner(recommended)}{_synthetic_banner(recommended)}"
    )


class _Tile(NamedTuple):
    """One figure in the head of the page, as plain text."""

    title: str
    value: str
    remark: str


def _tiles(record: StudyRecord, final: Final) -> list[_Tile]:
    metrics = final.metrics
    student, teacher = latency_of(final, "student"), latency_of(final, "teacher")
    speedup = metrics.get("speedup")
    if final.deployed is not None:
        student = next((row["median_ms"] for row in final.deployed.get("latency", ())), None)
        speedup = teacher / student if teacher and student else None
    sizes = (formats.count(metrics.get(key)) for key in ("params", "teacher_params"))
    return [
        _Tile(
            final.test_score.name,
            formats.percent(final.test_score.share),
            f"95 % interval {formats.interval(final.test_score.interval)}",
        ),
        _Tile(
            _retention(record),
            formats.percent(final.test_score.retention),
            f"of the teacher's {formats.percent(teacher_score(record))}",
        ),
        _Tile("size", _smaller(metrics), f"{' of '.join(sizes)} parameters"),
        _Tile(
            "speed",
            _faster(speedup),
            f"{formats.milliseconds(student)}, teacher {formats.milliseconds(teacher)}; batch 1",
        ),
    ]


def _limits_banner(final: Final) -> str:
    broken, limits = final.broken_limits, limits_of(final)
    file = "exported file" if final.deployed is None else "int8 file"
    if broken:
        names = escape(", ".join(broken))
        return f'<p class="banner bad">Breaks its limits on the {file}: {names}.</p>'
    if limits:
        names = escape(", ".join(limit.name for limit in limits))
        return f'<p class="banner ok">Meets its limits on the {file}: {names}.</p>'
    return '<p class="banner">No limits were set.</p>'


def _synthetic_banner(final: Final) -> str:
    """Says that a final learned from synthetic images; empty where it saw real ones."""
    images = final.metrics.get("synthetic_images")
    if images is None:
        return ""
    return (
        f'<p class="banner">Trained on {images:,} images made from the teacher alone: '
        "no real training picture was used to train it.</p>"
    )


def _smaller(metrics: Mapping[str, Any]) -> str:
    if metrics.get("compression") is None:
        return formats.count(metrics.get("params"))
    return f"{formats.times(metrics['compression'])} smaller"


def _faster(speedup: float | None) -> str:
    if not speedup:
        return "not measured"
    return (
        f"{formats.times(speedup)} faster"
        if speedup >= 1
        else f"{formats.times(1 / speedup)} slower"
    )


def _no_verdict(record: StudyRecord) -> str:
    scored = [c for c in record.candidates if c.score is not None and c.state == "complete"]
    if record.finals:
        sentence = "No final is recommended."
    elif scored:
        best = max(scored, key=lambda c: c.score or 0.0)
        sentence = (
            f"No finals yet. The best score so far is {formats.percent(best.score)}, "
            f"trial {best.number}: {text.costs(best)}."
        )
    else:
        sentence = "No finals yet, and no trial is complete."
    return f'<p class="verdict">{escape(sentence)}</p>'
