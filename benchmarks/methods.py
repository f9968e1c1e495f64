"""Every way to distil, on one student, side by side.

A fixed student of 33 k parameters is distilled on `fashion-mnist-mini` from the shipped teacher by
each method below: same budget, batches, views and learning rate, three seeds (of weights, order and
views). Written: accuracy on the 5,000 test images (mean and standard deviation over the seeds),
seconds per epoch, peak memory of the process.

    python benchmarks/methods.py                  # all, into docs/methods.md and docs/methods.png
    python benchmarks/methods.py --only kl dkd    # some; the others' figures are kept
    python benchmarks/methods.py --costs          # seconds and memory anew, on an idle machine

Run it on a machine that does nothing else: seconds and memory are of this machine, and only their
ratios say something about another. The picture needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
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
                "width": 32,
                "depth": 2,
                "block": {"type": "mbconv", "expansion": 3, "kernel": 3, "squeeze_excite": False},
            },
            {
                "width": 64,
                "depth": 1,
                "block": {"type": "mbconv", "expansion": 3, "kernel": 3, "squeeze_excite": False},
            },
        ],
        "head": 96,
    },
}
LABELS = {"term": "labels", "weight": 0.1}
KL = {"term": "kl", "weight": 0.9}


def beside(term: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The default pair, and one more term."""
    return {"final": {"terms": [LABELS, KL, term]}, **more}


def classic(**final: Any) -> dict[str, Any]:
    """The default pair, with something else changed."""
    return {"final": final}


METHODS: dict[str, dict[str, Any]] = {
    "labels": {"final": {"terms": [{"term": "labels"}]}},
    "labels, smoothed by 0.1": {"final": {"terms": [{"term": "labels", "smoothing": 0.1}]}},
    "labels + kl (default)": {},
    "kl": classic(alpha=0.0),
    "kl, standardised, T 2": {
        "final": {"terms": [LABELS, {**KL, "temperature": 2, "standardise": True}]}
    },
    "kl, confident": classic(examples={"by": "confident"}),
    "kl, by_difficulty": classic(examples={"by": "by_difficulty"}),
    "kl, correct_only": classic(examples={"by": "correct_only"}),
    "kl, entropy": classic(examples={"by": "entropy"}),
    "kl, T from 10 to 1": classic(temperature={"linear": [10, 1]}),
    "kl, stages": classic(
        stages=[
            {"until": 0.33, "alpha": 0.3, "temperature": 8},
            {"until": 0.66, "alpha": 0.5, "temperature": 5},
            {"until": 1.0, "alpha": 0.7, "temperature": 2},
        ]
    ),
    "reverse_kl": {"final": {"terms": [LABELS, {"term": "reverse_kl", "weight": 0.9}]}},
    "js": {"final": {"terms": [LABELS, {"term": "js", "weight": 0.9}]}},
    "soft_ce": {"final": {"terms": [LABELS, {"term": "soft_ce", "weight": 0.9}]}},
    "mse_logits": {"final": {"terms": [LABELS, {"term": "mse_logits", "weight": 0.9}]}},
    "dkd": {"final": {"terms": [{"term": "labels"}, {"term": "dkd", "others": 2}]}},
    "dist": {"final": {"terms": [{"term": "labels"}, {"term": "dist", "inter": 2, "intra": 2}]}},
    "+ features": beside({"term": "features", "weight": 1.0}),
    "+ attention maps": beside({"term": "attention", "weight": 100.0}),
    "+ gram": beside({"term": "gram", "weight": 1.0}),
    "+ similarity": beside({"term": "similarity", "weight": 100.0}),
    "+ rkd": beside({"term": "rkd", "weight": 1.0}),
    "+ nst": beside({"term": "nst", "weight": 10.0}),
    "+ crd": beside({"term": "crd", "weight": 0.5}),
    "+ adversarial": beside({"term": "adversarial"}),
    "+ exits": beside({"term": "exits", "weight": 0.5}),
    "+ features, balanced": {
        "final": {"terms": [LABELS, KL, {"term": "features", "weight": 0.2}], "balance": "gradient"}
    },
    "+ moving average": {
        "teachers": {"slow": {"ema": 0.99}},
        "final": {"terms": [LABELS, KL, {"term": "kl", "teacher": "slow", "weight": 0.5}]},
    },
    "+ earlier student": {
        "teachers": {"before": {"earlier": "1 epochs"}},
        "final": {
            "terms": [
                LABELS,
                KL,
                {"term": "kl", "teacher": "before", "weight": {"steps": {0: 0.0, 0.2: 0.5}}},
            ]
        },
    },
    "+ peers (two students)": {
        "teachers": {"pair": {"peers": 2}},
        "final": {"terms": [LABELS, KL, {"term": "kl", "teacher": "pair", "weight": 0.5}]},
    },
    "peers alone (no teacher)": {
        "teachers": {"pair": {"peers": 2}},
        "final": {
            "terms": [{"term": "labels"}, {"term": "kl", "teacher": "pair", "temperature": 1}]
        },
    },
    "kl, second generation": {"generations": 2},
    "kl, mixup": classic(feed={"mix": {"kind": "mixup", "alpha": 0.2}}),
    "kl, cutmix": classic(feed={"mix": {"kind": "cutmix"}}),
    "kl, RandAugment": classic(feed={"rand_augment": {"operations": 1, "magnitude": 5}}),
    "kl, synthetic images alone": {
        "final": {"terms": [KL], "feed": {"synthetic": {"images": 2560}}}
    },
}
BATCH, RATE, VIEWS = 64, 0.008, 4


