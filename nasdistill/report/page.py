"""The report's page."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from nasdistill.analysis.audit import analyse, read_audit
from nasdistill.analysis.audit import verdict as audit_verdict
from nasdistill.common import formats
from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.types import Cost
from nasdistill.common.yaml import write_yaml
from nasdistill.report import (
    evaluation,
    evaluation_text,
    figures,
    files,
    progress,
    rivals,
    shipped,
    statistics,
    tables,
)
from nasdistill.report.document import (
    Section,
    buttons,
    document,
    figure_box,
    section,
    write_page,
)
from nasdistill.report.experience import experience_section
from nasdistill.results import COUNTED, DEPLOYED, StudyRecord

_COSTS: tuple[Cost, ...] = ("params", "macs", "latency", "bytes")
_BUTTONS = {"params": "parameters", "macs": "MACs", "latency": "latency", "bytes": "bytes"}


def write_report(record: StudyRecord, path: Path) -> list[str]:
    """Writes a study's report as one HTML file that needs no network.

    The file appears whole or not at all; folders above it are made.

    Args:
        record: The study.
        path: The file, e.g. `reports/<study>/index.html`.

    Returns:
        What could not be read and is not in the report, a sentence each.

    Raises:
        UserError: If the study has no trials yet, or none that can be read.
    """
    page = render(record)
    write_page(path, page.html)
    return page.damage


class Page(NamedTuple):
    """A report.

    Attributes:
        html: The whole page.
        damage: What could not be read and is not in it, a sentence each.
    """

    html: str
    damage: list[str]


def render(record: StudyRecord) -> Page:
    """Builds the page.

    Args:
        record: The study.

    Raises:
        UserError: If the study has no trials yet, or none that can be read.
    """
    if not record.candidates:
        reason = f": {record.damage[0]}" if record.damage else ""
        raise UserError(
            f"study {record.name!r} has no trials yet, so there is nothing to report{reason}; "
            "run `nasdistill search` first"
        )
    damage = list(record.damage)
    sections = [
        _trade_off(record),
        _finals(record),
        _files(record),
        _steps(record),
        _quality(record, damage),
        _rungs(record),
        _trust(record, damage),
        _experience(record, damage),
        _stages(record),
        _parameters(record),
        _provenance(record),
    ]
    sections.insert(0, _unreadable(damage))
    html = document(record.name, _summary(record), tables.verdict(record), sections)
    return Page(html, damage)


def _unreadable(damage: Sequence[str]) -> Section:
    """What could not be read, where there is anything; else no section."""
    if not damage:
        return Section("", {})
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in damage)
    return section("What could not be read", f"<ul>{items}</ul>", "It is left out below.")


def _summary(record: StudyRecord) -> str:
    states = Counter(candidate.state for candidate in record.candidates)
    ended = ", ".join(f"{count} {state}" for state, count in states.items() if state in COUNTED)
    trials = f"{formats.counted(sum(states[state] for state in COUNTED), 'trial')} ({ended})"
    if states["rejected"]:
        trials += f" · {formats.counted(states['rejected'], 'proposal')} rejected"
    teacher = escape(str(record.teacher.get("name", formats.NONE)))
    data = escape(str(record.data.get("name", formats.NONE)))
    return (
        f"data {data} · teacher {teacher} · {trials} · "
        f"{formats.counted(len(record.finals), 'final')} · {escape(record.state)}"
    )


def _trade_off(record: StudyRecord) -> Section:
    title = "Accuracy against cost"
    infos = {cost: figures.trade_off_info(record, cost) for cost in _COSTS}
    infos = {cost: info for cost, info in infos.items() if set(info.groups) - {"teacher"}}
    if not infos:
        return section(title, "<p>No trial has a score or a cost yet.</p>")
    plots = {str(cost): figures.plot_trade_off(info) for cost, info in infos.items()}
    cost, names = next(iter(infos)), shipped.shipped_formats(record)
    info_by_key = {str(cost): info for cost, info in infos.items()}
    for each, name in itertools.product(infos, names):
        info = info_by_key[f"{each}/{name}"] = shipped.shipped_info(record, each, name)
        plots[f"{each}/{name}"] = shipped.without_trials(figures.plot_trade_off(info))
    ships = DEPLOYED if deployed(record) and DEPLOYED in names else ""
    first = f"{cost}/{ships}" if ships else str(cost)
    hidden = "".join(
        f'<p class="note" data-for="{escape(key)}"{"" if key == first else " hidden"}>'
        f"{_points_out_of_sight(info)}</p>"
        for key, info in info_by_key.items()
    )
    costs = buttons("cost", {each: _BUTTONS[each] for each in infos}, cost)
    files = buttons("ships", {"": "fp32", **{n: n for n in names}}, ships) if names else ""
    view = buttons("view", {"close": "close-up", "all": "all trials"}, "close")
    remark = (
        "Up and to the left is better. Trials stand at their last score on the validation split, "
        "finals (with 95 % interval) and teacher at their accuracy on the test split; the line is "
        "the front of the complete trials for the cost shown. Rejected trials were never trained: "
        "the strip below shows what they would have cost. Point at a mark for its architecture."
    )
    if names:
        remark += (
            " The buttons in the middle move each final to where its shipped file stands, by what "
            "that was measured to take and to score; trials and teacher stay where they are."
        )
    if deployed(record):
        remark += " Bytes and latency of trials are those of their int8 files; scores are of fp32."
    box = figure_box("trade-off", plots[first])
    body = f'<div class="bar">{costs}{files}{view}</div>{box}{hidden}'
    return section(title, body, remark, {"trade-off": plots})


def deployed(record: StudyRecord) -> bool:
    """Whether int8 files are what the study's limits and objectives mean."""
    return record.recipe.get("deploy") == "int8"


