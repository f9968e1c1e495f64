"""The command line: one function a command, no logic."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from nasdistill.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds small neural networks that stand in for a big one, and distils them.",
)
teacher_app = typer.Typer(no_args_is_help=True, help="Train or evaluate a teacher.")
app.add_typer(teacher_app, name="teacher")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text (default: text).")]
DATA_HELP = (
    "Data: fashion-mnist-mini, fashion-mnist, folder:PATH, torchvision:NAME or npz:PATH "
    "(default: fashion-mnist-mini)."
)


def _option(flag: str, text: str, *more: str) -> Any:
    return typer.Option(flag, *more, help=text, show_default=False)


@app.command()
def search(
    context: typer.Context,
    recipe: Annotated[Optional[Path], _option("--recipe", "Recipe in YAML; a flag beats the file (default: none).")] = None,
    space: Annotated[Optional[str], _option("--space", "Search space: a shipped name or a YAML file (default: mobile).")] = None,
    data: Annotated[Optional[str], _option("--data", DATA_HELP)] = None,
    data_root: Annotated[Optional[str], _option("--data-root", "Folder of a torchvision dataset (default: data).")] = None,
    image_size: Annotated[Optional[str], _option("--image-size", "Side of the images, in pixels, 16 to 256 (default: their own; 224 for folders of large ones).")] = None,
    skip_unreadable: Annotated[Optional[bool], typer.Option("--skip-unreadable/--no-skip-unreadable", help="Leave unreadable images out (default: an error).", show_default=False)] = None,
    teacher: Annotated[Optional[str], _option("--teacher", "Teacher: auto, torchvision:NAME, timm:NAME, transformers:NAME, final:STUDY/RANK, folder:PATH, or a name in the --import file (default: auto).")] = None,
    weights: Annotated[Optional[str], _option("--weights", "File with the teacher's weights (default: its pretrained ones).")] = None,
    study: Annotated[Optional[str], _option("--study", "Name of the study (default: made from what differs from the defaults).")] = None,
    trials: Annotated[Optional[str], _option("--trials", "Trials in all, those of earlier calls included (default: 24).")] = None,
    time_limit: Annotated[Optional[str], _option("--time-limit", "For the whole command, finals included, e.g. 90s, 10m, 2h; a bare number is seconds (default: none).")] = None,
    top_k: Annotated[Optional[str], _option("--top-k", "How many finals to distil in full (default: 2).")] = None,
    minimize: Annotated[Optional[list[str]], _option("--minimize", "Costs to minimise beside accuracy: latency, params, macs, bytes; repeat, or separate by commas (default: latency,params).")] = None,
    max_params: Annotated[Optional[str], _option("--max-params", "Most parameters, e.g. 250k, 1.5M (default with no limit at all: a tenth of the teacher's).")] = None,
    max_macs: Annotated[Optional[str], _option("--max-macs", "Most multiply-adds an image, e.g. 10M (default: none).")] = None,
    max_bytes: Annotated[Optional[str], _option("--max-bytes", "Most bytes of the model file, e.g. 500k (default: none).")] = None,
    max_latency: Annotated[Optional[str], _option("--max-latency", "Longest median batch-1 latency, e.g. 5ms; a bare number is milliseconds (default with no limit at all: a third of the teacher's).")] = None,
    min_accuracy: Annotated[Optional[str], _option("--min-accuracy", "Least accuracy of a final, e.g. 0.88 or 88% (default: 90 % of the teacher's).")] = None,
    latency_engine: Annotated[Optional[str], _option("--latency-engine", "What latency is measured with: onnxruntime, torch, cuda, or 'command:PROGRAM' that takes an ONNX file and prints milliseconds (default: onnxruntime).")] = None,
    device: Annotated[Optional[str], _option("--device", "auto, cpu, cuda or cuda:N (default: auto).")] = None,
    precision: Annotated[Optional[str], _option("--precision", "auto, fp32, bf16, or bf16-mixed with depthwise convolutions in fp32 (default: auto, probed once).")] = None,
    deterministic: Annotated[Optional[bool], typer.Option("--deterministic/--no-deterministic", help="Refuse operations that differ from run to run, on CUDA (default: allow).", show_default=False)] = None,
    workers: Annotated[Optional[str], _option("--workers", "Local processes; on a CPU each takes its share of the cores (default: 1).")] = None,
    seed: Annotated[Optional[str], _option("--seed", "Seed of everything that is drawn (default: 0).")] = None,
    storage: Annotated[Optional[str], _option("--storage", "Optuna storage URL (default: SQLite in the study's folder).")] = None,
    import_file: Annotated[Optional[str], _option("--import", "Python file with families, teachers or sources of your own (default: none).")] = None,
    baseline: Annotated[Optional[bool], typer.Option("--baseline/--no-baseline", help="Also train each final on labels alone (default: no).", show_default=False)] = None,
    sampler: Annotated[Optional[str], _option("--sampler", "random, tpe, nsga2 or qmc; the last two draw nested parameters independently (default: tpe).")] = None,
    stopping: Annotated[Optional[bool], typer.Option("--stopping/--no-stopping", help="Stop trials that cannot reach the front (default: stop).", show_default=False)] = None,
    first_rung: Annotated[Optional[str], _option("--first-rung", "Budget of the first rung, in images or epochs, e.g. 6k, '0.5 epochs' (default: 6k images).")] = None,
    eta: Annotated[Optional[str], _option("--eta", "Each rung is worth eta times the one before; 1/eta of the trials goes on (default: 3).")] = None,
    rung_count: Annotated[Optional[str], _option("--rung-count", "Number of rungs (default: 3).")] = None,
    final_budget: Annotated[Optional[str], _option("--final-budget", "Budget of a final, e.g. '15 epochs' or '150k images' (default: 15 epochs).")] = None,
    batch_size: Annotated[Optional[str], _option("--batch-size", "Examples in a step (default: 128).")] = None,
    views: Annotated[Optional[str], _option("--views", "Views of each example that the teacher answers (default: 8).")] = None,
    learning_rate: Annotated[Optional[str], _option("--learning-rate", "Peak learning rate of AdamW (default: 0.004).")] = None,
    alpha: Annotated[Optional[str], _option("--alpha", "Weight of the labels against the teacher, 0 to 1, in rungs and finals (default: 0.1).")] = None,
    temperature: Annotated[Optional[str], _option("--temperature", "Softens the teacher's answers, in rungs and finals (default: 4).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Search, distil the best in full, and write the report."""
    given = {k: v for k, v in context.params.items() if v is not None}
    given.pop("as_json"), given.pop("recipe", None)
    with _told():
        from nasdistill.recipe import load_recipe

        overrides = _nest(given)
        resolved = load_recipe(recipe, overrides)
        name = resolved.study_name()
    command = shlex.join(["nasdistill", *sys.argv[1:]])
    _show_search(name, as_json, lambda api, emit: api.search(resolved, command=command, on_event=emit))


