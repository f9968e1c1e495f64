"""The commands for a model or a file: one function each, no logic."""

from __future__ import annotations

import json

from nasdistill.cli import model_options, options
from nasdistill.cli.console import error_messages, with_progress


def profile(
    target: model_options.Target,
    engine: model_options.Engine = "onnxruntime",
    threads: model_options.Threads = 1,
    batch: model_options.BatchOf = 1,
    size: model_options.Size = 28,
    channels: model_options.InputChannels = 1,
    classes: model_options.Classes = 10,
    import_file: options.Import = None,
    as_json: options.Json = False,
) -> None:
    """Count parameters and multiply-adds, and measure latency.

    Size, channels and classes are for an architecture.json; a final knows its own.
    """
    with error_messages():
        from nasdistill import api
        from nasdistill.cli.display import profile_lines

        figures = api.profile(
            target,
            engine=engine,
            threads=threads,
            batch=batch,
            data_input=(channels, size, size),
            classes=classes,
            import_file=import_file,
        )
        print(json.dumps(figures) if as_json else "\n".join(profile_lines(figures)))


def export(
    final: model_options.ExportOf,
    rank: model_options.Rank = None,
    format: model_options.Format = "onnx",
    out: model_options.OutFile = None,
    max_loss: model_options.MaxLossOf = None,
    runtime: model_options.RuntimeFolder = None,
    with_preprocessing: model_options.WithPreprocessing = False,
    as_json: options.Json = False,
) -> None:
    """Write a final in a format that devices take, and prove the file in its own runtime."""
    what = {"max_loss": max_loss, "with_preprocessing": with_preprocessing}
    more = {"format": format, "out": out, "onnxruntime_web": runtime, **what}
    made = with_progress(lambda api, emit: api.export(final, rank, **more, on_event=emit))
    from nasdistill.cli.display_files import print_file

    print_file(made, as_json)
