"""From an Optuna storage and a folder to records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.common.errors import UserError
from nasdistill.common.types import nearest, without_password
from nasdistill.results.records import Candidate, Final, RungScore, StudyRecord

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STORAGE_FILE = "storage.txt"


def storage_of(folder: Path) -> str | None:
    """The URL, password and all, of a study that is not stored in its folder."""
    path = folder / STORAGE_FILE
    return path.read_text().strip() if path.exists() else None


def storage_url(folder: Path, storage: str | None) -> str:
    """The Optuna URL of a study: SQLite in its folder unless the recipe names another."""
    return storage or f"sqlite:///{folder.resolve() / 'study.db'}"


def open_storage(url: str) -> BaseStorage:
    """Opens an Optuna storage.

    Args:
        url: `sqlite:///…`, `journal:PATH`, or any URL that SQLAlchemy knows.

    Raises:
        UserError: If it cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url.startswith("journal:"):
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
    # Writers of SQLite wait for each other instead of failing.
    kwargs = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {}
    where = f"cannot open the storage {without_password(url)!r}"
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=kwargs)
    except (ImportError, ValueError) as error:
        raise UserError(f"{where}: {without_password(str(error))}") from None
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy"):
            reason = without_password(str(error).splitlines()[0])
            raise UserError(f"{where}: {reason}") from None
        raise


def candidate_of(trial: FrozenTrial, study_attrs: Mapping[str, Any]) -> Candidate | None:
    """Reads one Optuna trial; None for one that was withdrawn, or that is not ours."""
    attrs, raced = trial.user_attrs, study_attrs.get(f"race:{trial.number}")
    if attrs.get("state", "withdrawn") == "withdrawn":
        return None
    rungs: list[RungScore] = []
    while f"rung_{len(rungs)}" in attrs:
        rungs.append(RungScore(**attrs[f"rung_{len(rungs)}"]))
    seconds = {"rungs": sum(rung.seconds for rung in rungs)}
    seconds |= {k.removeprefix("seconds_"): v for k, v in attrs.items() if k[:8] == "seconds_"}
    return Candidate(
        number=trial.number,
        state=attrs["state"],
        architecture=json.loads(attrs["architecture"]),
        fingerprint=attrs["fingerprint"],
        parameters=dict(trial.params),
        params=attrs.get("params"),
        macs=attrs.get("macs"),
        bytes=attrs.get("bytes"),
        latency=attrs.get("latency"),
        rungs=tuple(rungs),
        reason=attrs.get("reason"),
        seconds=seconds,
        saved=attrs.get("saved", 0),
        micro_batch=attrs.get("micro_batch"),
        depth=attrs.get("depth"),
        passed=attrs.get("passed", max(0, len(rungs) - 1)),
        race=None if raced is None else RungScore(**raced),
    )


def load_study(name: str, root: Path) -> StudyRecord:
    """Reads a study from its storage and its folder.

    Args:
        name: The study's name, a folder below `root`.
        root: Folder of studies.

    Raises:
        UserError: If there is no such study, or its storage holds none.
    """
    import optuna

    folder = root / name
    if not (folder / "recipe.yaml").is_file():
        known = study_names(root)
        names = ", ".join(known) or "none"
        raise UserError(f"no study {name!r} in {root}/{nearest(name, known)} (there: {names})")
    url = storage_url(folder, storage_of(folder))
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(url))
    except KeyError:
        raise UserError(
            f"study {name!r}: its storage {without_password(url)} holds no study yet"
        ) from None
    attrs = study.user_attrs
    found = [candidate_of(trial, attrs) for trial in study.get_trials(deepcopy=False)]
    candidates = [candidate for candidate in found if candidate is not None]
    finals = load_finals(folder)
    rungs = tuple(attrs.get("rungs", ()))
    return StudyRecord(
        name=name,
        folder=folder,
        state=attrs.get("stage", "searching"),
        recipe=attrs.get("recipe", {}),
        command=attrs.get("command", ""),
        teacher=_teacher(attrs.get("teacher", {}), finals),
        data=attrs.get("data", {}),
        machine=attrs.get("machine", {}),
        versions=attrs.get("versions", {}),
        limits=attrs.get("limits", {}),
        rungs=rungs,
        stages=_stages(attrs),
        savings=_savings(attrs, candidates, rungs),
        candidates=candidates,
        finals=finals,
    )


def study_names(root: Path) -> list[str]:
    """Names of the studies below a folder."""
    return sorted(path.parent.name for path in root.glob("*/recipe.yaml"))


def load_finals(folder: Path) -> list[Final]:
    """Reads the finals of a study from their folders, by rank."""
    finals = []
    for path in (folder / "finals").glob("*/metrics.json"):
        if path.parent.name.isdigit():
            metrics = json.loads(path.read_text())
            finals.append(Final(int(path.parent.name), metrics["trial"], path.parent, metrics))
    finals.sort(key=lambda final: final.rank)
    chosen = folder / "finals" / "recommended.json"
    if chosen.exists():
        rank = json.loads(chosen.read_text())["rank"]
        finals = [
            replace(final, metrics={**final.metrics, "recommended": final.rank == rank})
            for final in finals
        ]
    return finals


def _stages(attrs: Mapping[str, Any]) -> dict[str, float]:
    """Sums `seconds:<stage>:<worker>` over workers."""
    stages: dict[str, float] = {}
    for key, value in attrs.items():
        if key.startswith("seconds:"):
            stage = key.split(":")[1]
            stages[stage] = stages.get(stage, 0.0) + value
    return stages


def _savings(
    attrs: Mapping[str, Any], candidates: Sequence[Candidate], rungs: Sequence[int]
) -> dict[str, float]:
    """Training examples not trained, or not asked of the teacher, summed over workers."""
    saved: dict[str, float] = {}
    for key, value in attrs.items():
        if key.startswith("saved:"):
            what = key.split(":")[1]
            saved[what] = saved.get(what, 0.0) + value
    saved = {what: max(0.0, examples) for what, examples in saved.items()}
    stopping = sum(candidate.saved for candidate in candidates)
    if stopping:
        saved["stopping"] = float(stopping)
    rejected = sum(candidate.state == "rejected" for candidate in candidates)
    if rungs and rejected:
        saved["gates"] = float(rejected * rungs[0])
    return saved


def _teacher(card: Mapping[str, Any], finals: Sequence[Final]) -> dict[str, Any]:
    """The teacher's card, with what was measured of it beside the finals."""
    found = dict(card)
    if finals:
        metrics = finals[0].metrics
        found["test_accuracy"] = metrics["teacher_test_accuracy"]
        for row in metrics["latency"]:
            if row["model"] == "teacher" and row["batch"] == 1:
                found["latency"] = row["median_ms"]
    return found