def _points_out_of_sight(info: figures.TradeOffInfo) -> str:
    sentences = []
    if info.below:
        sentences.append(f"Below the close-up: {info.below}; “all trials” shows them.")
    if info.unplaced:
        number = info.unplaced
        sentences.append(f"Trials without a value here (not measured or not scored): {number}.")
    return " ".join(sentences)


def _finals(record: StudyRecord) -> Section:
    if not record.finals:
        return section("Finals", "<p>No finals yet.</p>")
    remark = (
        "Finals were distilled in full, tested once, exported, reloaded and measured again as "
        "exported. The audit half of the validation split chose the recommended one; the test "
        "split chose nothing."
    )
    return section("Finals", tables.finals_table(record), remark)


def _files(record: StudyRecord) -> Section:
    """The files that ship, where there are any; else no section."""
    body = files.files_table(record)
    remark = (
        "Each file was loaded by its own runtime in a fresh process and run on the whole test "
        "split there; fp32 was timed beside it, in turn. What had to be chosen, such as how it was "
        "calibrated, was chosen on the score half."
    )
    return section("What ships", body, remark) if body else Section("", {})


def _steps(record: StudyRecord) -> Section:
    """The full trainings on the way to a final, where there is more than one; else no section."""
    table = tables.steps_table(record)
    remark = (
        "Each line is one full training, taught by the one named. The first teacher's own student "
        "comes first; the one that does best on the score half was taken."
    )
    return section("Generations and assistants", table, remark) if table else Section("", {})


def _quality(record: StudyRecord, damage: list[str]) -> Section:
    """The evaluations of the finals; figures and text of one final at a time."""
    title, evaluated = "Quality of the finals", evaluation.evaluated_finals(record, damage)
    if not record.finals:
        return section(title, "<p>No finals yet.</p>")
    ranks = [each.final.rank for each in evaluated]
    missing = "".join(
        f"<p>Not evaluated: <code>nasdistill evaluate {escape(f'{record.name}/{final.rank}')}"
        "</code> does it.</p>"
        for final in record.finals
        if final.rank not in ranks
    )
    if not evaluated:
        return section(title, missing)
    first = next((each.final.rank for each in evaluated if each.final.recommended), ranks[0])
    plots = evaluation.evaluation_plots(evaluated, first)
    labels = {each.key: f"final {each.final.rank}" for each in evaluated}
    bar = buttons("final", labels, f"final-{first}") if len(evaluated) > 1 else ""
    parts = {name: figure_box(name, next(iter(drawn.values()))) for name, drawn in plots.items()}
    parts |= evaluation_text.evaluation_texts(evaluated, first)
    body = bar + evaluation_text.arrange(parts) + missing
    return section(title, body, evaluation_text.NOTE, plots)


def _rungs(record: StudyRecord) -> Section:
    title, info = "Scores by rung", progress.rungs_info(record)
    if len(record.rungs) == 1 and info.lines:  # the first figure has its scores
        return Section("", {})
    if not info.lines:
        return section(title, "<p>No trial has reached a rung yet.</p>")
    figure = progress.plot_rungs(info)
    remark = (
        "One line per trial; a line that ends early was stopped there. Lines that cross after a "
        "rung are trials whose order that rung got wrong."
    )
    return section(title, figure_box("rungs", figure), remark, {"rungs": {"": figure}})


