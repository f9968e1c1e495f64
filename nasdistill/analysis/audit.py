"""The result of an audit: how far the short scores of a study can be trusted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter

from nasdistill.analysis.experience import Experience
from nasdistill.analysis.front import forecast_at
from nasdistill.analysis.rank_correlation import bootstrap, kendall, partial, spearman, vote
from nasdistill.common.errors import DamagedFileError
from nasdistill.common.json_files import read_json
from nasdistill.results import Candidate, StudyRecord, audit_score, final_folders, forms

Share = Annotated[float, Field(ge=0, le=1)]
TrialNumber = Annotated[str, Field(pattern=r"^\d{1,9}$")]

FILE = "audit.json"
VOTE = "synflow, SNIP, Jacobian: vote"
TOP = 0.1
"""Share of the audited trials whose recall is computed."""
_RIVAL_SENTENCES = {
    "MACs": "Counting MACs, at no cost,",
    VOTE: "A vote of three figures of the untrained students",
}


@dataclass(frozen=True)
class Agreement:
    """Agreement of one figure's order with that of full accuracy.

    Attributes:
        name: Name of the figure.
        count: Trials it rests on.
        kendall: Tau-b; None where it is not defined.
        kendall_interval: Its 95 % bootstrap interval.
        spearman: Spearman's correlation.
        spearman_interval: Its 95 % bootstrap interval.
        partial: Spearman's correlation with what goes with MACs taken out; None for MACs.
    """

    name: str
    count: int
    kendall: float | None
    kendall_interval: tuple[float, float] | None
    spearman: float | None
    spearman_interval: tuple[float, float] | None
    partial: float | None


@dataclass(frozen=True)
class Audit:
    """An audit of a study.

    Attributes:
        numbers: The audited trials that are done, by rising number.
        chosen: Those that were chosen before anything was trained.
        full: Accuracy of each after full distillation, on the audit half; the first seed's.
        again: Of those trained with a second seed, both accuracies.
        scores: The last short score of each.
        scored: Agreement of the score at each rung, and of the last score.
        rivals: Of what costs nothing: parameters, MACs, and where it was stored a vote of three
            figures of the untrained student.
        ahead: 95 % interval of the score's tau minus that of MACs.
        noise: Standard deviation of full accuracy over seeds, from pairs; None without repeats.
        ceiling: The tau between two full runs of every trial at that noise; None without repeats.
        recall: Share of the best tenth by full accuracy that is in the best tenth by score.
        lost: Best full accuracy among the stopped trials less that among the others; None where
            one side is missing.
        spent: Training examples of the search, of the audit, and of distilling every trial in full.
        failed: Why a full run of a chosen trial ended with an error, by number.
    """

    numbers: tuple[int, ...]
    chosen: tuple[int, ...]
    full: tuple[float, ...]
    again: tuple[tuple[float, float], ...]
    scores: tuple[float, ...]
    scored: tuple[Agreement, ...]
    rivals: tuple[Agreement, ...]
    ahead: tuple[float, float] | None
    noise: float | None
    ceiling: float | None
    recall: float | None
    lost: float | None
    spent: Mapping[str, int]
    failed: Mapping[int, str]


class FullRunsOfAudit(BaseModel):
    """The part of audit.json that tells of full runs."""

    full: dict[TrialNumber, dict[str, Share]]


class AuditFile(FullRunsOfAudit):
    """The content of audit.json; see `read_audit`."""

    chosen: list[int]
    repeated: list[int]
    examples: Annotated[int, Field(ge=1)]
    failed: dict[TrialNumber, str] = {}
    zero_cost: dict[TrialNumber, dict[str, float]] = {}


AUDIT = TypeAdapter(AuditFile)
_FULL_RUNS = TypeAdapter(FullRunsOfAudit)
_FULL_RUN = TypeAdapter(forms.FullRun)


def read_audit(folder: Path) -> dict[str, Any] | None:
    """The stored audit of a study's folder; None if there is none.

    Returns:
        `chosen`, `repeated` (trial numbers), `examples` (of one full run), `full` (accuracies by
        trial number and seed), `failed` (why, by trial number) and `zero_cost` (figures of the
        untrained students, by number).

    Raises:
        DamagedFileError: If the file cannot be read, or lacks something.
    """
    path = folder / FILE
    if not path.exists():
        return None
    stored: dict[str, Any] = read_json(path, AUDIT)
    return stored


class FullRuns:
    """Score on the audit half after full runs, of finals and audited trials.

    What was read is kept in memory: a file is read again only where it has changed.

    Args:
        folder: The study's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, _ReadFile] = {}

    def accuracy(self) -> dict[int, float]:
        """Score in [0, 1] by trial number, as the files stand now.

        Of an audited trial it is the mean over its seeds, whether or not it is a final too.
        """
        paths = [folder / "metrics.json" for folder in final_folders(self._folder)]
        paths.append(self._folder / FILE)
        files = {path: self._refreshed(path) for path in paths}
        self._read = {path: file for path, file in files.items() if file is not None}
        accuracy: dict[int, float] = {}
        for file in self._read.values():
            accuracy |= file.accuracy
        return accuracy

    def _refreshed(self, path: Path) -> _ReadFile | None:
        """A file's figures, read anew where they are out of date; None where there are none.

        A damaged file has none, as one that is missing: a search must not fail for it.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._read.get(path)
        if known is not None and known.version == version:
            return known
        try:
            if path.name == FILE:
                seeds_of = read_json(path, _FULL_RUNS)["full"].items()
                accuracy = {int(n): fmean(seeds.values()) for n, seeds in seeds_of if seeds}
            else:
                content = read_json(path, _FULL_RUN)
                accuracy = {content["trial"]: audit_score(content)}
        except DamagedFileError:
            return None
        return _ReadFile(version, accuracy)


class _ReadFile(NamedTuple):
    """The figures of one file, and of which version of it they are.

    Attributes:
        version: Its time of modification in nanoseconds, size in bytes, and inode.
        accuracy: In [0, 1], by trial number.
    """

    version: tuple[int, int, int]
    accuracy: dict[int, float]


def full_runs(folder: Path) -> dict[int, float]:
    """Accuracy after full runs by trial number, read once; see `FullRuns`."""
    return FullRuns(folder).accuracy()


def analyse(record: StudyRecord, stored: Mapping[str, Any]) -> Audit | None:
    """Compares short scores with full runs.

    Returns:
        None while fewer than three trials are done.

    Raises:
        DamagedFileError: If it tells of trials that the study does not have.
    """
    trials = {c.number: c for c in record.candidates}
    unknown = [n for n in stored["full"] if int(n) not in trials]
    if unknown:
        raise DamagedFileError(
            str(record.folder / FILE), f"trial {unknown[0]} is not one of the study's"
        )
    full = {int(n): seeds["1"] for n, seeds in stored["full"].items() if "1" in seeds}
    numbers = tuple(sorted(full))
    if len(numbers) < 3:
        return None
    done = [trials[number] for number in numbers]
    truth = [full[number] for number in numbers]
    again = tuple(
        (seeds["1"], seeds["2"]) for seeds in stored["full"].values() if {"1", "2"} <= set(seeds)
    )
    scores = [c.score or 0.0 for c in done]
    macs = [float(c.macs or 0) for c in done]
    noise = math.sqrt(fmean((a - b) ** 2 for a, b in again) / 2) if again else None
    return Audit(
        numbers=numbers,
        chosen=tuple(stored["chosen"]),
        full=tuple(truth),
        again=again,
        scores=tuple(scores),
        scored=(
            *_by_rung(done, truth, stored["examples"], Experience.stored(record.experience)),
            _agreement("last score", scores, truth, macs),
        ),
        rivals=_rivals(done, truth, macs, stored.get("zero_cost", {})),
        ahead=_ahead(scores, macs, truth),
        noise=noise,
        ceiling=None if noise is None else _ceiling(truth, noise),
        recall=_recall(scores, truth),
        lost=_lost(done, truth),
        spent=_spent(record, stored),
        failed={int(n): reason for n, reason in stored.get("failed", {}).items()},
    )


def _agreement(
    name: str, figures: Sequence[float], truth: Sequence[float], macs: Sequence[float] | None
) -> Agreement:
    def interval(
        by: Callable[[Sequence[float], Sequence[float]], float | None],
    ) -> tuple[float, float] | None:
        def drawn(indices: Sequence[int]) -> float | None:
            return by([figures[i] for i in indices], [truth[i] for i in indices])

        return bootstrap(drawn, len(truth))

    return Agreement(
        name,
        len(truth),
        kendall(figures, truth),
        interval(kendall),
        spearman(figures, truth),
        interval(spearman),
        None if macs is None else partial(figures, truth, macs),
    )


def _rivals(
    done: Sequence[Candidate],
    truth: Sequence[float],
    macs: Sequence[float],
    untrained: Mapping[str, Mapping[str, float]],
) -> tuple[Agreement, ...]:
    """Agreement of what costs nothing, or nearly: parameters, MACs, a vote of three figures."""
    rivals = [
        _agreement("parameters", [float(c.params or 0) for c in done], truth, macs),
        _agreement("MACs", macs, truth, None),
    ]
    figures = [untrained.get(str(c.number)) for c in done]
    if None not in figures:
        votes = vote([list(each.values()) for each in figures if each is not None])
        rivals.append(_agreement(VOTE, votes, truth, macs))
    return tuple(rivals)


def _by_rung(
    done: Sequence[Candidate], truth: Sequence[float], examples: int, experience: Experience
) -> list[Agreement]:
    """The agreement of each rung's score, and of the forecast made of it before any full run."""
    agreements = []
    for rung in range(max((len(c.rungs) for c in done), default=0)):
        indices = [i for i, c in enumerate(done) if len(c.rungs) > rung]
        if len(indices) >= 3:
            reached = [done[i] for i in indices]
            scores = [c.rungs[rung].score for c in reached]
            macs = [float(c.macs or 0) for c in reached]
            full = [truth[i] for i in indices]
            agreements.append(_agreement(f"rung {rung}", scores, full, macs))
            expected = forecast_at(reached, rung, {}, examples, experience).guess
            agreements.append(_agreement(f"rung {rung}, forecast", list(expected), full, macs))
    return agreements


