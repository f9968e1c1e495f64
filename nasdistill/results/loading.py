"""Loading of records from an Optuna storage and a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nasdistill.common.errors import UserError
from nasdistill.common.types import nearest
from nasdistill.results import keys
from nasdistill.results.keys import Key
from nasdistill.results.records import Candidate, Final, RungScore, State, StudyRecord
from nasdistill.results.storage import (
    no_study_in,
    open_storage,
    storage_errors,
    storage_of,
    storage_url,
    study_in,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def candidate_of(trial: FrozenTrial, study_attributes: Mapping[str, Any]) -> Candidate | None:
    """Reads one Optuna trial; None for one that was withdrawn, or that is not ours."""
    attributes = trial.user_attrs
    state = keys.TRIAL_STATE.get(attributes)
    if state is None or state == "withdrawn":
        return None
    rungs: list[RungScore] = []
    while (score := keys.RUNG.of(len(rungs)).get(attributes)) is not None:
        rungs.append(RungScore(**score))
    seconds = {"rungs": sum(rung.seconds for rung in rungs)}
    seconds |= {stage: value for (stage,), value in keys.TRIAL_SECONDS.among(attributes).items()}
    passed = keys.PASSED.get(attributes)
    race_score = keys.RACE_SCORE.of(trial.number).get(study_attributes)
    return Candidate(
        number=trial.number,
        state=cast(State, state),
        architecture=json.loads(attributes[keys.ARCHITECTURE.name]),
        fingerprint=attributes[keys.FINGERPRINT.name],
        parameters=dict(trial.params),
        params=keys.PARAMS.get(attributes),
        macs=keys.MACS.get(attributes),
        bytes=keys.BYTES.get(attributes),
        latency=keys.LATENCY.get(attributes),
        rungs=tuple(rungs),
        reason=keys.REASON.get(attributes),
        seconds=seconds,
        saved=keys.EXAMPLES_SAVED.get(attributes) or 0,
        micro_batch=keys.TRIAL_MICRO_BATCH.get(attributes),
        depth=keys.DEPTH.get(attributes),
        passed=max(0, len(rungs) - 1) if passed is None else passed,
        race=None if race_score is None else RungScore(**race_score),
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
    storage = open_storage(url)
    with storage_errors(url):
        stored_name = study_in(storage, folder, url)
        if stored_name is None:
            raise no_study_in(storage, folder, url)
        study = optuna.load_study(study_name=stored_name, storage=storage)
        attributes, trials = study.user_attrs, study.get_trials(deepcopy=False)
    read = (candidate_of(trial, attributes) for trial in trials)
    candidates = [candidate for candidate in read if candidate is not None]
    finals = load_finals(folder)
    rungs = tuple(keys.RUNGS.get(attributes) or ())
    return StudyRecord(
        name=name,
        folder=folder,
        state=keys.STATE.get(attributes) or "searching",  # type: ignore[arg-type]
        recipe=keys.RECIPE.get(attributes) or {},
        command=keys.COMMAND.get(attributes) or "",
        teacher=_teacher(keys.TEACHER.get(attributes) or {}, finals),
        data=keys.DATA.get(attributes) or {},
        machine=keys.MACHINE.get(attributes) or {},
        versions=keys.VERSIONS.get(attributes) or {},
        limits=keys.LIMITS.get(attributes) or {},
        rungs=rungs,
        stages=_sums_over_workers(keys.SECONDS, attributes),
        savings=_savings(attributes, candidates, rungs),
        candidates=candidates,
        finals=finals,
    )


def study_names(root: Path) -> list[str]:
    """Names of the studies below a folder."""
    return sorted(path.parent.name for path in root.glob("*/recipe.yaml"))


def final_folders(folder: Path) -> list[Path]:
    """Folders of the finals of a study that are done, by rank."""
    paths = (path.parent for path in (folder / "finals").glob("*/metrics.json"))
    return sorted((path for path in paths if path.name.isdigit()), key=lambda path: int(path.name))


def load_finals(folder: Path) -> list[Final]:
    """Reads the finals of a study from their folders, by rank."""
    finals = []
    for path in final_folders(folder):
        metrics = json.loads((path / "metrics.json").read_text())
        finals.append(Final(int(path.name), metrics["trial"], path, metrics))
    recommended = folder / "finals" / "recommended.json"
    if recommended.exists():
        rank = json.loads(recommended.read_text())["rank"]
        finals = [
            replace(final, metrics={**final.metrics, "recommended": final.rank == rank})
            for final in finals
        ]
    return finals


def _sums_over_workers(key: Key[Any], attributes: Mapping[str, Any]) -> dict[str, float]:
    """Sums of an attribute that each worker keeps by itself, such as the seconds of a stage."""
    sums: dict[str, float] = {}
    for (name, _), value in key.among(attributes).items():
        sums[name] = sums.get(name, 0.0) + value
    return sums


def _savings(
    attributes: Mapping[str, Any], candidates: Sequence[Candidate], rungs: Sequence[int]
) -> dict[str, float]:
    """Training examples not trained, or not asked of the teacher, summed over workers."""
    saved = _sums_over_workers(keys.SAVED, attributes)
    saved = {source: max(0.0, examples) for source, examples in saved.items()}
    stopping = sum(candidate.saved for candidate in candidates)
    if stopping:
        saved["stopping"] = float(stopping)
    rejected = sum(candidate.state == "rejected" for candidate in candidates)
    if rungs and rejected:
        saved["gates"] = float(rejected * rungs[0])
    return saved


def _teacher(card: Mapping[str, Any], finals: Sequence[Final]) -> dict[str, Any]:
    """The teacher's card, with its accuracy and latency as measured beside the finals."""
    complete = dict(card)
    if finals:
        metrics = finals[0].metrics
        complete["test_accuracy"] = metrics["teacher_test_accuracy"]
        for row in metrics["latency"]:
            if row["model"] == "teacher" and row["batch"] == 1:
                complete["latency"] = row["median_ms"]
    return complete
