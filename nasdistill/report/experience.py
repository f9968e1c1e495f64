"""What earlier studies taught a study, and how right that was."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from nasdistill.analysis.audit import full_runs
from nasdistill.analysis.experience import Experience
from nasdistill.analysis.rank_correlation import kendall
from nasdistill.common import formats
from nasdistill.report.document import Section, section, table, text_row
from nasdistill.results import Candidate, StudyRecord
from nasdistill.results.experience import read_stored, untrained_of

TITLE = "What earlier studies taught"
SHOWN = 8
"""Values of architectures that are shown."""


def experience_section(record: StudyRecord) -> Section:
    """What was foretold and what was reached; no section where nothing was learnt.

    Raises:
        DamagedFileError: If what is stored cannot be read.
    """
    experience = Experience.stored(record.experience)
    if record.experience is None or not experience.weight:
        return Section("", {})
    runs, setting = read_stored(record.experience)
    own = sum(run.setting == setting for run in runs)
    drawn = sum(candidate.foretold is not None for candidate in record.candidates)
    sentence = (
        f"{experience.count} earlier full runs on this space, {own} of them with this study's "
        f"data, teacher and budget, foretell one another by a correlation of "
        f"{experience.record:.2f} (each left out of its own). At the first rungs that counts "
        f"{experience.weight:.1f} times as much as a score; "
        f"{formats.counted(drawn, 'trial')} {'was' if drawn == 1 else 'were'} drawn for it."
    )
    remark = (
        "Guesses are made before anything of a student is trained, from what its architecture is. "
        "They are in standard deviations of the earlier full runs."
    )
    body = f'<p class="stated">{escape(sentence)}</p>{_telling(experience)}'
    return section(TITLE, body + _reached(record, experience), remark)


def _telling(experience: Experience) -> str:
    """The values of architectures that mattered most, and how surely."""
    rows = [
        text_row([one.name, f"{one.weight:+.2f}", f"± {1.96 * one.deviation:.2f}"])
        for one in experience.most_telling(SHOWN)
    ]
    titles = ["known of an architecture", "one standard deviation more adds", "95 %"]
    return table(titles, rows)


def _reached(record: StudyRecord, experience: Experience) -> str:
    """What was foretold of trials that were distilled in full, and what they reached."""
    accuracies = full_runs(record.folder)
    candidates = {c.number: c for c in record.candidates if c.number in accuracies}
    guesses = _guesses(candidates, experience)
    if not guesses:
        return ""
    order = sorted(guesses, key=lambda number: -guesses[number])
    rows = [
        text_row(
            [
                str(number),
                formats.count(candidates[number].params),
                f"{guesses[number]:+.2f}",
                formats.NONE
                if candidates[number].score is None
                else f"{candidates[number].score:.3f}",
                f"{accuracies[number]:.4f}",
            ]
        )
        for number in order
    ]
    titles = ["trial", "parameters", "foretold", "last score", "after a full run, audit half"]
    tau = kendall([guesses[n] for n in order], [accuracies[n] for n in order])
    known = len(order) >= 3 and tau is not None
    verdict = f"<p>Kendall {tau:.2f}, n = {len(order)}.</p>" if known else ""
    return f"<h3>Foretold, and reached</h3>{table(titles, rows)}{verdict}"


def _guesses(candidates: Mapping[int, Candidate], experience: Experience) -> dict[int, float]:
    known = {n: one for n, c in candidates.items() if (one := untrained_of(c)) is not None}
    return dict(zip(known, experience.guess(list(known.values())).tolist(), strict=True))