def measure(
    method: str, seeds: list[int], epochs: float, cache: str, threads: int
) -> dict[str, Any]:
    """Runs one method in this process.

    Args:
        method: A key of `METHODS`.
        seeds: Of weights, order and views.
        epochs: Passes over the 10,000 real images; as many examples where there are fewer.
        cache: Folder of the teacher's answers.
        threads: Of torch.

    Returns:
        Test accuracies by seed, seconds per 10,000 examples, and peak memory in MiB.
    """
    import torch
    from common import no_further, quick_precision

    from nasdistill import training
    from nasdistill.data import load_data
    from nasdistill.recipe import load_recipe
    from nasdistill.space import Architecture
    from nasdistill.teachers import Teacher, load_teacher, weights_hash
    from nasdistill.training import LRSchedule, predict
    from nasdistill.training.metrics import accuracy
    from nasdistill.trials.teacher_pool import TeacherPool
    from nasdistill.trials.training_setup import open_setup

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    options = dict(METHODS[method])
    generations = options.pop("generations", 1)
    architecture = Architecture.from_json(json.dumps(STUDENT))
    accuracies, seconds = [], []
    for seed in seeds:
        recipe = load_recipe(None, {**options, "seed": seed, "batch_size": BATCH, "views": VIEWS})
        data = load_data("fashion-mnist-mini", device=device, seed=seed)
        teacher = load_teacher("shipped", data, device=device)
        teacher.precision = quick_precision(teacher)
        for _ in range(generations):
            teacher_pool = TeacherPool(
                data,
                teacher,
                recipe.teachers,
                no_further,
                Path(cache),
                lambda examples, spent: None,
                print,
            )
            setup = open_setup(recipe.final, recipe, teacher_pool)
            students = setup.students(architecture, data, seed)
            total = round(epochs * 156) * BATCH
            run = setup.run(
                students,
                horizon=total,
                lr_schedule=LRSchedule(RATE, 156 * BATCH, 156 * BATCH, total),
                seed=seed,
                precision="fp32",
            )
            setup.prepare(total, 0)
            start = time.perf_counter()
            for _ in training.train(run, total):
                pass
            seconds.append((time.perf_counter() - start) / total * 10_000)
            student = run.students[0].eval()
            digest = weights_hash(student)
            teacher = Teacher("before", student, data.input, len(data.classes), digest, {})
        accuracies.append(accuracy(*predict(student, data.test, data.input.size)))
    return {
        "accuracies": accuracies,
        "seconds": statistics.median(seconds),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "epochs": epochs,
    }


