"""Sums up a visit of benchmarks/gpu_all.sh.

    python benchmarks/gpu_page.py WORK docs/gpu.md

WORK is the visit's folder: `steps.tsv` (name, exit status or `skipped`, seconds), the pages and
JSON that its benchmarks wrote, `teacher/metrics.json` and the study `cifar10`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from common import machine, markdown, met

ENDINGS = {"0": "done", "124": "cut off at its limit", "skipped": "left out: no time"}
TITLES = {
    "kd_overhead": "What distilling costs",
    "cache_exact": "Remembered answers",
    "roofline": "The machine's limit",
    "streaming": "Pictures that do not fit",
    "scaling": "Several students on one card, and memory",
    "trials_per_hour": "Trials an hour, Fashion-MNIST",
    "ranking": "Ranking, as far as the shared table goes",
    "latency": "Latency on the card, measured twice",
    "fp8": "8-bit floating point",
}
TARGET, AN_HOUR = 0.94, 2000


def steps(work: Path) -> list[list[str]]:
    """Name, ending and seconds of each step."""
    lines = (work / "steps.tsv").read_text().splitlines()
    split = [line.split("\t") for line in lines]
    return [[name, ENDINGS.get(code, f"failed ({code})"), seconds] for name, code, seconds in split]


def section(work: Path, name: str) -> str:
    """What a benchmark wrote into its place in the visit's docs/benchmarks.md."""
    page = (work / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    key = f"{name}_cuda" if f"<!-- {name}_cuda: begin -->" in page else name
    return page.split(f"<!-- {key}: begin -->")[1].split(f"<!-- {key}: end -->")[0].strip()


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file, if it is there."""
    return json.loads(path.read_text()) if path.exists() else None


def teacher(card: dict[str, Any]) -> str:
    """The teacher of the visit."""
    share = card["test_accuracy"]
    return (
        f"Trained in this visit in {card['seconds']:.0f} s: {card['params']:,} parameters, "
        f"{card['macs'] / 1e6:,.0f} M multiply-adds an image, validation accuracy "
        f"{card['validation_accuracy']:.4f}, test accuracy {share:.4f}. Target {TARGET}: "
        f"{met(share >= TARGET)}. The images are JPEG: accuracies are not those of the original."
    )


def search(work: Path) -> str:
    """The search of the visit."""
    finals = [read(path) for path in sorted(work.glob("studies/cifar10/finals/*/metrics.json"))]
    rows = [
        [
            f["rank"],
            f"{f['params']:,}",
            f"{f['macs'] / 1e6:.1f}",
            f"{f['test_accuracy']:.4f}",
            f"{f['compression']:.1f}",
            f"{f['speedup']:.1f}",
        ]
        for f in finals
        if f is not None
    ]
    head = ["final", "parameters", "M multiply-adds", "test accuracy", "times smaller", "faster"]
    return markdown(head, rows) if rows else "No final: see the steps above."


def rate(results: dict[str, Any]) -> str:
    """Students an hour at 5 % of a full budget of 20 epochs, which is one epoch."""
    most = max(results["trials_an_hour"].values(), key=max)
    return (
        f"At most {max(most):,.0f} students an hour, one epoch each (5 % of a full budget of 20); "
        f"repeats {', '.join(f'{value:,.0f}' for value in most)}. Target {AN_HOUR:,}: "
        f"{met(min(most) >= AN_HOUR)}."
    )


def page(work: Path) -> str:
    """The whole page."""
    host = machine("cuda")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    parts = [
        "# On a GPU",
        "Every figure of one visit of `benchmarks/gpu_all.sh`, which writes this page.",
        f"{host['accelerator']}, {memory:.0f} GiB, {host['cores']} cores of {host['processor']}, "
        f"Python {host['python']}, torch {torch.__version__}, CUDA {torch.version.cuda}.",
        markdown(["step", "ending", "seconds"], steps(work)),
    ]
    card = read(work / "teacher" / "metrics.json")
    if card is not None:
        parts += ["## A teacher on CIFAR-10", teacher(card), "## A search on CIFAR-10"]
        parts.append(search(work))
    done = [name for name, ending, _ in steps(work) if ending == ENDINGS["0"]]
    for name, title in TITLES.items():
        # Of a step that failed, the page may hold figures of another machine.
        parts += [f"## {title}", section(work, name) if name in done else "Not measured."]
        results = read(work / "benchmarks" / f"{name}_cuda.json")
        if name == "scaling" and name in done and results is not None:
            parts.append(rate(results))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes the page."""
    work, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.write_text(page(work), encoding="utf-8")


if __name__ == "__main__":
    main()
