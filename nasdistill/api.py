"""What the command line does, as functions: the Python API."""

from __future__ import annotations

import json
import multiprocessing
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.errors import UserError
from nasdistill.recipe import Recipe, from_stored, load_recipe
from nasdistill.results import (
    COUNTED,
    Candidate,
    Event,
    StudyRecord,
    load_finals,
    load_study,
    study_names,
)

if TYPE_CHECKING:
    from nasdistill.bench import Bench
    from nasdistill.imported import Imported
    from nasdistill.space import SearchSpace
    from nasdistill.study import Study

STUDIES = Path("studies")
REPORTS = Path("reports")

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left behind.

    Attributes:
        record: The study.
        report: Path of the HTML page.
        already_complete: Whether there was nothing left to do.
    """

    record: StudyRecord
    report: Path
    already_complete: bool


def search(
    recipe: Recipe | None = None,
    *,
    command: str = "",
    on_event: OnEvent | None = None,
    **options: Any,
) -> SearchOutcome:
    """Searches, distils the top-k in full, and writes the report.

    Calling it again with the same recipe goes on where it stopped.

    Args:
        recipe: The whole configuration; or give its keys as `options`.
        command: The command line that the report shows.
        on_event: Told what happens.
        **options: Keys of a recipe, as in YAML: `space="mobile"`, `trials=24`, ….

    Returns:
        The study's record and the report's path.

    Raises:
        UserError: For anything that the caller can mend.
    """
    begun = time.monotonic()
    recipe = recipe or load_recipe(None, options)
    emit = on_event or _silent
    imported = _imported(recipe)
    from nasdistill.study import Study

    folder = STUDIES / recipe.study_name()
    new = not folder.exists()
    study = Study.open(recipe, STUDIES, command)
    try:
        _check_import(study, imported)
        if _is_complete(study):
            path = report(study.folder.name)
            return SearchOutcome(load_study(study.folder.name, STUDIES), path, True)
        with _children(recipe, study.folder.name, emit):
            deadlines = _run(study, imported, begun, emit)
        _finish(study, imported, deadlines, emit)
    except UserError:
        # A search that could not begin leaves nothing behind that would bind the next try.
        if new and not any(c.state in COUNTED for c in study.candidates()):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return _outcome(study, emit)


def resume(
    study: str, *, overrides: Mapping[str, Any] | None = None, on_event: OnEvent | None = None
) -> SearchOutcome:
    """Goes on with a study.

    Args:
        study: Its name.
        overrides: New values of `trials`, `time_limit`, `top_k` or `workers`.
        on_event: Told what happens.
    """
    record = load_study(study, STUDIES)
    recipe = from_stored(record.recipe, {**(overrides or {}), "study": study})
    return search(recipe, command=record.command, on_event=on_event)


def distill(
    study: str,
    *,
    trial: int | None = None,
    top_k: int | None = None,
    on_event: OnEvent | None = None,
) -> SearchOutcome:
    """Makes more finals of a study.

    Args:
        study: Its name.
        trial: The trial to distil in full; or
        top_k: how many finals to have in all.
        on_event: Told what happens.

    Raises:
        UserError: If there is no such trial, or it has no score.
    """
    from nasdistill import finals
    from nasdistill.study import Study

    emit = on_event or _silent
    record = load_study(study, STUDIES)
    recipe = Recipe.model_validate({**record.recipe, "study": study})
    imported = _imported(recipe)
    opened = Study.open(recipe, STUDIES, record.command)
    _check_import(opened, imported)
    chosen = list(opened.attrs.get("finals", []))
    candidates = opened.candidates()
    if trial is not None:
        _check_trial(trial, candidates)
        chosen += [trial] if trial not in chosen else []
    else:
        count = top_k or recipe.top_k
        limit = opened.attrs.get("limits", {}).get("accuracy", 0.0)
        ranked = finals.choose(candidates, recipe.minimize, count, limit)
        chosen += [c.number for c in ranked if c.number not in chosen]
    opened.set("finals", chosen)
    _finish(opened, imported, _Deadlines(None, None), emit, chosen)
    return _outcome(opened, emit)


def report(study: str) -> Path:
    """Writes `reports/<study>/index.html` anew and gives its path."""
    from nasdistill.report import write_report

    record = load_study(study, STUDIES)
    path = REPORTS / study / "index.html"
    write_report(record, path)
    return path


def studies() -> list[StudyRecord]:
    """All studies below `./studies`, by name."""
    return [load_study(name, STUDIES) for name in study_names(STUDIES)]


def profile(
    target: str,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    data_input: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
) -> dict[str, Any]:
    """Counts and times a final, or an architecture.

    Args:
        target: A final's folder, `STUDY/RANK`, or an architecture.json.
        engine: See `nasdistill.profile.ENGINES`.
        threads: Threads of the engine.
        batch: Images at once.
        data_input: Channels, height and width, for an architecture.json.
        classes: Number of classes, for an architecture.json.

    Returns:
        `params`, `macs`, `bytes` and `latency` (median and quartiles in milliseconds).
    """
    from nasdistill import artifact
    from nasdistill import profile as profiling
    from nasdistill.models import Classifier, build
    from nasdistill.options import Input
    from nasdistill.space import Architecture

    path = Path(target)
    if not path.exists() and target.count("/") == 1:
        path = _final_folder(*target.split("/"))
    if path.is_dir():
        module = artifact.load(path)
        shape = json.loads((path / "input.json").read_text())
        given = Input(shape["channels"], shape["height"], shape["width"])
    elif path.is_file():
        given = Input(*data_input)
        net = build(Architecture.from_json(path.read_text()), given, classes)
        module = Classifier(net, (0.0,) * given.channels, (1.0,) * given.channels).eval()
    else:
        raise UserError(f"profile: {target!r} is neither a final nor an architecture.json")
    counts = profiling.count_module(module, given)
    latency = profiling.measure(
        {"it": module}, {"it": given}, engine=engine, batch=batch, threads=threads
    )["it"]
    return {**asdict(counts), "latency": asdict(latency)}


def export(study: str, rank: int, format: str, out: Path | None = None) -> Path:
    """Exports a final.

    Args:
        study: The study's name.
        rank: The final's rank.
        format: `onnx` or `torch-export`.
        out: The file to write; by default it lies in the current folder.

    Raises:
        UserError: If there is no such final, the format is unknown, or the file exists.
    """
    from nasdistill import artifact
    from nasdistill.options import Input

    folder = _final_folder(study, str(rank))
    suffixes = {"onnx": ".onnx", "torch-export": ".pt2"}
    if format not in suffixes:
        raise UserError(f"--format {format!r}: allowed are {', '.join(suffixes)}")
    path = out or Path(f"{study}-{rank}{suffixes[format]}")
    if path.exists():
        raise UserError(f"{path} exists already; give another --out")
    module = artifact.load(folder)
    shape = json.loads((folder / "input.json").read_text())
    given = Input(shape["channels"], shape["height"], shape["width"])
    if format == "onnx":
        artifact.export_onnx(module, given, path)
    else:
        artifact.export_program(module, given, path)
    return path


def load(folder: str | Path) -> Any:
    """Loads a final: a torch module in eval mode that takes images and gives logits.

    Args:
        folder: The final's folder, e.g. `studies/mobile/finals/1`.

    Returns:
        A module; input float32 `[B, C, H, W]` in [0, 1] or uint8, output logits `[B, classes]`.
    """
    from nasdistill import artifact

    return artifact.load(Path(folder))


def spread(
    space: SearchSpace, *, size: int, channels: int, classes: int, samples: int = 200
) -> dict[str, Any]:
    """Spread of parameters and MACs over seeded samples of a space.

    Args:
        space: The space.
        size: Side of the input, in pixels.
        channels: Of the input.
        classes: Number of classes.
        samples: How many architectures to draw.

    Returns:
        `samples`, and for `params` and `macs` the minimum, quartiles and maximum.
    """
    import random
    import statistics

    from nasdistill import profile as profiling
    from nasdistill.options import Input

    rng = random.Random(0)
    given = Input(channels, size, size)
    counts = [profiling.count(space.random(rng), given, classes) for _ in range(samples)]
    found: dict[str, Any] = {"samples": samples}
    for key in ("params", "macs"):
        values = sorted(getattr(c, key) for c in counts)
        quartiles = statistics.quantiles(values, n=4)
        names = ("min", "q1", "median", "q3", "max")
        found[key] = dict(zip(names, [values[0], *quartiles, values[-1]], strict=True))
    return found


def teacher_train(
    *,
    data: str,
    out: Path,
    architecture: Path | None = None,
    epochs: int = 30,
    seed: int = 0,
    learning_rate: float = 0.003,
    precision: Any = "fp32",
    half: bool = False,
    device: str = "auto",
    image_size: int | None = None,
    channels: int | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Trains a teacher on labels alone and writes it to a folder.

    It is validated on the validation split and tested once.

    Args:
        data: See `nasdistill.data.load_data`.
        out: The folder to write; it must not exist.
        architecture: An architecture.json; by default the shipped teacher's.
        epochs: Passes over the training split.
        seed: Of weights and order.
        learning_rate: Peak.
        precision: fp32, bf16 or bf16-mixed.
        half: Whether weights are stored as float16; all figures are then those of the rounded ones.
        device: auto, cpu, cuda or cuda:N.
        image_size: See `load_data`.
        channels: See `load_data`.
        on_event: Told what happens.

    Returns:
        The card: recipe, seed, accuracies, calibration error.
    """
    import torch

    from nasdistill import artifact, teaching
    from nasdistill.bench import default_teacher, pick_device, set_threads
    from nasdistill.data import load_data
    from nasdistill.space import Architecture
    from nasdistill.teacher import Teacher, weights_hash

    if out.exists():
        raise UserError(f"--out {out}: exists already; nothing was written")
    if precision not in ("fp32", "bf16", "bf16-mixed"):
        raise UserError(f"--precision {precision!r}: allowed are fp32, bf16, bf16-mixed")
    set_threads(1)
    place = pick_device(device)
    dataset = load_data(data, device=place, seed=seed, image_size=image_size, channels=channels)
    chosen = default_teacher()
    if architecture is not None:
        chosen = Architecture.from_json(_text_of(architecture))
    module = teaching.train_teacher(
        dataset, chosen, epochs=epochs, seed=seed, emit=on_event or _silent,
        learning_rate=learning_rate, precision=precision,
        checkpoint=out.with_name(out.name + ".checkpoint.pt"),
    )  # fmt: skip
    if half:
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(torch.float16))
    teacher = Teacher(
        name=out.name, module=module.to(place), input=dataset.input, classes=len(dataset.classes),
        weights_hash=weights_hash(module), card={},
    )  # fmt: skip
    card = {
        "data": data, "architecture": chosen.fingerprint, "epochs": epochs, "seed": seed,
        "learning_rate": learning_rate, "precision": precision,
        "stored": "fp16" if half else "fp32",
        **teaching.evaluate_teacher(teacher, dataset, test=True),
    }  # fmt: skip
    artifact.write_final(
        out, module=module.cpu(), architecture=chosen, input=dataset.input,
        classes=dataset.classes, metrics=card, card=_teacher_card(card), half=half,
    )  # fmt: skip
    out.with_name(out.name + ".checkpoint.pt").unlink(missing_ok=True)
    return card