def _ahead(
    scores: Sequence[float], macs: Sequence[float], truth: Sequence[float]
) -> tuple[float, float] | None:
    """Tau of the scores minus tau of MACs, of the same draws."""

    def difference(indices: Sequence[int]) -> float | None:
        drawn = [truth[i] for i in indices]
        by_score = kendall([scores[i] for i in indices], drawn)
        by_macs = kendall([macs[i] for i in indices], drawn)
        return None if by_score is None or by_macs is None else by_score - by_macs

    return bootstrap(difference, len(truth))


def _ceiling(truth: Sequence[float], noise: float, draws: int = 300) -> float | None:
    """The mean tau between two draws of noise on top of what the trials would reach without it.

    The measured accuracies hold one seed's noise already, so they are drawn towards their mean
    until noise on top gives them the variance that they have.
    """
    variance, mean = pvariance(truth), fmean(truth)
    shrink = math.sqrt(max(0.0, 1 - noise**2 / variance)) if variance else 0.0
    clean, rng = [mean + shrink * (t - mean) for t in truth], random.Random(0)

    def noisy() -> list[float]:
        return [t + rng.gauss(0, noise) for t in clean]

    taus = [kendall(noisy(), noisy()) for _ in range(draws)]
    defined = [tau for tau in taus if tau is not None]
    return fmean(defined) if defined else None


