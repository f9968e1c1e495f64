"""The report's page."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nasdistill.analysis.audit import analyse, read_audit, verdict
from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole
from nasdistill.common.types import Cost
from nasdistill.common.yaml import write_yaml
from nasdistill.report import evaluation, evaluation_text, figures, progress, tables, text
from nasdistill.report.document import buttons, document, figure_box, section
from nasdistill.results import COUNTED, StudyRecord

_COSTS: tuple[Cost, ...] = ("params", "macs", "latency", "bytes")
_BUTTONS = {"params": "parameters", "macs": "MACs", "latency": "latency", "bytes": "bytes"}


def render(record: StudyRecord) -> str:
    """Builds the page.

    Args:
        record: The study.

    Returns:
        The HTML text.

    Raises:
        UserError: If the study has no trials yet.
    """
    if not record.candidates:
        raise UserError(
            f"study {record.name!r} has no trials yet, so there is nothing to report; "
            "run `nasdistill search` first"
        )
    plots: dict[str, dict[str, go.Figure]] = {}
    sections = [
        _trade_off(record, plots),
        _finals(record),
        _chains(record),
        _quality(record, plots),
        _rungs(record, plots),
        _trust(record, plots),
        _stages(record, plots),
        _parameters(record, plots),
        _provenance(record),
    ]
    return document(record.name, _summary(record), tables.verdict(record), sections, plots)


def _summary(record: StudyRecord) -> str:
    states = Counter(candidate.state for candidate in record.candidates)
    ended = ", ".join(f"{count} {state}" for state, count in states.items() if state in COUNTED)
    trials = f"{text.counted(sum(states[state] for state in COUNTED), 'trial')} ({ended})"
    if states["rejected"]:
        trials += f" · {text.counted(states['rejected'], 'proposal')} rejected"
    teacher = escape(str(record.teacher.get("name", text.NONE)))
    data = escape(str(record.data.get("name", text.NONE)))
    return (
        f"data {data} · teacher {teacher} · {trials} · "
        f"{text.counted(len(record.finals), 'final')} · {escape(record.state)}"
    )


def _chains(record: StudyRecord) -> str:
    table = tables.steps_table(record)
    note = (
        "Each line is one full training, taught by the one named. The first teacher's own student "
        "comes first; the one that does best on the score half was taken."
    )
    return section("Generations and assistants", table, note) if table else ""


def _trade_off(record: StudyRecord, plots: dict[str, dict[str, go.Figure]]) -> str:
    infos = {cost: figures.trade_off_info(record, cost) for cost in _COSTS}
    infos = {c: i for c, i in infos.items() if set(i.groups) - {"teacher"}}
    if not infos:
        return section("Accuracy against cost", "<p>No trial has a score or a cost yet.</p>")
    drawn = {cost: figures.plot_trade_off(info) for cost, info in infos.items()}
    plots["trade-off"] = {str(cost): figure for cost, figure in drawn.items()}
    first = next(iter(infos))
    hidden = "".join(
        f'<p class="note" data-for="{cost}"{"" if cost == first else " hidden"}>{_places(info)}</p>'
        for cost, info in infos.items()
    )
    bar = buttons("cost", {cost: _BUTTONS[cost] for cost in infos}, first)
    view = buttons("view", {"close": "close-up", "all": "all trials"}, "close")
    note = (
        "Up and to the left is better. Trials stand at their last score on the validation split, "
        "finals (with 95 % interval) and teacher at their accuracy on the test split; the line is "
        "the front of the complete trials for the cost shown. Rejected trials were never trained: "
        "the strip below shows what they would have cost. Point at a mark for its architecture."
    )
    body = f'<div class="bar">{bar}{view}</div>{figure_box("trade-off", drawn[first])}{hidden}'
    return section("Accuracy against cost", body, note)


def _places(info: figures.TradeOffInfo) -> str:
    parts = []
    if info.below:
        parts.append(f"Below the close-up: {info.below}; “all trials” shows them.")
    if info.unplaced:
        parts.append(f"Trials without a value here (not measured or not scored): {info.unplaced}.")
    return " ".join(parts)


def _finals(record: StudyRecord) -> str:
    if not record.finals:
        return section("Finals", "<p>No finals yet.</p>")
    note = (
        "Finals were distilled in full, tested once, exported, reloaded and measured again as "
        "exported. The audit half of the validation split chose the recommended one; the test "
        "split chose nothing."
    )
    return section("Finals", tables.finals_table(record), note)


def _quality(record: StudyRecord, plots: dict[str, dict[str, go.Figure]]) -> str:
    """What `evaluate` found; figures and text of one final at a time."""
    title, judged = "Quality of the finals", evaluation.judged_finals(record)
    if not record.finals:
        return section(title, "<p>No finals yet.</p>")
    ranks = [final.rank for final, _ in judged]
    missing = [f"{record.name}/{f.rank}" for f in record.finals if f.rank not in ranks]
    todo = "".join(
        f"<p>Not evaluated: <code>nasdistill evaluate {escape(name)}</code> does it.</p>"
        for name in missing
    )
    if not judged:
        return section(title, todo)
    first = next((final.rank for final, _ in judged if final.recommended), ranks[0])
    drawn = evaluation.plots_of(judged, first)
    plots |= drawn
    labels = {f"final-{rank}": f"final {rank}" for rank in ranks}
    bar = buttons("final", labels, f"final-{first}") if len(judged) > 1 else ""
    parts = {
        name: figure_box(name, next(iter(variants.values()))) for name, variants in drawn.items()
    }
    parts |= evaluation_text.blocks(judged, first)
    return section(title, bar + evaluation_text.arranged(parts) + todo, evaluation_text.NOTE)


def _rungs(record: StudyRecord, plots: dict[str, dict[str, go.Figure]]) -> str:
    info = progress.rungs_info(record)
    if not info.lines:
        return section("Scores by rung", "<p>No trial has reached a rung yet.</p>")
    figure = progress.plot_rungs(info)
    plots["rungs"] = {"": figure}
    note = (
        "One line per trial; a line that ends early was stopped there. Lines that cross after a "
        "rung are trials whose order that rung got wrong."
    )
    return section("Scores by rung", figure_box("rungs", figure), note)


def _trust(record: StudyRecord, plots: dict[str, dict[str, go.Figure]]) -> str:
    info = progress.trust_info(record)
    title = "How far the scores could be trusted"
    audited = _audited(record)
    if not info.numbers:
        return section(title, f"<p>Needs finals.</p>{audited}")
    figure = progress.plot_trust(info)
    plots["trust"] = {"": figure}
    n = len(info.numbers)
    if n < 3:
        said = f"With {n} final{'s' * (n > 1)} this says nothing about how well scores rank."
    elif info.spearman is None or info.kendall is None:
        said = f"All {n} scores or all {n} accuracies are equal: there is no order to compare."
    else:
        said = f"Spearman {info.spearman:.2f}, Kendall {info.kendall:.2f}, "
        said += f"n = {text.counted(n, 'final')}."
        said += " With so few this is a hint, no proof." if n < 10 else ""
    note = (
        "Each final's score in the search against its test accuracy after full distillation. "
        "Points that rise to the right mean that the search ranked well; finals come from the best "
        "trials alone, so their range is narrow."
    )
    stated = f'<p class="stated">{said}</p>'
    return section(title, stated + figure_box("trust", figure) + audited, note)


def _audited(record: StudyRecord) -> str:
    """What an audit says, and where its page is; empty where none has compared anything."""
    stored = read_audit(record.folder)
    audit = None if stored is None else analyse(record, stored)
    if audit is None:
        return ""
    said = f"Audit of {text.counted(len(audit.numbers), 'trial')}: {verdict(audit)}"
    return f'<p class="stated">{escape(said)} <a href="audit.html">The audit’s page</a></p>'


def _stages(record: StudyRecord, plots: dict[str, dict[str, go.Figure]]) -> str:
    stages, savings = progress.stages_info(record), progress.savings_info(record)
    first, second = progress.plot_bars(stages), progress.plot_bars(savings)
    plots |= {"stages": {"": first}, "savings": {"": second}}
    body = (
        f"<h3>Time by stage, {text.seconds(sum(stages.values))} in all</h3>"
        f"{figure_box('stages', first)}<h3>Examples trained and saved</h3>"
        f"{figure_box('savings', second)}"
    )
    note = (
        "Above, where the time of all workers went, added up: with two at work, a minute counts "
        "twice. Below, the examples that the search trained on, "
        "and those that it did not have to train or ask the teacher: trials stopped early, "
        "answers found in the cache, trials rejected at the gates."
    )
    return section("What it cost", body, note)


def _parameters(record: StudyRecord, plots: dict[str, dict[str, go.Figure]]) -> str:
    info = progress.parameters_info(record)
    title = "Which parameters mattered"
    if info.trials < 8 or not info.ratios:
        return section(
            title,
            f"<p>Too few trials to say: {info.trials} reached rung 0, and a "
            "parameter needs 8 in which it is present and varies.</p>",
        )
    figure = progress.plot_parameters(info)
    plots["parameters"] = {"": figure}
    more = len(info.ratios) - 15
    note = (
        "Share of the variance of the scores at rung 0 that goes with each parameter alone (eta "
        "squared; grouped by value, numbers with more than four values by tercile), over the n "
        "trials in which it is present. The red mark is what unrelated scores would give on "
        "average: a bar that does not pass its mark says nothing."
    ) + (f" {more} more parameters exceed their mark less." if more > 0 else "")
    return section(title, figure_box("parameters", figure), note)


def _provenance(record: StudyRecord) -> str:
    body = (
        f"<h3>Command</h3><pre>{escape(record.command)}</pre>"
        f"<h3>Recipe</h3><pre>{escape(write_yaml(record.recipe))}</pre>"
        f'<div class="columns"><div><h3>Machine</h3>{tables.facts(record.machine)}</div>'
        f"<div><h3>Versions</h3>{tables.facts(record.versions)}</div>"
        f"<div><h3>Data</h3>{tables.facts(record.data)}</div>"
        f"<div><h3>Teacher</h3>{tables.facts(record.teacher)}</div></div>"
        f"<details><summary>All {len(record.candidates)} trials</summary>"
        f"{tables.trials_table(record.candidates)}</details>"
    )
    return section("How it was made", body)


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
