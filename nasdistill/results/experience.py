"""Earlier full runs on a search space, kept from study to study.

They lie in `studies/.experience/<fingerprint of the space>.jsonl`, a line for each; a shipped space
has some in the package already. What a study learns from is fixed when it begins, and stored with
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from nasdistill.common.errors import DamagedFileError
from nasdistill.common.files import write_whole
from nasdistill.common.json_files import check_form, parse_json, read_text
from nasdistill.common.locks import alone
from nasdistill.results.forms import Number, Share
from nasdistill.results.records import Candidate

FOLDER = ".experience"
SHIPPED = Path(__file__).parents[1] / "assets" / "experience"
MOST_RUNS = 400
"""Earlier full runs that a study learns from; of more, the last ones."""

Whole = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Untrained:
    """What is known of an architecture before its student is trained.

    Attributes:
        values: The architecture's, nested as in the space.
        macs: Multiply-adds of one example.
        params: Number of parameters.
        depth: Convolutions and linear layers.
        zero_cost: Figures of the untrained student by name (`models.zero_cost`); None where they
            were not measured.
        activations: Numbers that its operators write for one example; None where not counted.
    """

    values: Mapping[str, Any]
    macs: int
    params: int
    depth: int
    zero_cost: Mapping[str, float] | None = None
    activations: int | None = None


@dataclass(frozen=True)
class EarlierRun:
    """A student that was distilled in full.

    Attributes:
        of: Its architecture.
        accuracy: The study's score on the audit half, in [0, 1].
        setting: Name of what it was distilled by: data, teacher, objective and budget. Only runs
            in one setting are compared.
        source: The study and the trial, in words.
    """

    of: Untrained
    accuracy: float
    setting: str
    source: str


class StoredUntrained(BaseModel):
    """The form of an `Untrained` in a file."""

    values: dict[str, Any]
    macs: Whole
    params: Whole
    depth: Whole
    zero_cost: dict[str, Number] | None = None
    activations: Whole | None = None


class _StoredRun(BaseModel):
    of: StoredUntrained
    accuracy: Share
    setting: str
    source: str


class _Line(_StoredRun):
    space: str


class _Stored(BaseModel):
    setting: str
    runs: list[_StoredRun]


_LINE = TypeAdapter(_Line)
_STORED = TypeAdapter(_Stored)


def untrained_of(candidate: Candidate) -> Untrained | None:
    """What is known of a trial's architecture; None in studies that did not count it."""
    if candidate.macs is None or candidate.params is None or candidate.depth is None:
        return None
    return Untrained(
        candidate.architecture.get("values", {}),
        candidate.macs,
        candidate.params,
        candidate.depth,
        candidate.zero_cost,
        candidate.activations,
    )


def experience_file(studies: Path, space: str) -> Path:
    """Where the full runs of a folder of studies are kept.

    Args:
        studies: The folder.
        space: Fingerprint of the search space.
    """
    return studies / FOLDER / f"{space}.jsonl"


def read_runs(path: Path, space: str, warn: Callable[[str], None]) -> list[EarlierRun]:
    """Reads full runs; lines that cannot be read, or are of another space, are left out.

    Args:
        path: A file of `studies/.experience`; one that is missing holds none.
        space: Fingerprint of the search space.
        warn: Told how many lines were left out, and why the first one was.
    """
    if not path.exists():
        return []
    try:
        lines = read_text(path).splitlines()
    except DamagedFileError as error:
        warn(f"{error}: no experience is taken from it")
        return []
    runs, reasons = [], []
    for number, text in enumerate(lines, start=1):
        try:
            content = parse_json(text, f"line {number}", finite=True)
            check_form(content, _LINE, f"line {number}")
            if content.pop("space") != space:
                raise DamagedFileError(f"line {number}", "of another search space")
        except DamagedFileError as error:
            reasons.append(str(error))
        else:
            runs.append(_run_of(content))
    if reasons:
        warn(f"{path}: {len(reasons)} of {len(lines)} lines are left out ({reasons[0]})")
    return runs


def shipped_runs(space: str) -> list[EarlierRun]:
    """Full runs that come with the package, of the space with this fingerprint."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    return read_runs(SHIPPED / f"{space}.jsonl", space, refuse)


def keep_runs(
    studies: Path, space: str, runs: Sequence[EarlierRun], warn: Callable[[str], None]
) -> None:
    """Adds full runs to those kept; one of the same source takes the place of the older.

    A file that cannot be written is told, and nothing else is lost.

    Args:
        studies: Folder of studies.
        space: Fingerprint of the search space.
        runs: The runs.
        warn: Told what is wrong.
    """
    path = experience_file(studies, space)
    try:
        path.parent.mkdir(exist_ok=True)
        with alone(path.with_suffix(".lock")):
            lines = read_text(path).splitlines() if path.exists() else []
            new = {run.source for run in runs}
            kept = [line for line in lines if _source_of(line) not in new]
            text = "\n".join([*kept, *lines_of(runs, space)]) + "\n"
            write_whole(path, text)
    except (OSError, DamagedFileError) as error:
        warn(f"{path}: what these full runs teach is not kept for later studies ({error})")


def lines_of(runs: Iterable[EarlierRun], space: str) -> list[str]:
    """Full runs as lines of a file of `studies/.experience`."""
    lines = []
    for run in runs:
        content = {**asdict(run), "space": space}
        if run.of.activations is None:
            del content["of"]["activations"]
        lines.append(json.dumps(content, sort_keys=True))
    return lines


def stored(setting: str, runs: Sequence[EarlierRun]) -> dict[str, Any]:
    """A setting and earlier full runs in JSON values, as a study stores them."""
    return {"setting": setting, "runs": [asdict(run) for run in runs]}


def read_stored(content: Mapping[str, Any]) -> tuple[list[EarlierRun], str]:
    """The inverse of `stored`: full runs and setting.

    Raises:
        DamagedFileError: If they cannot be read.
    """
    check_form(content, _STORED, "experience in the study's storage")
    return [_run_of(run) for run in content["runs"]], content["setting"]


def _run_of(content: Mapping[str, Any]) -> EarlierRun:
    return EarlierRun(**{**content, "of": Untrained(**content["of"])})


def _source_of(line: str) -> str | None:
    """A line's source; None where it cannot be read: what is damaged is not thrown away."""
    try:
        content = parse_json(line, "line")
    except DamagedFileError:
        return None
    return content.get("source") if isinstance(content, dict) else None
