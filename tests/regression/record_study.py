"""Runs one seeded study and prints all of it that must not depend on how the code is arranged.

    python tests/regression/record_study.py mobile > tests/regression/recorded/mobile.json

One worker, one thread, fp32, and a cost that is counted and not measured: what comes out depends on
the recipe, the seed and the arithmetic of the processor alone. Instruction sets are held down to
AVX2, which any processor that runs the tests has.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HELD_DOWN = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}

TEACHER = '''
import torch
from torch import nn


def bars(classes, input):
    """Reads a bright bar at one of three places; its stages have other sizes, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    stem, down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
    linear = nn.Linear(input.height * input.width * 2, classes)
    weight = torch.zeros(classes, 8, input.height // 2, input.width // 2)
    for label in range(classes):
        weight[label, 0, 1 + 2 * label : 3 + 2 * label, 2:6] = 0.6
    with torch.no_grad():
        for conv in (stem, down):
            conv.weight.copy_(0.05 * torch.randn(conv.weight.shape, generator=generator))
            conv.weight[0] = 0
            conv.weight[0, 0, 1, 1] = 1
            conv.bias.zero_()
        linear.weight.copy_(weight.flatten(1))
        linear.bias.zero_()
    return nn.Sequential(stem, nn.ReLU(), down, nn.ReLU(), nn.Flatten(), linear)
'''

SHARED = """\
data: npz:blobs.npz
import: own.py
teacher: bars
study: recorded
minimize: [params]
min_accuracy: 0.4
batch_size: 50
views: 2
precision: fp32
device: cpu
workers: 1
experience: false
"""

RECIPES = {
    "mobile": """\
space: mobile
trials: 8
top_k: 2
max_params: 60k
rungs: {first: 300 images, eta: 2, count: 3}
final_budget: 3 epochs
baseline: true
""",
    "resnet": """\
space: resnet
trials: 5
top_k: 1
max_params: 80k
rungs: {first: 200 images, eta: 2, count: 2}
final_budget: 2 epochs
final:
  terms:
    - {term: labels, weight: 0.3}
    - {term: kl, weight: 0.7, temperature: {linear: [4, 1]}}
    - {term: attention, of: maps, loss: mse, weight: 10}
  feed: {cut_out: 0.25, mix: {kind: mixup}}
""",
    "vit": """\
space: vit
trials: 5
top_k: 1
max_params: 100k
sampler: nsga2
rungs: {first: 200 images, eta: 2, count: 2}
final_budget: 2 epochs
iterate: {generations: 2}
teachers: {average: {ema: 0.9}}
final:
  terms:
    - {term: labels, weight: 0.3}
    - {term: kl, weight: 0.5}
    - {term: kl, teacher: average, weight: 0.2}
""",
}


def write_inputs(folder: Path, space: str) -> None:
    """Data, teacher and recipe of a recorded study."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (800, 16, 16), dtype=np.uint8)
    labels = np.arange(800) % 3
    for image, label in zip(images, labels, strict=True):
        row = 3 + 4 * int(label) + int(rng.integers(-1, 2))
        image[row : row + 2, 3:13] += 55
    np.savez(
        folder / "blobs.npz",
        images=images[:600],
        labels=labels[:600],
        test_images=images[600:],
        test_labels=labels[600:],
    )
    (folder / "own.py").write_text(TEACHER)
    (folder / "recipe.yaml").write_text(SHARED + RECIPES[space])


def run(space: str, folder: Path) -> dict[str, Any]:
    """Searches in a folder; gives trials, rung scores, and hashes of the finals' weights."""
    import safetensors.torch
    import torch

    import nasdistill
    from nasdistill.recipe import load_recipe

    torch.set_num_threads(1)
    write_inputs(folder, space)
    os.chdir(folder)
    record = nasdistill.search(load_recipe("recipe.yaml", {})).record
    trials = [
        {
            "number": c.number,
            "fingerprint": c.fingerprint,
            "state": c.state,
            "params": c.params,
            "macs": c.macs,
            "rungs": [[r.budget, r.accuracy, r.loss] for r in c.rungs],
        }
        for c in record.candidates
    ]
    finals = []
    for final in record.finals:
        weights = safetensors.torch.load_file(final.folder / "model.safetensors")
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(weights):
            digest.update(name.encode() + weights[name].numpy().tobytes())
        keys = ("trial", "test_accuracy", "audit_accuracy", "agreement", "ece", "baseline", "steps")
        figures = {key: final.metrics[key] for key in keys}
        finals.append({"rank": final.rank, "weights": digest.hexdigest(), **figures})
    return {"trials": trials, "finals": finals}


def processor() -> str:
    """Which processor this is, as Linux tells it: name, family, model, stepping."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    keys = ("model name", "cpu family", "model", "stepping")
    about: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        about.setdefault(key.strip(), value.strip())
    return ", ".join(f"{key} {about.get(key, '?')}" for key in keys)


def main(space: str) -> None:
    """Prints a study's record as JSON."""
    import numpy
    import optuna
    import torch

    with tempfile.TemporaryDirectory() as folder:
        outcome = run(space, Path(folder))
    versions = {
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "numpy": numpy.__version__,
    }
    print(json.dumps({"processor": processor(), "versions": versions, **outcome}, indent=1))


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in HELD_DOWN.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HELD_DOWN})
    main(sys.argv[1])
