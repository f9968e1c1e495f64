"""Audits: the trust that a study's short scores deserve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nasdistill.analysis.audit import Audit, analyse, read_audit
from nasdistill.api.options import MOST_TRIALS, check_number
from nasdistill.api.paths import recipe_of, study_record
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, silent
from nasdistill.common.files import REPORTS, STUDIES
from nasdistill.results import load_study, storage_errors


@dataclass(frozen=True)
class AuditOutcome:
    """The outcome of an audit.

    Attributes:
        audit: Its figures.
        page: Path of the HTML page.
    """

    audit: Audit
    page: Path


def audit(
    study: str, *, count: int = 12, repeats: int = 3, on_event: Emit | None = None
) -> AuditOutcome:
    """Distils a sample of a study's trials in full and compares their order with their scores'.

    What was trained by an earlier call is kept; larger numbers add to it. The study's report is
    written anew as well, and leads to the audit's page.

    Args:
        study: Its name.
        count: Trials to distil in full.
        repeats: How many of them with a second seed, too.
        on_event: Told what happens.

    Raises:
        UserError: If there is no such study, it has too few trials, too few of them could be
            distilled, another process audits it, a number is out of its range, or the file given
            by `--import` has changed.
    """
    check_number("count", count, 3, MOST_TRIALS)
    check_number("repeats", repeats, 0, MOST_TRIALS)
    emit = on_event or silent
    record = study_record(study)
    recipe = recipe_of(record)
    from nasdistill.finals.audit import run_audit
    from nasdistill.report import write_report
    from nasdistill.report.audit import write_audit
    from nasdistill.study import Study
    from nasdistill.trials.context import open_context
    from nasdistill.trials.plugins import check_plugins, load_plugins

    plugins = load_plugins(recipe.import_file)
    opened = Study.open(recipe, STUDIES, record.command)
    check_plugins(opened, plugins)
    with storage_errors(opened.url):
        run_audit(open_context(opened, plugins, emit), count, repeats)
    stored = read_audit(record.folder)
    assert stored is not None
    record = load_study(study, STUDIES)  # more trials may have ended in the meantime
    result = analyse(record, stored)
    if result is None:
        reasons = "; ".join(f"trial {n}: {reason}" for n, reason in stored["failed"].items())
        raise UserError(
            f"study {study!r}: fewer than three of the chosen trials could be distilled in full "
            f"({reasons}). Ask for more of them (--count)"
        )
    page = REPORTS / study / "audit.html"
    write_audit(record, result, page)
    write_report(record, page.with_name("index.html"))  # it tells of the audit
    return AuditOutcome(result, page)