def surely_apart(results: dict[str, Any], level: float = 0.05) -> dict[str, float]:
    """The rows that differ from the default pair, and by how much.

    By t-tests with the variance of all rows pooled, and Holm's correction (1979) for their number.
    """
    from scipy import stats

    seeds = {name: figures["accuracies"] for name, figures in results.items()}
    deviation = statistics.fmean(statistics.variance(values) for values in seeds.values()) ** 0.5
    free = sum(len(values) - 1 for values in seeds.values())
    default = seeds.pop("labels + kl (default)")
    apart = {k: statistics.fmean(v) - statistics.fmean(default) for k, v in seeds.items()}
    error = {k: deviation * (1 / len(v) + 1 / len(default)) ** 0.5 for k, v in seeds.items()}
    chance = {k: 2 * stats.t.sf(abs(apart[k]) / error[k], free) for k in seeds}
    sure: dict[str, float] = {}
    for place, name in enumerate(sorted(chance, key=chance.__getitem__)):
        if chance[name] * (len(chance) - place) > level:
            break
        sure[name] = apart[name]
    return sure


def table(results: dict[str, Any]) -> str:
    """The figures as a Markdown table, best first."""
    ordered = sorted(results.items(), key=lambda item: -statistics.fmean(item[1]["accuracies"]))
    rows = ["| method | test accuracy, mean ± s.d. | seconds an epoch | memory, MiB |"]
    rows.append("|---|---|---|---|")
    for name, figures in ordered:
        mean, spread = (
            statistics.fmean(figures["accuracies"]),
            statistics.stdev(figures["accuracies"]),
        )
        costs = "– | –"  # accuracies can be measured on a busy machine, costs cannot
        if "seconds" in figures:
            costs = f"{figures['seconds']:.1f} | {figures['memory']:.0f}"
        rows.append(f"| {name} | {mean:.4f} ± {spread:.4f} | {costs} |")
    return "\n".join(rows)


def draw(results: dict[str, Any]) -> None:
    """The figures as a picture: a mark for each seed."""
    import plotly.graph_objects as go
    from common import save_picture

    ordered = sorted(results.items(), key=lambda item: statistics.fmean(item[1]["accuracies"]))
    names = [name for name, _ in ordered]
    figure = go.Figure()
    for name, figures in ordered:
        values = [100 * value for value in figures["accuracies"]]
        figure.add_scatter(
            x=values, y=[name] * len(values), mode="markers", marker={"size": 9, "color": "#2563eb"}
        )
        figure.add_scatter(
            x=[statistics.fmean(values)],
            y=[name],
            mode="markers",
            marker={"size": 16, "symbol": "line-ns-open", "color": "#111827"},
        )
    figure.update_layout(
        template="plotly_white",
        showlegend=False,
        width=900,
        height=120 + 32 * len(names),
        margin={"l": 200, "r": 30, "t": 20, "b": 60},
        font={"size": 14},
        xaxis_title="test accuracy (%): a dot per seed, a bar for the mean",
    )
    save_picture(figure, PICTURE)


def main() -> None:
    """Measures what is asked for, and writes everything known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--costs", action="store_true", help="seconds and memory alone, by half an epoch"
    )
    parser.add_argument("--cache", default=str(ROOT / "studies" / ".cache"))
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    context = multiprocessing.get_context("spawn")
    for method in args.only:
        seeds, epochs = ([0], 0.5) if args.costs else (args.seeds, args.epochs)
        with context.Pool(1) as pool:  # a process each, for its memory
            figures = pool.apply(measure, (method, seeds, epochs, args.cache, args.threads))
        if args.costs:
            figures = {k: figures[k] for k in ("seconds", "memory")}
        results[method] = results.get(method, {}) | figures
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(method, figures, flush=True)
    results = {name: figures for name, figures in results.items() if "accuracies" in figures}
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}")
    draw(results)


if __name__ == "__main__":
    main()
