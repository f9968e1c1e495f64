"""The commands `nasdistill teacher …`: one function each, no logic."""

from __future__ import annotations

import json
from typing import Any

import typer

from nasdistill.cli import model_options, options, teacher_options
from nasdistill.cli.console import with_progress
from nasdistill.common import formats

teacher_app = typer.Typer(no_args_is_help=True, help="Train, evaluate or record a teacher.")


@teacher_app.command("train")
def teacher_train(
    out: teacher_options.Out,
    data: model_options.DataOf = "fashion-mnist-mini",
    architecture: teacher_options.ArchitectureFile = None,
    source: teacher_options.From = None,
    tune: teacher_options.Tune = None,
    weights: teacher_options.FromWeights = None,
    epochs: teacher_options.Epochs = None,
    seed: teacher_options.SeedOf = 0,
    learning_rate: teacher_options.Rate = None,
    precision: teacher_options.PrecisionOf = "auto",
    half: teacher_options.Half = False,
    sampling: teacher_options.BalanceOf = "uniform",
    class_weights: teacher_options.ClassWeightsOf = None,
    device: model_options.DeviceOf = "auto",
    image_size: teacher_options.TrainedSize = None,
    channels: model_options.ChannelsOf = None,
    as_json: options.Json = False,
) -> None:
    """Train a teacher on labels, from scratch or from pretrained weights; write it to a folder."""
    arguments: dict[str, Any] = {
        "data": data,
        "architecture": architecture,
        "source": source,
        "tune": tune,
        "weights": weights,
        "epochs": epochs,
        "seed": seed,
        "out": out,
        "learning_rate": learning_rate,
        "precision": precision,
        "half": half,
        "sampling": sampling,
        "class_weights": class_weights,
        "device": device,
        "image_size": image_size,
        "channels": channels,
    }
    card = with_progress(lambda api, emit: api.teacher_train(**arguments, on_event=emit))
    _print_card(card, as_json)


@teacher_app.command("evaluate")
def teacher_evaluate(
    teacher: teacher_options.TeacherOf,
    data: model_options.DataOf = "fashion-mnist-mini",
    weights: options.Weights = None,
    classes: options.ClassOrder = None,
    device: model_options.DeviceOf = "auto",
    image_size: model_options.ImageSizeOf = None,
    channels: model_options.ChannelsOf = None,
    import_file: options.Import = None,
    as_json: options.Json = False,
) -> None:
    """Measure a teacher on data: accuracy, calibration, overfitting."""
    arguments: dict[str, Any] = {
        "data": data,
        "weights": weights,
        "classes": classes,
        "device": device,
        "image_size": image_size,
        "channels": channels,
        "import_file": import_file,
    }
    card = with_progress(
        lambda api, emit: api.teacher_evaluate(teacher, **arguments, on_event=emit)
    )
    _print_card(card, as_json)


@teacher_app.command("record")
def teacher_record(
    teacher: teacher_options.TeacherOf,
    out: teacher_options.TableOut,
    data: model_options.DataOf = "fashion-mnist-mini",
    weights: options.Weights = None,
    classes: options.ClassOrder = None,
    device: model_options.DeviceOf = "auto",
    image_size: model_options.ImageSizeOf = None,
    channels: model_options.ChannelsOf = None,
    seed: teacher_options.SplitSeed = 0,
    import_file: options.Import = None,
    as_json: options.Json = False,
) -> None:
    """Write a teacher's answers about the training examples to a table, which can teach for it."""
    arguments: dict[str, Any] = {
        "data": data,
        "out": out,
        "weights": weights,
        "classes": classes,
        "device": device,
        "image_size": image_size,
        "channels": channels,
        "seed": seed,
        "import_file": import_file,
    }
    count = with_progress(lambda api, emit: api.teacher_record(teacher, **arguments, on_event=emit))
    result = {"path": str(out), "examples": count}
    print(json.dumps(result) if as_json else f"Written: {out}, {formats.counted(count, 'example')}")


def _print_card(card: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(card))
        return
    for key, value in card.items():
        print(f"{key:20} {value:.4f}" if isinstance(value, float) else f"{key:20} {value}")
