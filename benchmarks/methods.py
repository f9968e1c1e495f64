"""Every way to distil, on one student, side by side.

A fixed student of 33 k parameters is distilled on `fashion-mnist-mini` from the shipped teacher by
each method below: same budget, batches, views and learning rate, three seeds (of weights, order and
views). Written: accuracy on the 5,000 test images (mean and standard deviation over the seeds),
seconds per epoch, peak memory of the process.

    python benchmarks/methods.py                  # all, into docs/methods.md and docs/methods.png
    python benchmarks/methods.py --only kl dkd    # some; the others' figures are kept

Run it on a machine that does nothing else: seconds and memory are of this machine, and only their
ratios say something about another. The picture needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "methods.json"
PAGE, PICTURE = ROOT / "docs" / "methods.md", ROOT / "docs" / "methods.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

STUDENT = {
    "family": "mobile",
    "values": {
        "activation": "relu",
        "stem": 16,
        "stages": [
            {"width": 24, "depth": 1, "block": {"type": "fused", "expansion": 1}},
            {
                "width": 32, "depth": 2,
                "block": {"type": "mbconv", "expansion": 3, "kernel": 3, "squeeze_excite": False},
            },
            {
                "width": 64, "depth": 1,
                "block": {"type": "mbconv", "expansion": 3, "kernel": 3, "squeeze_excite": False},
            },
        ],
        "head": 96,
    },
}  # fmt: skip
LABELS = {"term": "labels", "weight": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    "labels": {"terms": [{"term": "labels"}]},
    "labels, smoothed by 0.1": {"terms": [{"term": "labels", "smoothing": 0.1}]},
    "labels + kl (default)": {},
    "kl": {"alpha": 0.0},
    "kl, standardised, T 2": {
        "terms": [LABELS, {"term": "kl", "temperature": 2, "standardise": True, "weight": 0.9}]
    },
    "kl, confident": {"examples": {"by": "confident"}},
    "kl, correct_only": {"examples": {"by": "correct_only"}},
    "kl, entropy": {"examples": {"by": "entropy"}},
    "reverse_kl": {"terms": [LABELS, {"term": "reverse_kl", "weight": 0.9}]},
    "js": {"terms": [LABELS, {"term": "js", "weight": 0.9}]},
    "mse_logits": {"terms": [LABELS, {"term": "mse_logits", "weight": 0.9}]},
    "dkd": {"terms": [{"term": "labels"}, {"term": "dkd", "others": 2}]},
    "dist": {"terms": [{"term": "labels"}, {"term": "dist", "inter": 2, "intra": 2}]},
}
BATCH, RATE, VIEWS = 64, 0.008, 4


def measure(method: str, seeds: list[int], epochs: int, cache: str) -> dict[str, Any]:
    """Runs one method in this process.

    Returns:
        Test accuracies by seed, seconds per epoch, and peak memory in MiB.
    """
    import torch

    from nasdistill import distillation
    from nasdistill.cache import AnswerCache
    from nasdistill.data import load_data
    from nasdistill.distillation import Feed, Pace, Run, predict
    from nasdistill.machine import cores
    from nasdistill.models import Classifier, build
    from nasdistill.objective import objective_of
    from nasdistill.quality import accuracy
    from nasdistill.recipe import load_recipe
    from nasdistill.space import Architecture
    from nasdistill.teacher import load_teacher

    torch.set_num_threads(cores())
    device = torch.device("cpu")
    objective = objective_of(load_recipe(None, {"final": METHODS[method]}).final)
    architecture = Architecture.from_json(json.dumps(STUDENT))
    accuracies, seconds = [], []
    for seed in seeds:
        data = load_data("fashion-mnist-mini", device=device, seed=seed)
        teacher = load_teacher("shipped", data, device=device, precision="bf16")
        answers = AnswerCache(teacher, data, Path(cache))
        feed = Feed(data, BATCH, VIEWS, seed)
        distillation.seed_weights(seed, "student")
        net = build(architecture, data.input, len(data.classes))
        per_epoch = feed.steps_per_epoch * BATCH
        total = epochs * per_epoch
        run = Run(
            Classifier(net, data.mean, data.std), feed, horizon=total,
            pace=Pace(RATE, per_epoch, per_epoch, total), seed=seed, ask=answers.logits,
        )  # fmt: skip
        if objective.asks_teacher:
            answers.prepare(feed.plan(0, feed.steps(total)))
        start = time.perf_counter()
        for _ in distillation.distill(run, objective, total):
            pass
        seconds.append((time.perf_counter() - start) / epochs)
        accuracies.append(accuracy(*predict(run.student, data.test, data.input.size)))
    return {
        "accuracies": accuracies,
        "seconds": statistics.median(seconds),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "epochs": epochs,
    }


def table(results: dict[str, Any]) -> str:
    """The figures as a Markdown table, best first."""
    ordered = sorted(results.items(), key=lambda item: -statistics.fmean(item[1]["accuracies"]))
    rows = ["| method | test accuracy, mean ± s.d. | seconds an epoch | memory, MiB |"]
    rows.append("|---|---|---|---|")
    for name, found in ordered:
        mean, spread = statistics.fmean(found["accuracies"]), statistics.stdev(found["accuracies"])
        costs = f"{found['seconds']:.1f} | {found['memory']:.0f}"
        rows.append(f"| {name} | {mean:.4f} ± {spread:.4f} | {costs} |")
    return "\n".join(rows)


def draw(results: dict[str, Any]) -> None:
    """The figures as a picture: a mark for each seed."""
    import plotly.graph_objects as go

    ordered = sorted(results.items(), key=lambda item: statistics.fmean(item[1]["accuracies"]))
    names = [name for name, _ in ordered]
    figure = go.Figure()
    for name, found in ordered:
        values = [100 * value for value in found["accuracies"]]
        figure.add_scatter(
            x=values, y=[name] * len(values), mode="markers", marker={"size": 9, "color": "#2563eb"}
        )
        figure.add_scatter(
            x=[statistics.fmean(values)], y=[name], mode="markers",
            marker={"size": 16, "symbol": "line-ns-open", "color": "#111827"},
        )  # fmt: skip
    figure.update_layout(
        template="plotly_white", showlegend=False, width=900, height=120 + 32 * len(names),
        margin={"l": 200, "r": 30, "t": 20, "b": 60}, font={"size": 14},
        xaxis_title="test accuracy (%): a dot per seed, a bar for the mean",
    )  # fmt: skip
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        print("no Chromium: no picture")
        return
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(figure.to_html(config={"displayModeBar": False}))
        size = f"--window-size=916,{136 + 32 * len(names)}"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size,
             "--virtual-time-budget=8000", f"--user-data-dir={folder}/profile",
             f"--screenshot={PICTURE}", page.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip


def main() -> None:
    """Measures what is asked for, and writes everything known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--cache", default=str(ROOT / "studies" / ".cache"))
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    context = multiprocessing.get_context("spawn")
    for method in asked.only:
        with context.Pool(1) as pool:  # a process each, for its memory
            found = pool.apply(measure, (method, asked.seeds, asked.epochs, asked.cache))
        results[method] = found
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(method, [round(a, 4) for a in found["accuracies"]], f"{found['seconds']:.1f} s/epoch")
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}")
    draw(results)


if __name__ == "__main__":
    main()