def _trust(record: StudyRecord, damage: list[str]) -> Section:
    title, info = "How far the scores could be trusted", progress.trust_info(record)
    audited = _audited(record, damage)
    if not info.numbers:
        return section(title, f"<p>Needs finals.</p>{audited}")
    figure = progress.plot_trust(info)
    remark = (
        "Each final's score in the search against its test accuracy after full distillation. "
        "Points that rise to the right mean that the search ranked well; finals come from the best "
        "trials alone, so their range is narrow."
    )
    stated = f'<p class="stated">{_rank_agreement(info)}</p>'
    body = stated + figure_box("trust", figure) + audited
    return section(title, body, remark, {"trust": {"": figure}})


def _experience(record: StudyRecord, damage: list[str]) -> Section:
    """What earlier studies taught, where they taught anything; else no section."""
    try:
        return experience_section(record)
    except DamagedFileError as error:
        damage.append(str(error))
        return Section("", {})


def _rank_agreement(info: progress.TrustInfo) -> str:
    """The agreement of scores and final accuracies in a sentence."""
    n = len(info.numbers)
    if n < 3:
        return f"With {n} final{'s' * (n > 1)} this says nothing about how well scores rank."
    if info.spearman is None or info.kendall is None:
        return f"All {n} scores or all {n} accuracies are equal: there is no order to compare."
    sentence = f"Spearman {info.spearman:.2f}, Kendall {info.kendall:.2f}, "
    sentence += f"n = {formats.counted(n, 'final')}."
    return sentence + (" With so few this is a hint, no proof." if n < 10 else "")


def _audited(record: StudyRecord, damage: list[str]) -> str:
    """An audit's outcome, and a link to its page; empty where none has compared anything."""
    try:
        stored = read_audit(record.folder)
        audit = None if stored is None else analyse(record, stored)
    except DamagedFileError as error:
        damage.append(str(error))
        return ""
    if audit is None:
        return ""
    trials = formats.counted(len(audit.numbers), "trial")
    sentence = escape(f"Audit of {trials}: {audit_verdict(audit)}")
    return f'<p class="stated">{sentence} <a href="audit.html">The audit’s page</a></p>'


def _stages(record: StudyRecord) -> Section:
    stages, savings = progress.stages_info(record), progress.savings_info(record)
    time_plot, savings_plot = progress.plot_bars(stages), progress.plot_bars(savings)
    body = (
        f"<h3>Time by stage, {formats.seconds(sum(stages.values))} in all</h3>"
        f"{figure_box('stages', time_plot)}<h3>Examples trained and saved</h3>"
        f"{figure_box('savings', savings_plot)}"
    )
    remark = (
        "Above, where the time of all workers went, added up: with two at work, a minute counts "
        "twice. Below, the examples that the search trained on, "
        "and those that it did not have to train or ask the teacher: trials stopped early, "
        "answers found in the cache, trials rejected at the gates."
    )
    plots = {"stages": {"": time_plot}, "savings": {"": savings_plot}}
    return section("What it cost", body, remark, plots)


def _parameters(record: StudyRecord) -> Section:
    title, info = "Which parameters mattered", progress.parameters_info(record)
    if info.trials < statistics.MIN_TRIALS or not info.ratios:
        return section(
            title,
            f"<p>Too few trials to say: {info.trials} reached rung 0, and a "
            f"parameter needs {statistics.MIN_TRIALS} in which it is present and varies.</p>",
        )
    figure = progress.plot_parameters(info)
    more = len(info.ratios) - progress.MAX_PARAMETERS
    remark = (
        "Share of the variance of the scores at rung 0 that goes with each parameter alone (eta "
        "squared; grouped by value, numbers with more than four values by tercile), over the n "
        "trials in which it is present. The red mark is what unrelated scores would give on "
        "average: a bar that does not pass its mark says nothing."
    ) + (f" {more} more parameters exceed their mark less." if more > 0 else "")
    return section(title, figure_box("parameters", figure), remark, {"parameters": {"": figure}})


def _provenance(record: StudyRecord) -> Section:
    body = (
        f"<h3>Command</h3><pre>{escape(record.command)}</pre>"
        f"<h3>Recipe</h3><pre>{escape(write_yaml(record.recipe))}</pre>"
        f"<h3>Where students begin</h3>{tables.facts(rivals.beginning(record))}"
        f'<div class="columns"><div><h3>Machine</h3>{tables.facts(record.machine)}</div>'
        f"<div><h3>Versions</h3>{tables.facts(record.versions)}</div>"
        f"<div><h3>Data</h3>{tables.facts(record.data)}</div>"
        f"<div><h3>Teacher</h3>{tables.facts(record.teacher)}</div></div>"
        f"<details><summary>All {formats.counted(len(record.candidates), 'trial')}</summary>"
        f"{tables.trials_table(record.candidates)}</details>"
    )
    return section("How it was made", body)