def _nest(given: dict[str, Any]) -> dict[str, Any]:
    """Flags whose key in a recipe lies deeper, put in their place."""
    if "minimize" in given:
        given["minimize"] = [n.strip() for text in given["minimize"] for n in text.split(",")]
    rungs = {"first_rung": "first", "eta": "eta", "rung_count": "count"}
    deeper = {key: given.pop(flag) for flag, key in rungs.items() if flag in given}
    if deeper:
        given["rungs"] = deeper
    objective = {key: given.pop(key) for key in ("alpha", "temperature") if key in given}
    if objective:
        given["scoring"], given["final"] = dict(objective), dict(objective)
    return given


@app.command()
def resume(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trials: Annotated[Optional[str], _option("--trials", "Trials in all (default: as before).")] = None,
    time_limit: Annotated[Optional[str], _option("--time-limit", "For the whole command, e.g. 10m; a bare number is seconds (default: none).")] = None,
    top_k: Annotated[Optional[str], _option("--top-k", "How many finals in all (default: as before).")] = None,
    workers: Annotated[Optional[str], _option("--workers", "Local processes (default: as before).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Go on with a study where it stopped."""
    given = {"trials": trials, "time_limit": time_limit, "top_k": top_k, "workers": workers}
    overrides = {k: v for k, v in given.items() if v is not None}
    _show_search(study, as_json, lambda api, emit: api.resume(study, overrides=overrides, on_event=emit))


@app.command()
def distill(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trial: Annotated[Optional[int], _option("--trial", "The trial to distil in full (default: the best of the front).")] = None,
    top_k: Annotated[Optional[int], _option("--top-k", "How many finals to have in all (default: the study's).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Distil more trials of a study in full."""
    _show_search(study, as_json, lambda api, emit: api.distill(study, trial=trial, top_k=top_k, on_event=emit))


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="Name of the study.")], as_json: Json = False
) -> None:
    """Write a study's report anew."""
    with _told():
        from nasdistill import api

        path = api.report(study)
        print(json.dumps({"report": str(path)}) if as_json else f"Report: {path}")


@app.command()
def studies(as_json: Json = False) -> None:
    """List the studies in ./studies, with state and best final."""
    with _told():
        from nasdistill import api
        from nasdistill.display import studies_table, summary

        records = api.studies()
        if as_json:
            print(json.dumps([summary(record) for record in records]))
        elif records:
            _console().print(studies_table(records))
        else:
            print("no studies here yet; `nasdistill search` makes one")


@app.command()
def spaces(
    name: Annotated[Optional[str], typer.Argument(help="A shipped space or a YAML file; without it, all are listed.")] = None,
    size: Annotated[int, typer.Option("--size", help="Side of the input, in pixels.")] = 28,
    channels: Annotated[int, typer.Option("--channels", help="Channels of the input, 1 or 3.")] = 1,
    classes: Annotated[int, typer.Option("--classes", help="Number of classes.")] = 10,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List the search spaces, or show one: its tree, its size, its spread."""
    with _told():
        from nasdistill.space import SearchSpace

        if name is None:
            listed = [SearchSpace.load(each) for each in SearchSpace.shipped()]
            if as_json:
                print(json.dumps([{"name": s.name, "description": s.description} for s in listed]))
            for each in [] if as_json else listed:
                print(f"{each.name:10} {' '.join(each.description.split())}")
            return
        space = SearchSpace.load(name)
        from nasdistill import api

        spread = api.spread(space, size=size, channels=channels, classes=classes)
        if as_json:
            print(json.dumps({"name": space.name, "architectures": space.count(), **spread}))
            return
        print("\n".join(space.tree()))
        count = space.count()
        print(f"\narchitectures: {'infinitely many' if count is None else f'{count:,}'}")
        print(f"spread over {spread['samples']} samples at {channels}x{size}x{size}, {classes} classes:")
        for key in ("params", "macs"):
            row = spread[key]
            print(f"  {key:7} " + "  ".join(f"{k} {v:,.0f}" for k, v in row.items()))


@teacher_app.command("train")
def teacher_train(
    out: Annotated[Path, typer.Option("--out", help="Folder to write (required).")],
    data: Annotated[str, typer.Option("--data", help="Data, as in search.")] = "fashion-mnist-mini",
    architecture: Annotated[Optional[Path], _option("--architecture", "architecture.json (default: the shipped teacher's).")] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training split.")] = 30,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and order.")] = 0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate of AdamW.")] = 0.003,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "fp32",
    half: Annotated[bool, typer.Option("--half/--no-half", help="Store weights as float16.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    image_size: Annotated[Optional[int], _option("--image-size", "Side of the images, in pixels (default: their own).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train a teacher on labels and write it to a folder."""

    def run(api: Any, emit: Any) -> dict[str, Any]:
        card: dict[str, Any] = api.teacher_train(
            data=data, architecture=architecture, epochs=epochs, seed=seed, out=out,
            learning_rate=learning_rate, precision=precision, half=half, device=device,
            image_size=image_size, on_event=emit,
        )  # fmt: skip
        return card

    _print_card(_with_display(run), as_json)


@teacher_app.command("evaluate")
def teacher_evaluate(
    teacher: Annotated[str, typer.Argument(help="Teacher, as in search --teacher.")],
    data: Annotated[str, typer.Option("--data", help="Data, as in search.")] = "fashion-mnist-mini",
    weights: Annotated[Optional[str], _option("--weights", "File with its weights (default: pretrained).")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    image_size: Annotated[Optional[int], _option("--image-size", "Side of the images, in pixels (default: their own).")] = None,
    import_file: Annotated[Optional[str], _option("--import", "Python file with teachers of your own (default: none).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure a teacher on data: accuracy, calibration, overfitting."""

    def run(api: Any, emit: Any) -> dict[str, Any]:
        card: dict[str, Any] = api.teacher_evaluate(
            teacher, data=data, weights=weights, device=device, image_size=image_size,
            import_file=import_file, on_event=emit,
        )  # fmt: skip
        return card

    _print_card(_with_display(run), as_json)


@app.command()
def profile(
    target: Annotated[str, typer.Argument(help="A final (its folder, or STUDY/RANK) or an architecture.json.")],
    engine: Annotated[str, typer.Option("--engine", help="onnxruntime, torch, cuda or 'command:PROGRAM'.")] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", help="Threads of the engine.")] = 1,
    batch: Annotated[int, typer.Option("--batch", help="Images at once.")] = 1,
    size: Annotated[int, typer.Option("--size", help="Side of the input, in pixels, for an architecture.json.")] = 28,
    channels: Annotated[int, typer.Option("--channels", help="Channels of the input, for an architecture.json.")] = 1,
    classes: Annotated[int, typer.Option("--classes", help="Number of classes, for an architecture.json.")] = 10,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Count parameters and multiply-adds, and measure latency."""
    with _told():
        from nasdistill import api

        figures = api.profile(
            target, engine=engine, threads=threads, batch=batch,
            data_input=(channels, size, size), classes=classes,
        )  # fmt: skip
        if as_json:
            print(json.dumps(figures))
            return
        latency = figures["latency"]
        print(f"parameters     {figures['params']:,}")
        print(f"multiply-adds  {figures['macs']:,} an image")
        print(f"bytes          {figures['bytes']:,}")
        print(
            f"latency        {latency['median_ms']:.3f} ms median, quartiles "
            f"{latency['q1_ms']:.3f} to {latency['q3_ms']:.3f} ms ({latency['engine']}, batch "
            f"{latency['batch']}, {latency['threads']} thread(s))"
        )


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    rank: Annotated[int, typer.Argument(help="Rank of the final.")],
    format: Annotated[str, typer.Option("--format", help="onnx or torch-export.")] = "onnx",
    out: Annotated[Optional[Path], _option("--out", "File to write (default: STUDY-RANK.onnx or .pt2 here).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Export a final."""
    with _told():
        from nasdistill import api

        path = api.export(study, rank, format, out)
        print(json.dumps({"path": str(path)}) if as_json else f"Written: {path}")


# -- what the commands share --------------------------------------------------------------------


def _show_search(study: str, as_json: bool, run: Callable[[Any, Any], Any]) -> None:
    outcome = _with_display(run, study)
    from nasdistill.display import finals_table, summary

    if as_json:
        print(json.dumps({**summary(outcome.record), "report": str(outcome.report)}))
        return
    console, name = _console(), outcome.record.name
    if outcome.record.finals:
        console.print(finals_table(outcome.record.finals))
    if outcome.already_complete:
        console.print(
            f"The study {name} is complete: {outcome.record.recipe['trials']} trials, "
            f"{len(outcome.record.finals)} finals. To go on: `nasdistill resume {name} --trials N` "
            f"searches further, `nasdistill distill {name} --top-k K` makes more finals, "
            f"`nasdistill export {name} RANK` exports one.",
            highlight=False,
        )
    elif outcome.record.state != "complete":
        console.print(f"Not finished; go on with: nasdistill resume {name}", highlight=False)
    console.print(f"Finals: {outcome.record.folder / 'finals'}", highlight=False)
    console.print(f"Report: {outcome.report}", highlight=False)


def _with_display(run: Callable[[Any, Any], Any], study: str | None = None) -> Any:
    with _told(study):
        from nasdistill import api
        from nasdistill.display import Display

        with Display(_console(stderr=True)) as display:
            return run(api, display)


def _print_card(card: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(card))
        return
    for key, value in card.items():
        print(f"{key:20} {value:.4f}" if isinstance(value, float) else f"{key:20} {value}")


@contextmanager
def _told(study: str | None = None) -> Iterator[None]:
    """Turns what may go wrong into one message and an exit status."""
    try:
        yield
    except UserError as error:
        print(f"nasdistill: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if study is not None:
            print(f"\nSaved. Go on with: nasdistill resume {study}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        place = f" ({error.filename})" if error.filename else ""
        print(f"nasdistill: cannot write: {error.strerror}{place}", file=sys.stderr)
        raise typer.Exit(1) from None


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=not (sys.stderr if stderr else sys.stdout).isatty())


def main() -> None:
    """Entry point of the command `nasdistill`."""
    app()
