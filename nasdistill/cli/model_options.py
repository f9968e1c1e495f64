"""The options of commands about spaces, models and what was found: spaces, profile, evaluate, …."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from nasdistill.cli.options import option
from nasdistill.common.types import FormatName

SpaceName = Annotated[
    str | None,
    typer.Argument(
        help="A shipped space or a YAML file (default: all are listed).", show_default=False
    ),
]
Size = Annotated[int, option("--size", "Side of the input, in pixels (default: 28).")]
SpaceSize = Annotated[
    int,
    option(
        "--size",
        "Side of the input, in pixels: large pictures have trees of their own (default: 28).",
        "--image-size",
    ),
]
InputChannels = Annotated[int, option("--channels", "Channels of the input, 1 or 3 (default: 1).")]
Classes = Annotated[int, option("--classes", "Number of classes (default: 10).")]
DataOf = Annotated[str, option("--data", "Data, as in search (default: fashion-mnist-mini).")]
DeviceOf = Annotated[str, option("--device", "auto, cpu, cuda or cuda:N (default: auto).")]
ImageSizeOf = Annotated[
    int | None, option("--image-size", "Side of the images, in pixels (default: their own).")
]
ChannelsOf = Annotated[
    int | None,
    option("--channels", "Channels to which images are converted, 1 or 3 (default: their own)."),
]
Target = Annotated[
    str,
    typer.Argument(
        help="A final (its folder, or STUDY/RANK), an architecture.json, or a file: .onnx, .xml "
        "(OpenVINO), .pte (ExecuTorch), .tflite (LiteRT)."
    ),
]
FinalOf = Annotated[str, typer.Argument(help="A final: STUDY/RANK, or its folder.")]
OtherData = Annotated[
    str | None,
    option(
        "--data",
        "Other data with the same classes, as in search; all of them where they have no splits "
        "(default: the study's own).",
    ),
]
Part = Annotated[
    str,
    option(
        "--split",
        "test or audit; finals are reported on the test split, and evaluating chooses nothing "
        "(default: test).",
    ),
]
Engine = Annotated[
    str,
    option(
        "--engine",
        "onnxruntime, openvino, executorch, litert, torch, cuda or 'command:PROGRAM'; files have "
        "their own (default: onnxruntime).",
    ),
]
Threads = Annotated[int, option("--threads", "Threads of the engine (default: 1).")]
BatchOf = Annotated[int, option("--batch", "Images at once (default: 1).")]
ExportOf = Annotated[
    str, typer.Argument(help="A final: STUDY/RANK, its folder, or its study beside a RANK.")
]
Rank = Annotated[
    int | None,
    typer.Argument(help="Rank of the final, from 1, beside a STUDY.", show_default=False),
]
Format = Annotated[
    str,
    option(
        "--format",
        f"{', '.join(get_args(FormatName))}, or web: a folder with a page that classifies pictures "
        "in a browser (default: onnx).",
    ),
]
WithPreprocessing = Annotated[
    bool,
    option(
        "--with-preprocessing",
        "Have an ONNX file take a picture as decoded, of any size, and prepare it itself (default: "
        "no).",
    ),
]
OutFile = Annotated[
    Path | None,
    option(
        "--out",
        "File to write, of web the folder (default: STUDY-RANK here, with the format's ending).",
    ),
]
RuntimeFolder = Annotated[
    Path | None,
    option(
        "--onnxruntime-web",
        "For --format web: a folder with the files of the package onnxruntime-web (default: npm "
        "fetches it once into the user's cache).",
    ),
]
MaxLossOf = Annotated[
    float | None,
    option(
        "--max-loss",
        "Points of accuracy that the file may lose against fp32 without being warned of (default: "
        "as in the study).",
    ),
]

# -- audit and tune -------------------------------------------------------------------------------

AuditCount = Annotated[
    int,
    option("--count", "Trials to distil in full, at least 3 (default: 12)."),
]
AuditRepeats = Annotated[
    int,
    option("--repeats", "How many with a second seed, too (default: 3)."),
]
TuneTarget = Annotated[
    str, typer.Argument(help="A study (its recommended final, or best trial) or architecture.json.")
]
Over = Annotated[str, option("--over", "temperature, alpha or both (default: temperature,alpha).")]
Temperatures = Annotated[
    str | None, option("--temperatures", "Temperatures to try (default: 1,2,3,5,7,10,15).")
]
Alphas = Annotated[
    str | None,
    option("--alphas", "Weights of the labels to try, 0 to 1 (default: 0,0.1,0.3,0.5,0.7)."),
]
TuneEpochs = Annotated[
    int,
    option("--epochs", "Epochs for each point (default: 2)."),
]
TuneData = Annotated[
    str | None,
    option("--data", "Data, for an architecture.json, as in search (default: the shipped ones)."),
]
TuneTeacher = Annotated[
    str | None,
    option("--teacher", "Teacher, for an architecture.json, as in search (default: auto)."),
]
