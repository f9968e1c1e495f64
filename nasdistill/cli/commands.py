"""The commands: one function each, no logic."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from nasdistill.cli import model_options, options, worker_options
from nasdistill.cli.console import console, error_messages, with_progress
from nasdistill.cli.model_commands import export, profile
from nasdistill.cli.teacher_commands import teacher_app
from nasdistill.cli.worker_command import worker

if TYPE_CHECKING:
    from nasdistill.api import SearchOutcome
    from nasdistill.common.events import Emit, Event

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds small neural networks that stand in for a big one, and distils them.",
)
app.add_typer(teacher_app, name="teacher")


@app.command()
def search(
    context: typer.Context,
    recipe: options.RecipeFile = None,
    space: options.Space = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    skip_unreadable: options.SkipUnreadable = None,
    teacher: options.Teacher = None,
    weights: options.Weights = None,
    classes: options.ClassOrder = None,
    study: options.StudyName = None,
    trials: options.Trials = None,
    time_limit: options.TimeLimit = None,
    top_k: options.Finals = None,
    minimize: options.Minimize = None,
    max_params: options.MaxParams = None,
    max_macs: options.MaxMacs = None,
    max_bytes: options.MaxBytes = None,
    max_latency: options.MaxLatency = None,
    min_accuracy: options.MinAccuracy = None,
    latency_engine: options.LatencyEngine = None,
    device: options.Device = None,
    precision: options.Precision = None,
    deterministic: options.Deterministic = None,
    workers: worker_options.Workers = None,
    engine: worker_options.Engine = None,
    ray_address: worker_options.RayAddress = None,
    gpu_share: worker_options.GPUShare = None,
    cpus_per_worker: worker_options.CPUsPerWorker = None,
    final_gpus: worker_options.FinalGPUs = None,
    seed: options.Seed = None,
    storage: worker_options.Storage = None,
    files: worker_options.Files = None,
    import_file: options.Import = None,
    begin: options.Begin = None,
    importance: options.Importance = None,
    baseline: options.Baseline = None,
    score: options.Score = None,
    sampler: options.Sampler = None,
    experience: options.Experience = None,
    stopping: options.Stopping = None,
    first_rung: options.FirstRung = None,
    eta: options.Eta = None,
    rung_count: options.RungCount = None,
    final_budget: options.FinalBudget = None,
    batch_size: options.BatchSize = None,
    sampling: options.Balance = None,
    class_weights: options.ClassWeights = None,
    views: options.Views = None,
    cache_size: options.CacheSize = None,
    learning_rate: options.LearningRate = None,
    alpha: options.Alpha = None,
    temperature: options.Temperature = None,
    synthetic: options.Synthetic = None,
    deploy: options.Deploy = None,
    formats: options.Formats = None,
    max_loss: options.MaxLoss = None,
    as_json: options.Json = False,
) -> None:
    """Search, distil the best in full, and write the report.

    The same command again goes on where it stopped. Every option is a key of a recipe, too.
    """
    with error_messages():
        from nasdistill.recipe import load_recipe

        resolved = load_recipe(recipe, _recipe_values(context.params))
        name = resolved.study_name()
    command = shlex.join(["nasdistill", *sys.argv[1:]])
    _run_and_summarise(
        name, as_json, lambda api, emit: api.search(resolved, command=command, on_event=emit)
    )


def _recipe_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of `search` in the shape of a recipe, whose keys may lie deeper."""
    values = {key: value for key, value in parameters.items() if value is not None}
    values = {key: value for key, value in values.items() if key not in ("as_json", "recipe")}
    costs = values.pop("minimize", None)
    if costs:
        values["minimize"] = ",".join(costs)
    rung_keys = {"first_rung": "first", "eta": "eta", "rung_count": "count"}
    rungs = {key: values.pop(flag) for flag, key in rung_keys.items() if flag in values}
    objective = {key: values.pop(key) for key in ("alpha", "temperature") if key in values}
    parts = {"rungs": rungs, "scoring": objective, "final": dict(objective)}
    return values | {key: part for key, part in parts.items() if part}


