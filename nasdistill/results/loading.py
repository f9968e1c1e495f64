"""Loading of records from an Optuna storage and a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.json_files import check_form, parse_json, read_json
from nasdistill.common.types import nearest, without_password
from nasdistill.results import forms, keys
from nasdistill.results.files import judged
from nasdistill.results.keys import Key
from nasdistill.results.records import (
    Candidate,
    DamagedStudy,
    Final,
    RungScore,
    State,
    StudyRecord,
)
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

Item = TypeVar("Item")
Result = TypeVar("Result")


def candidate_of(trial: FrozenTrial) -> Candidate | None:
    """Reads one Optuna trial; None for one that was withdrawn, or that is not ours.

    Raises:
        DamagedFileError: If an attribute is missing or of the wrong kind.
    """
    attributes, source = trial.user_attrs, f"trial {trial.number} in the study's storage"
    state = keys.TRIAL_STATE.get(attributes)
    if state is None or state == "withdrawn":
        return None
    check_form(attributes, forms.TRIAL, source)
    rungs: list[RungScore] = []
    while (score := keys.RUNG.of(len(rungs)).get(attributes)) is not None:
        rungs.append(_score(score, f"{source}, rung {len(rungs)}"))
    seconds = {"rungs": sum(rung.seconds for rung in rungs)}
    stages = {stage: value for (stage,), value in keys.TRIAL_SECONDS.among(attributes).items()}
    check_form(stages, forms.SECONDS, f"{source}, seconds")
    passed = keys.PASSED.get(attributes)
    return Candidate(
        number=trial.number,
        state=cast(State, state),
        architecture=_architecture(attributes[keys.ARCHITECTURE.name], source),
        fingerprint=attributes[keys.FINGERPRINT.name],
        parameters=dict(trial.params),
        params=keys.PARAMS.get(attributes),
        macs=keys.MACS.get(attributes),
        bytes=keys.BYTES.get(attributes),
        latency=keys.LATENCY.get(attributes),
        rungs=tuple(rungs),
        reason=keys.REASON.get(attributes),
        seconds=seconds | stages,
        saved=keys.EXAMPLES_SAVED.get(attributes) or 0,
        micro_batch=keys.TRIAL_MICRO_BATCH.get(attributes),
        depth=keys.DEPTH.get(attributes),
        activations=keys.ACTIVATIONS.get(attributes),
        passed=max(0, len(rungs) - 1) if passed is None else passed,
        zero_cost=keys.ZERO_COST.get(attributes),
        foretold=keys.FORETOLD.get(attributes),
    )


def _score(stored: Any, source: str) -> RungScore:
    check_form(stored, forms.SCORE, source)
    return RungScore(**{k: v for k, v in stored.items() if k in forms.StoredScore.model_fields})


def _architecture(text: str, source: str) -> Mapping[str, Any]:
    content = parse_json(text, f"{source}, architecture")
    check_form(content, forms.ARCHITECTURE, f"{source}, architecture")
    architecture: Mapping[str, Any] = content
    return architecture


def load_study(name: str, root: Path, *, storage: str | None = None) -> StudyRecord:
    """Reads a study from its storage and its folder.

    Finals and trials that are damaged are left out, and named in the record's `damage`.

    Args:
        name: The study's name, a folder below `root`.
        root: Folder of studies.
        storage: URL by which its storage is reached; by default as its folder says.

    Raises:
        UserError: If there is no such study, its storage holds none, or cannot be read.
    """
    folder = root / name
    if not (folder / "recipe.yaml").is_file():
        known = study_names(root)
        names = ", ".join(known) or "none"
        raise UserError(f"no study {name!r} in {root}/{nearest(name, known)} (there: {names})")
    damage: list[str] = []
    attributes, trials = _stored(name, folder, storage)
    candidates = _undamaged(trials, candidate_of, damage)
    recipe = keys.RECIPE.get(attributes) or {}
    finals = [judged(final, recipe.get("max_loss", 0.5)) for final in load_finals(folder, damage)]
    rungs = tuple(keys.RUNGS.get(attributes) or ())
    return StudyRecord(
        name=name,
        folder=folder,
        state=keys.STATE.get(attributes) or "searching",  # type: ignore[arg-type]
        recipe=recipe,
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
        experience=keys.EXPERIENCE.get(attributes),
        first_weights=keys.FIRST_WEIGHTS.get(attributes) or {},
        damage=damage,
    )


def load_studies(root: Path) -> list[StudyRecord | DamagedStudy]:
    """Reads all studies below a folder, by name; one that is damaged hides no other."""
    records: list[StudyRecord | DamagedStudy] = []
    for name in study_names(root):
        try:
            records.append(load_study(name, root))
        except (UserError, OSError) as error:
            records.append(DamagedStudy(name, root / name, str(error)))
    return records


def _stored(
    name: str, folder: Path, given: str | None
) -> tuple[dict[str, Any], Sequence[FrozenTrial]]:
    """The attributes and the trials of a study, as its storage holds them.

    Raises:
        UserError: If the storage holds no such study, or cannot be read.
    """
    import optuna

    url = storage_url(folder, given or storage_of(folder))
    storage = open_storage(url)
    try:
        with storage_errors(url):
            stored_name = study_in(storage, folder, url)
            if stored_name is None:
                raise no_study_in(storage, folder, url)
            study = optuna.load_study(study_name=stored_name, storage=storage)
            attributes, trials = study.user_attrs, study.get_trials(deepcopy=False)
    except (UserError, ImportError):
        raise
    except Exception as error:  # Damaged rows make Optuna raise nearly anything.
        reason = without_password(str(error).splitlines()[0] if str(error) else repr(error))
        raise DamagedFileError(without_password(url), f"cannot be read ({reason})") from None
    check_form(attributes, forms.STUDY, f"study {name!r} in its storage")
    for key in (keys.SECONDS, keys.SAVED):
        sums = {" ".join(parts): value for parts, value in key.among(attributes).items()}
        check_form(sums, forms.SECONDS, f"study {name!r} in its storage, {key.name}")
    return attributes, trials


def _undamaged(
    items: Iterable[Item], read: Callable[[Item], Result | None], damage: list[str]
) -> list[Result]:
    """What can be read of some items; why others cannot is added to `damage`."""
    results = []
    for item in items:
        try:
            result = read(item)
        except DamagedFileError as error:
            damage.append(str(error))
        else:
            if result is not None:
                results.append(result)
    return results


def study_names(root: Path) -> list[str]:
    """Names of the studies below a folder."""
    return sorted(path.parent.name for path in root.glob("*/recipe.yaml"))


def final_folders(folder: Path) -> list[Path]:
    """Folders of the finals of a study that are done, by rank."""
    paths = (path.parent for path in (folder / "finals").glob("*/metrics.json"))
    return sorted((path for path in paths if path.name.isdigit()), key=lambda path: int(path.name))


def load_finals(folder: Path, damage: list[str] | None = None) -> list[Final]:
    """Reads the finals of a study from their folders, by rank.

    Args:
        folder: The study's.
        damage: What is wrong with those that cannot be read, which are left out, is added to it.
    """
    damage = [] if damage is None else damage
    finals = _undamaged(final_folders(folder), read_final, damage)
    recommended = folder / "finals" / "recommended.json"
    if recommended.exists():
        for rank in _undamaged([recommended], _read_rank, damage):
            finals = [
                replace(final, metrics={**final.metrics, "recommended": final.rank == rank})
                for final in finals
            ]
    return finals


def read_final(folder: Path) -> Final:
    """Reads a final from its folder, which is named by its rank.

    Raises:
        DamagedFileError: If its metrics.json is missing, or cannot be read.
    """
    metrics = read_json(folder / "metrics.json", forms.METRICS)
    return Final(int(folder.name), metrics["trial"], folder, metrics)


def _read_rank(path: Path) -> int:
    rank: int = read_json(path, forms.RECOMMENDED)["rank"]
    return rank


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