def teacher_evaluate(
    spec: str,
    *,
    data: str,
    weights: str | None = None,
    device: str = "auto",
    image_size: int | None = None,
    channels: int | None = None,
    import_file: str | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Measures a teacher on the validation split of some data; see `teaching.evaluate_teacher`."""
    from nasdistill import teaching
    from nasdistill.bench import load_a_teacher, pick_device, set_threads
    from nasdistill.data import load_data

    imported = _imported(Recipe(import_file=import_file))
    set_threads(1)
    place = pick_device(device)
    dataset = load_data(data, device=place, image_size=image_size, channels=channels)
    recipe = Recipe(data=data, teacher=spec, weights=weights)
    emit = on_event or _silent
    teacher = load_a_teacher(recipe, dataset, place, STUDIES, imported, emit)
    card = teaching.evaluate_teacher(teacher, dataset)
    for text in teaching.warnings_of(card):
        emit(Event("warning", text))
    return card


def _teacher_card(card: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in card.items())
    return (
        "# Teacher\n\nTrained on labels alone by `nasdistill teacher train`; accuracies are shares,"
        f" the gap is training minus validation accuracy.\n\n| what | value |\n|---|---|\n{rows}\n"
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


# -- the way through a search -------------------------------------------------------------------


@dataclass(frozen=True)
class _Deadlines:
    """`time.monotonic()` at which searching and the whole command must end."""

    search: float | None
    whole: float | None


def _run(study: Study, imported: Imported, begun: float, emit: OnEvent) -> _Deadlines:
    """Runs trials until none is left for this process."""
    from nasdistill import trials
    from nasdistill.bench import open_bench

    bench = open_bench(study, imported, emit)
    study.bench = bench
    deadlines = _deadlines(study, bench, begun)
    emit(Event("stage", f"searching: {study.recipe.trials} trials", stage="search"))
    while True:
        ended = trials.search(study, bench, emit, deadlines.search)
        if ended == "time":
            emit(Event("warning", "the search's share of the time limit is used up"))
        if ended == "exhausted":
            emit(Event("warning", "the space has no new architecture to offer within the limits"))
            study.set("exhausted_at", study.recipe.trials)
        if ended == "time" or not study.others_running():
            return deadlines
        time.sleep(1.0)


def _deadlines(study: Study, bench: Bench, begun: float) -> _Deadlines:
    """Divides the time limit between search and finals by the examples that each will see."""
    recipe, ladder = study.recipe, bench.ladder
    if recipe.time_limit is None:
        return _Deadlines(None, None)
    whole = begun + recipe.time_limit
    final = recipe.final_budget.examples(len(bench.dataset.train)) * recipe.top_k
    final *= 2 if recipe.baseline else 1
    going, searching = float(recipe.trials), 0.0
    for rung in range(len(ladder.budgets)):
        before = ladder.examples(rung - 1) if rung else 0
        searching += going * (ladder.examples(rung) - before)
        going /= ladder.eta if recipe.stopping else 1
    left = whole - time.monotonic()
    return _Deadlines(time.monotonic() + left * searching / (searching + final), whole)


def _finish(
    study: Study,
    imported: Imported,
    deadlines: _Deadlines,
    emit: OnEvent,
    chosen: list[int] | None = None,
) -> None:
    """Makes the finals, in one process."""
    from nasdistill import finals
    from nasdistill.bench import open_bench

    candidates = study.candidates()
    stored = study.attrs.get("finals", [])
    if chosen is None:
        limit = study.attrs["limits"]["accuracy"]
        top = finals.choose(candidates, study.recipe.minimize, study.recipe.top_k, limit)
        chosen = stored + [c.number for c in top if c.number not in stored]
        if not chosen:
            best = max((c.score or 0.0 for c in candidates), default=0.0)
            emit(
                Event(
                    "warning",
                    f"no trial reached the accuracy floor of {limit:.3f} (best score {best:.3f}): "
                    "no finals. Lower --min-accuracy, raise the rungs' budgets, or run more trials",
                )
            )
        study.set("finals", chosen)
    with study.finals_lease() as mine:
        if not mine:
            emit(Event("note", "another process is making the finals"))
            return
        study.set("stage", "distilling")
        emit(Event("stage", f"finals to distil in full: {len(chosen)}", stage="finals"))
        bench = study.bench or open_bench(study, imported, emit)
        study.bench = bench
        if chosen:
            finals.distill_finals(study, bench, chosen, emit, deadlines.whole)
        saved = bench.answers.served - bench.answers.asked
        key = f"saved:cache:{study.worker}"
        study.set(key, study.attrs.get(key, 0) + max(0, saved))
        study.set("stage", "complete" if _is_complete(study) else "searching")


def _outcome(study: Study, emit: OnEvent) -> SearchOutcome:
    emit(Event("stage", "writing the report", stage="report"))
    start = time.perf_counter()
    path = report(study.folder.name)
    study.add_seconds("report", time.perf_counter() - start)
    shutil.rmtree(study.folder / "trials", ignore_errors=True)
    return SearchOutcome(load_study(study.folder.name, STUDIES), path, False)


def _is_complete(study: Study) -> bool:
    """Whether nothing is left to do: trials counted, the top-k distilled."""
    from nasdistill import finals

    attrs, candidates, recipe = study.attrs, study.candidates(), study.recipe
    if "limits" not in attrs or study.others_running():
        return False
    counted = sum(c.state in COUNTED for c in candidates)
    if counted < recipe.trials and attrs.get("exhausted_at") != recipe.trials:
        return False
    made = {final.number for final in load_finals(study.folder)}
    wanted = finals.choose(candidates, recipe.minimize, recipe.top_k, attrs["limits"]["accuracy"])
    return all(c.number in made for c in wanted) and made >= set(attrs.get("finals", [-1]))


def _final_folder(study: str, rank: str) -> Path:
    record = load_study(study, STUDIES)
    ranks = {str(final.rank): final.folder for final in record.finals}
    if rank not in ranks:
        there = ", ".join(ranks) or "none"
        raise UserError(f"study {study!r} has no final {rank!r} (there: {there})")
    return ranks[rank]


def _check_trial(number: int, candidates: list[Candidate]) -> None:
    scored = [c.number for c in candidates if c.state in ("complete", "stopped")]
    if number not in scored:
        there = ", ".join(map(str, scored)) or "none"
        raise UserError(f"--trial {number}: no such trial with a score (there: {there})")


def _imported(recipe: Recipe) -> Imported:
    from nasdistill.data import register_sources
    from nasdistill.imported import import_file
    from nasdistill.models import register_families

    imported = import_file(recipe.import_file)
    register_families(imported.families)
    register_sources(imported.sources)
    return imported


def _check_import(study: Study, imported: Imported) -> None:
    if study.once("import_fingerprint", lambda: imported.fingerprint) != imported.fingerprint:
        raise UserError(
            f"study {study.folder.name!r}: the file given by --import has changed since the study "
            "was made"
        )


# -- local workers ------------------------------------------------------------------------------


@contextmanager
def _children(recipe: Recipe, name: str, emit: OnEvent) -> Iterator[None]:
    """Starts `workers - 1` further processes on the study; their events come here, too."""
    if recipe.workers == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    events: multiprocessing.Queue[Event] = context.Queue()
    processes = [
        context.Process(target=_worker, args=(recipe, name, events))
        for _ in range(recipe.workers - 1)
    ]
    for process in processes:
        process.start()
    over = threading.Event()

    def forward() -> None:
        while not over.is_set():
            try:
                emit(events.get(timeout=0.2))
            except queue.Empty:
                continue

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
        over.set()
        thread.join()


def _worker(recipe: Recipe, name: str, events: multiprocessing.Queue[Event]) -> None:
    """A further process: it runs trials, and leaves the finals to the first one."""
    from nasdistill.study import Study

    try:
        imported = _imported(recipe)
        study = Study.open(recipe, STUDIES, "")
        _run(study, imported, time.monotonic(), events.put)
    except UserError as error:
        events.put(Event("warning", f"a worker of {name} ended: {error}"))
    except KeyboardInterrupt:
        pass


def _silent(event: Event) -> None:
    """Says nothing."""