def _recall(scores: Sequence[float], truth: Sequence[float]) -> float | None:
    count = round(TOP * len(truth))
    if count < 1:
        return None
    order = range(len(truth))
    best = set(sorted(order, key=lambda i: -truth[i])[:count])
    best_by_score = set(sorted(order, key=lambda i: -scores[i])[:count])
    return len(best & best_by_score) / count


def _lost(done: Sequence[Candidate], truth: Sequence[float]) -> float | None:
    stopped = [t for c, t in zip(done, truth, strict=True) if c.state == "stopped"]
    others = [t for c, t in zip(done, truth, strict=True) if c.state == "complete"]
    return max(stopped) - max(others) if stopped and others else None


def _spent(record: StudyRecord, stored: Mapping[str, Any]) -> dict[str, int]:
    tried = [c for c in record.candidates if c.rungs]
    runs = sum(len(seeds) for seeds in stored["full"].values())
    return {
        "search": sum(c.examples for c in tried),
        "audit": runs * int(stored["examples"]),
        "everything": len(tried) * int(stored["examples"]),
    }


def verdict(audit: Audit) -> str:
    """The outcome of an audit in a sentence or two."""
    last = audit.scored[-1]
    if last.kendall is None:
        return "All scores or all full accuracies are equal: there is no order to compare."
    text = f"The last score's order agrees with full distillation by tau {last.kendall:.2f}"
    if last.kendall_interval is not None:
        low, high = last.kendall_interval
        text += f" (95 % interval {low:.2f} to {high:.2f})"
    text += f", on {last.count} trials. "
    for rival in audit.rivals:
        if rival.name in _RIVAL_SENTENCES and rival.kendall is not None:
            text += f"{_RIVAL_SENTENCES[rival.name]} reaches {rival.kendall:.2f}. "
    if audit.ahead is None or audit.ahead[0] <= 0:
        return text + "On this evidence the score is no better than counting MACs."
    return text + "The score ranks better than counting MACs."