@app.command()
def resume(
    study: options.Study,
    trials: options.MoreTrials = None,
    time_limit: options.NewTimeLimit = None,
    top_k: options.MoreFinals = None,
    workers: worker_options.NewWorkers = None,
    engine: worker_options.NewEngine = None,
    ray_address: worker_options.NewRayAddress = None,
    gpu_share: worker_options.NewGPUShare = None,
    cpus_per_worker: worker_options.NewCPUsPerWorker = None,
    final_gpus: worker_options.NewFinalGPUs = None,
    cache_size: options.NewCacheSize = None,
    files: worker_options.NewFiles = None,
    formats: options.NewFormats = None,
    max_loss: options.NewMaxLoss = None,
    space: options.NewSpace = None,
    data: options.NewData = None,
    data_root: options.NewDataRoot = None,
    teacher: options.NewTeachers = None,
    weights: options.NewWeights = None,
    import_file: options.NewImport = None,
    as_json: options.Json = False,
) -> None:
    """Go on with a study where it stopped; say where its files lie, if they were moved."""
    own_teacher, further_teachers = _split_teachers(teacher or ())
    flags = {
        "trials": trials,
        "time_limit": time_limit,
        "top_k": top_k,
        "workers": workers,
        "engine": engine,
        "ray_address": ray_address,
        "gpu_share": gpu_share,
        "cpus_per_worker": cpus_per_worker,
        "final_gpus": final_gpus,
        "cache_size": cache_size,
        "files": files,
        "formats": formats,
        "max_loss": max_loss,
        "space": space,
        "data": data,
        "data_root": data_root,
        "teacher": own_teacher,
        "weights": weights,
        "import_file": import_file,
    }
    values = {key: value for key, value in flags.items() if value is not None}
    with error_messages():
        from nasdistill.recipe import load_recipe

        recipe = load_recipe(None, values)
        overrides = {key: getattr(recipe, key) for key in values}
    _run_and_summarise(
        study,
        as_json,
        lambda api, emit: api.resume(
            study, overrides=overrides, teachers=further_teachers, on_event=emit
        ),
    )


