"""The options that say who works at a study, where, and what hosts have in common."""

from __future__ import annotations

from typing import Annotated

from nasdistill.cli.options import option

Workers = Annotated[
    str | None,
    option(
        "--workers",
        "Local processes; on a CPU each takes its share of the cores. With 1, a seeded study comes "
        "out the same again (default: one for each core of a CPU, at most 8; on a GPU 4 if that is "
        "found to be faster, else 1; with --deterministic 1). With --engine ray, workers on the "
        "cluster (default: as many as it has room for).",
    ),
]
Engine = Annotated[
    str | None,
    option(
        "--engine",
        "Where workers run: local, as processes on this machine, or ray, on a Ray cluster that "
        "sees this folder (default: local).",
    ),
]
RayAddress = Annotated[
    str | None,
    option(
        "--ray-address",
        "The cluster: auto (the one that this machine is part of), HOST:PORT of its head, or local "
        "(one of its own on this machine, for the command) (default: RAY_ADDRESS, or the one that "
        "runs here, else local).",
    ),
]
GPUShare = Annotated[
    str | None,
    option(
        "--gpu-share",
        "With --engine ray, share of a GPU that each worker takes, e.g. 0.25 (default: one over "
        "the students at once that were found to be faster on the study's card, else 1; 0 in a "
        "cluster without GPUs).",
    ),
]
CPUsPerWorker = Annotated[
    str | None,
    option("--cpus-per-worker", "With --engine ray, cores that each worker takes (default: 1)."),
]
FinalGPUs = Annotated[
    str | None,
    option(
        "--final-gpus",
        "GPUs of this machine that each full run is trained on, one at a time: every batch is "
        "divided among them; with --device cpu, processes (default: 1).",
    ),
]
Storage = Annotated[
    str | None, option("--storage", "Optuna storage URL (default: SQLite in the study's folder).")
]
Files = Annotated[
    str | None,
    option(
        "--files",
        "URL by which hosts without a disk in common share the study's files: file:///PATH, "
        "s3://BUCKET/PATH (extra s3), gs://BUCKET/PATH (extra gcs); goes with --storage "
        "(default: all hosts see the study's folder).",
    ),
]

# -- of a study that goes on -----------------------------------------------------------------------

NewWorkers = Annotated[str | None, option("--workers", "As in search (default: as before).")]
NewEngine = Annotated[
    str | None, option("--engine", "local or ray, as in search (default: as before).")
]
NewRayAddress = Annotated[str | None, option("--ray-address", "As in search (default: as before).")]
NewGPUShare = Annotated[str | None, option("--gpu-share", "As in search (default: as before).")]
NewCPUsPerWorker = Annotated[
    str | None, option("--cpus-per-worker", "As in search (default: as before).")
]
NewFinalGPUs = Annotated[str | None, option("--final-gpus", "As in search (default: as before).")]
NewFiles = Annotated[str | None, option("--files", "As in search (default: as before).")]
