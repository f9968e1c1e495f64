"""The options of `nasdistill teacher …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasdistill.cli.options import option

BalanceOf = Annotated[
    str,
    option(
        "--sampling",
        "uniform shows all examples equally often, balanced all classes (default: uniform).",
    ),
]
ClassWeightsOf = Annotated[
    str | None,
    option(
        "--class-weights",
        "Weights of the loss by class: balanced, or NAME=WEIGHT,… (default: none, all alike).",
    ),
]
Out = Annotated[Path, option("--out", "Folder to write; it must not exist (no default).")]
ArchitectureFile = Annotated[
    Path | None, option("--architecture", "architecture.json (default: the shipped teacher's).")
]
Epochs = Annotated[
    int | None,
    option(
        "--epochs",
        "Passes over the training split (default: until accuracy on validation images stops "
        "improving; with --from 10).",
    ),
]
From = Annotated[
    str | None,
    option(
        "--from",
        "Pretrained model to fine-tune: torchvision:NAME, timm:NAME or transformers:NAME, with "
        ",size=PIXELS if neither its own nor --image-size (default: none, training begins with "
        "random weights).",
    ),
]
Tune = Annotated[
    str | None,
    option(
        "--tune",
        "What of --from is trained: head, or all, which trains the head first (default: all).",
    ),
]
FromWeights = Annotated[
    str | None,
    option("--weights", "File with the weights of --from (default: its pretrained ones)."),
]
TrainedSize = Annotated[
    int | None,
    option(
        "--image-size",
        "Side of the images, in pixels, also for --from (default: their own, and for --from the "
        "side that its weights were trained at).",
    ),
]
SeedOf = Annotated[int, option("--seed", "Seed of weights and order (default: 0).")]
SplitSeed = Annotated[
    int, option("--seed", "Seed of the data's splits: that of the study to come (default: 0).")
]
Rate = Annotated[
    float | None,
    option(
        "--learning-rate",
        "Peak learning rate of AdamW (default: 0.003; where --from tunes all layers 0.0005).",
    ),
]
PrecisionOf = Annotated[
    str, option("--precision", "auto, fp32, bf16 or bf16-mixed (default: auto, probed once).")
]
Half = Annotated[
    bool, option("--half/--no-half", "Store the weights as float16 (default: float32).")
]
TeacherOf = Annotated[str, typer.Argument(help="Teacher, as in search --teacher.")]
TableOut = Annotated[
    Path, option("--out", "File to write: .parquet or .npz; must not exist (no default).")
]
