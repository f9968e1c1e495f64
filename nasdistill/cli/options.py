"""The options of the command line: flag, meaning, default and unit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from nasdistill.common.types import FormatName


def option(flag: str, text: str, *others: str) -> Any:
    """A flag, by one or `others` of its names, whose default stands in its text."""
    return typer.Option(flag, *others, help=text, show_default=False)


Json = Annotated[bool, option("--json", "Print JSON instead of text (default: text).")]
Study = Annotated[str, typer.Argument(help="Name of the study, a folder below ./studies.")]

# -- search: every value stays text here, the recipe reads it and tells all errors at once --------

Data = Annotated[
    str | None,
    option(
        "--data",
        "Data: fashion-mnist-mini, fashion-mnist, folder:PATH, torchvision:NAME or npz:PATH "
        "(default: fashion-mnist-mini).",
    ),
]
RecipeFile = Annotated[
    Path | None, option("--recipe", "Recipe in YAML; a flag beats the file (default: none).")
]
Space = Annotated[
    str | None, option("--space", "Search space: a shipped name or a YAML file (default: mobile).")
]
DataRoot = Annotated[
    str | None, option("--data-root", "Folder of a torchvision dataset (default: data).")
]
ImageSize = Annotated[
    str | None,
    option(
        "--image-size",
        "Side of the images, in pixels, 16 to 256 (default: their own; 224 for folders of large "
        "ones).",
    ),
]
Channels = Annotated[
    str | None,
    option(
        "--channels",
        "Channels to which images are converted: 1 (grey) or 3 (RGB) (default: their own).",
    ),
]
SkipUnreadable = Annotated[
    bool | None,
    option(
        "--skip-unreadable/--no-skip-unreadable", "Leave unreadable images out (default: an error)."
    ),
]
Teacher = Annotated[
    str | None,
    option(
        "--teacher",
        "Teacher: auto, shipped, torchvision:NAME, timm:NAME, transformers:NAME, "
        "final:STUDY/RANK, folder:PATH, table:FILE, or a name in the --import file "
        "(default: auto).",
    ),
]
Weights = Annotated[
    str | None,
    option("--weights", "File with the teacher's weights (default: its pretrained ones)."),
]
ClassOrder = Annotated[
    str | None,
    option(
        "--classes",
        "Which of the teacher's classes is which of the data's, where names differ: a file or a "
        "list with commas, of the data's names in the order of the teacher's logits, or of "
        "'teacher name = data name' (default: found by name).",
    ),
]
StudyName = Annotated[
    str | None,
    option("--study", "Name of the study (default: made from what differs from the defaults)."),
]
Trials = Annotated[
    str | None, option("--trials", "Trials in all, those of earlier calls included (default: 24).")
]
TimeLimit = Annotated[
    str | None,
    option(
        "--time-limit",
        "For the whole command, finals included, e.g. 90s, 10m, 2h; a bare number is seconds "
        "(default: none).",
    ),
]
Finals = Annotated[str | None, option("--top-k", "How many finals to distil in full (default: 4).")]
Minimize = Annotated[
    list[str] | None,
    option(
        "--minimize",
        "Costs to minimise beside accuracy: latency, params, macs, bytes; repeat, or separate by "
        "commas (default: latency,params).",
    ),
]
MaxParams = Annotated[
    str | None,
    option(
        "--max-params",
        "Most parameters, e.g. 250k, 1.5M (default with no limit at all: a tenth of the "
        "teacher's).",
    ),
]
MaxMacs = Annotated[
    str | None, option("--max-macs", "Most multiply-adds an image, e.g. 10M (default: none).")
]
MaxBytes = Annotated[
    str | None, option("--max-bytes", "Most bytes of the model file, e.g. 500k (default: none).")
]
MaxLatency = Annotated[
    str | None,
    option(
        "--max-latency",
        "Longest batch-1 latency, e.g. 5ms; a bare number is milliseconds (default with no "
        "limit at all: a third of the teacher's).",
    ),
]
MinAccuracy = Annotated[
    str | None,
    option(
        "--min-accuracy",
        "Least accuracy of a final, or balanced one with --score balanced-accuracy, e.g. 0.88 or "
        "88% (default: 90 % of the teacher's).",
    ),
]
LatencyEngine = Annotated[
    str | None,
    option(
        "--latency-engine",
        "What latency is measured with: onnxruntime, openvino, executorch, litert, torch, cuda, or "
        "'command:PROGRAM' that takes an ONNX file and prints milliseconds (default: "
        "onnxruntime).",
    ),
]
Device = Annotated[str | None, option("--device", "auto, cpu, cuda or cuda:N (default: auto).")]
Precision = Annotated[
    str | None,
    option(
        "--precision",
        "auto, fp32, bf16, or bf16-mixed with depthwise convolutions in fp32 (default: auto, "
        "probed once).",
    ),
]
Deterministic = Annotated[
    bool | None,
    option(
        "--deterministic/--no-deterministic",
        "Refuse operations that differ from run to run, on CUDA (default: allow).",
    ),
]
Seed = Annotated[str | None, option("--seed", "Seed of everything that is drawn (default: 0).")]
Import = Annotated[
    str | None,
    option(
        "--import", "Python file with families, teachers or sources of your own (default: none)."
    ),
]
Begin = Annotated[
    str | None,
    option(
        "--begin",
        "Where students get their first weights: fresh (random), teacher (that they are cut from) "
        "or pretrained (their own) (default: teacher in a space of the family pruned, pretrained "
        "in one of pretrained, else fresh).",
    ),
]
Importance = Annotated[
    str | None,
    option(
        "--importance",
        "How channels are judged, of which the best are kept in a student that is cut: taylor, "
        "magnitude or activation (default: taylor).",
    ),
]
Baseline = Annotated[
    bool | None,
    option(
        "--baseline/--no-baseline",
        "Also train each final on labels alone and, where students do not begin fresh, once more "
        "from fresh weights (default: no).",
    ),
]
Balance = Annotated[
    str | None,
    option(
        "--sampling",
        "uniform shows all examples equally often, balanced all classes: to students, and to a "
        "teacher that is trained first (default: uniform).",
    ),
]
ClassWeights = Annotated[
    str | None,
    option(
        "--class-weights",
        "Weights of the loss on labels (of which --alpha is the share) by class: balanced, or "
        "NAME=WEIGHT,… (default: none, all alike).",
    ),
]
Score = Annotated[
    str | None,
    option(
        "--score",
        "What trials are ranked and stopped by, finals chosen by, and --min-accuracy is of: "
        "accuracy, or balanced-accuracy, the mean over classes, where classes are uneven (default: "
        "accuracy).",
    ),
]
Sampler = Annotated[
    str | None,
    option(
        "--sampler",
        "random, tpe, nsga2 or qmc; the last two draw nested parameters independently (default: "
        "tpe).",
    ),
]
Experience = Annotated[
    bool | None,
    option(
        "--experience/--no-experience",
        "Let full runs of earlier studies on the same space say what to try and whom to stop, and "
        "keep those of this one (default: yes).",
    ),
]
Stopping = Annotated[
    bool | None,
    option("--stopping/--no-stopping", "Stop trials that cannot reach the front (default: stop)."),
]
FirstRung = Annotated[
    str | None,
    option(
        "--first-rung",
        "Budget of the first rung, e.g. '4k images', '0.5 epochs' (default: a twentieth of the "
        "final budget, at least 2k images).",
    ),
]
Eta = Annotated[
    str | None,
    option(
        "--eta",
        "Each rung is worth eta times the one before; 1/eta of the trials goes on (default: 3).",
    ),
]
RungCount = Annotated[str | None, option("--rung-count", "Number of rungs (default: 1).")]
FinalBudget = Annotated[
    str | None,
    option(
        "--final-budget",
        "Budget of a final, e.g. '15 epochs' or '150k images' (default: 8 epochs).",
    ),
]
BatchSize = Annotated[str | None, option("--batch-size", "Examples in a step (default: 64).")]
Views = Annotated[
    str | None, option("--views", "Views of each example that the teacher answers (default: 4).")
]
CacheSize = Annotated[
    str | None,
    option(
        "--cache-size",
        "Most bytes of the teachers' answers in studies/.cache, all studies together, e.g. 500M; "
        "those unused for longest go first (default: 4G).",
    ),
]
LearningRate = Annotated[
    str | None,
    option(
        "--learning-rate",
        "Peak learning rate of AdamW (default: 0.008 for fresh students, 0.006 for those that are "
        "cut from their teacher, 0.001 for pretrained ones).",
    ),
]
Alpha = Annotated[
    str | None,
    option(
        "--alpha",
        "Weight of the labels against the teacher, 0 to 1, in rungs and finals (default: 0.1).",
    ),
]
Synthetic = Annotated[
    str | None,
    option(
        "--synthetic",
        "Number of images that are made from the teacher alone, e.g. 2560, for students to learn "
        "from in rungs and finals instead of the training split, which may then be absent; without "
        "labels unless --alpha or a recipe asks for them (default: none).",
    ),
]
Temperature = Annotated[
    str | None,
    option("--temperature", "Softens the teacher's answers, in rungs and finals (default: 4)."),
]
Deploy = Annotated[
    str | None,
    option(
        "--deploy",
        "What ships, fp32 or int8: the file whose bytes and latency are meant by limits and "
        "objectives, and by which finals are recommended (default: fp32).",
    ),
]
Formats = Annotated[
    str | None,
    option(
        "--formats",
        f"Files that are made and proven with each final, with commas, of "
        f"{', '.join(get_args(FormatName))} (default: none but model.onnx).",
    ),
]
MaxLoss = Annotated[
    str | None,
    option(
        "--max-loss",
        "Points of accuracy that such a file may lose against fp32 without being marked (default: "
        "0.5).",
    ),
]

# -- resume and distill ---------------------------------------------------------------------------

MoreTrials = Annotated[
    str | None, option("--trials", "Trials in all, those done included (default: as before).")
]
NewTimeLimit = Annotated[
    str | None,
    option(
        "--time-limit",
        "For the whole command, e.g. 90s, 10m; a bare number is seconds (default: as before).",
    ),
]
MoreFinals = Annotated[str | None, option("--top-k", "Finals in all (default: as before).")]
NewCacheSize = Annotated[
    str | None,
    option("--cache-size", "Most bytes in studies/.cache, e.g. 500M (default: as before)."),
]
NewFormats = Annotated[
    str | None,
    option("--formats", "Files that are made with each final, as in search (default: as before)."),
]
NewMaxLoss = Annotated[
    str | None, option("--max-loss", "As in search, in points (default: as before).")
]
NewSpace = Annotated[
    str | None, option("--space", "Where the space's YAML file lies now (default: as before).")
]
NewData = Annotated[
    str | None,
    option(
        "--data",
        "Where the data lie now, as in search; the content must be the same (default: as before).",
    ),
]
NewDataRoot = Annotated[
    str | None,
    option("--data-root", "Where the folder of a torchvision dataset lies (default: as before)."),
]
NewTeachers = Annotated[
    list[str] | None,
    option(
        "--teacher",
        "Where the teacher lies now, such as folder:PATH; NAME=folder:PATH for another of the "
        "recipe's teachers; repeat for several (default: as before).",
    ),
]
NewWeights = Annotated[
    str | None,
    option("--weights", "Where the file of the teacher's weights lies (default: as before)."),
]
NewImport = Annotated[
    str | None, option("--import", "Where the file of your own lies now (default: as before).")
]
Trial = Annotated[
    int | None, option("--trial", "The trial to distil in full (default: the best of the front).")
]
TopK = Annotated[
    int | None, option("--top-k", "How many finals to have in all (default: the study's).")
]