def _split_teachers(texts: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The new place of the teacher, and those of further ones, given as NAME=PLACE, by name."""
    own: str | None = None
    further: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if equals and re.fullmatch(r"[\w.-]+", name):
            further[name] = place
        elif own is not None:
            raise typer.BadParameter(f"{text!r}: --teacher is given twice")
        else:
            own = text
    return own, further


@app.command()
def distill(
    study: options.Study,
    trial: options.Trial = None,
    top_k: options.TopK = None,
    final_gpus: worker_options.NewFinalGPUs = None,
    as_json: options.Json = False,
) -> None:
    """Distil more trials of a study in full."""
    with error_messages():
        from nasdistill.common.errors import UserError
        from nasdistill.recipe import load_recipe

        if trial is not None and top_k is not None:
            raise UserError("give either --trial or --top-k, not both")
        if top_k is not None and top_k < 1:
            raise UserError(f"--top-k: found {top_k}; must be 1 or more")
        gpus = None
        if final_gpus is not None:
            gpus = load_recipe(None, {"final_gpus": final_gpus}).final_gpus
    _run_and_summarise(
        study,
        as_json,
        lambda api, emit: api.distill(
            study, trial=trial, top_k=top_k, final_gpus=gpus, on_event=emit
        ),
    )


app.command()(worker)


@app.command()
def report(study: options.Study, as_json: options.Json = False) -> None:
    """Write a study's report anew."""
    with error_messages():
        from nasdistill import api

        def warn(event: Event) -> None:
            print(f"warning: {event.text}", file=sys.stderr)

        path = api.report(study, on_event=warn)
        print(json.dumps({"report": str(path)}) if as_json else f"Report: {path}")


@app.command()
def studies(as_json: options.Json = False) -> None:
    """List the studies in ./studies, with state and best final."""
    with error_messages():
        from nasdistill import api
        from nasdistill.cli.display import damage_lines, studies_table, study_summary

        records = api.studies()
        if as_json:
            print(json.dumps([study_summary(record) for record in records]))
        elif records:
            console().print(studies_table(records))
            for line in damage_lines(records):
                print(line)
        else:
            print("no studies here yet; `nasdistill search` makes one")


@app.command()
def spaces(
    name: model_options.SpaceName = None,
    size: model_options.SpaceSize = 28,
    channels: model_options.InputChannels = 1,
    classes: model_options.Classes = 10,
    teacher: options.Teacher = None,
    import_file: options.Import = None,
    as_json: options.Json = False,
) -> None:
    """List the search spaces, or show one: its tree, its size, its spread.

    The space `pruned` is made from a net, which --teacher names.
    """
    with error_messages():
        from nasdistill.cli.display import cut_lines, space_lines, weight_lines
        from nasdistill.common.errors import UserError
        from nasdistill.space import SearchSpace

        if name is None:
            _print_shipped_spaces(as_json)
            return
        space = SearchSpace.load(name).for_pictures(size)
        from nasdistill import api

        shape = {"size": size, "channels": channels, "classes": classes}
        cuts: dict[str, Any] = {}
        lines: list[str] = []
        if space.needs_base:
            made = api.cut_space(space, teacher, import_file=import_file, **shape)
            space, lines = made.space, cut_lines(made)
            axes = [axis._asdict() for axis in made.axes]
            cuts = {"tree": space.to_dict(), "cuts": axes, "left_whole": made.left_whole}
        elif teacher is not None:
            raise UserError(f"--teacher {teacher}: the space {space.name!r} is not made from a net")
        samples = 50 if cuts else 200
        spread = api.spread(space, **shape, samples=samples)
        weights = api.pretrained_weights(space)
        figures = {"name": space.name, "architectures": space.count(), **spread, **cuts}
        if as_json:
            print(json.dumps(figures | ({"weights": weights} if weights else {})))
            return
        image = f"{channels}x{size}x{size}, {classes} classes"
        print("\n".join([*space_lines(space, spread, image), *lines, *weight_lines(weights)]))


def _print_shipped_spaces(as_json: bool) -> None:
    from nasdistill.space import SearchSpace

    listed = map(SearchSpace.load, SearchSpace.shipped())
    descriptions = {space.name: " ".join(space.description.split()) for space in listed}
    rows = [{"name": name, "description": text} for name, text in descriptions.items()]
    lines = [f"{name:10} {text}" for name, text in descriptions.items()]
    print(json.dumps(rows) if as_json else "\n".join(lines))


@app.command()
def evaluate(
    final: model_options.FinalOf,
    data: model_options.OtherData = None,
    split: model_options.Part = "test",
    device: model_options.DeviceOf = "auto",
    as_json: options.Json = False,
) -> None:
    """Hold a final against its teacher: agreement, classes, calibration, robustness, bias.

    On the study's own test split the figures go into the final's quality.json, for the report.
    """
    quality = with_progress(
        lambda api, emit: api.evaluate(final, data=data, split=split, device=device, on_event=emit)
    )
    if as_json:
        print(json.dumps(quality))
        return
    from nasdistill.cli.display_evaluation import quality_lines, quality_tables

    for table in quality_tables(quality):
        console().print(table)
    print("\n".join(quality_lines(quality)))


@app.command()
def audit(
    study: options.Study,
    count: model_options.AuditCount = 12,
    repeats: model_options.AuditRepeats = 3,
    as_json: options.Json = False,
) -> None:
    """Distil a sample of a study's trials in full: how far can its short scores be trusted?"""
    outcome = with_progress(
        lambda api, emit: api.audit(study, count=count, repeats=repeats, on_event=emit)
    )
    if as_json:
        print(json.dumps({**asdict(outcome.audit), "page": str(outcome.page)}))
        return
    from nasdistill.analysis.audit import verdict
    from nasdistill.cli.display import audit_table

    console().print(audit_table(outcome.audit))
    print(f"{verdict(outcome.audit)}\nPage: {outcome.page}")


@app.command()
def tune(
    target: model_options.TuneTarget,
    over: model_options.Over = "temperature,alpha",
    temperatures: model_options.Temperatures = None,
    alphas: model_options.Alphas = None,
    epochs: model_options.TuneEpochs = 2,
    data: model_options.TuneData = None,
    teacher: model_options.TuneTeacher = None,
    classes: options.ClassOrder = None,
    as_json: options.Json = False,
) -> None:
    """Try temperatures and alpha on one architecture, on validation data."""
    grid = {"temperatures": _parse_numbers(temperatures), "alphas": _parse_numbers(alphas)}
    basis = {"data": data, "teacher": teacher, "classes": classes}
    names = tuple(part.strip() for part in over.split(","))
    outcome = with_progress(
        lambda api, emit: api.tune(
            target, over=names, **grid, epochs=epochs, **basis, on_event=emit
        )
    )
    if as_json:
        result = {"points": outcome.points, "best": outcome.best, "picture": str(outcome.picture)}
        print(json.dumps(result))
        return
    from nasdistill.cli.display import tune_lines, tune_table

    console().print(tune_table(outcome.points, outcome.best))
    print("\n".join(tune_lines(outcome.best, outcome.picture)))


def _parse_numbers(text: str | None) -> tuple[float, ...] | None:
    """Reads numbers that are separated by commas."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write numbers separated by commas") from None


app.command()(profile)
app.command()(export)


def _run_and_summarise(
    study: str, as_json: bool, run: Callable[[Any, Emit], SearchOutcome]
) -> None:
    """Runs a search, or what goes on with one, and prints how it ended."""
    outcome = with_progress(run, study)
    from nasdistill.cli.display import finals_table, outcome_lines, study_summary
    from nasdistill.cli.display_files import problem_lines

    record = outcome.record
    if as_json:
        finals = [{"rank": final.rank, **final.metrics} for final in record.finals]
        result = {
            **study_summary(record),
            "finals_metrics": finals,
            "report": str(outcome.report),
        }
        print(json.dumps(result))
        return
    if record.finals:
        console().print(finals_table(record.finals), *problem_lines(record.finals), sep="\n")
    print("\n".join(outcome_lines(record, outcome.report, outcome.already_complete)))
