"""A teacher that is meant to reach 94 % on CIFAR-10, in about two minutes on one GPU.

A residual network of the `resnet` family, 11 M parameters and 1.2 G multiply-adds an image, on
labels alone: 55 epochs in the fastest precision, channels_last, batches of 256, AdamW, shifts and
flips, and CutMix (Yun et al., 2019). `nasdistill teacher train` mixes no pictures and has batches
of 128: its shipped architecture has a tenth of the capacity, and without mixing a larger one learns
the training set by heart.

    python benchmarks/cifar10_teacher.py --data npz:cifar10/train.npz --out teacher

The folder is one that `--teacher folder:teacher` takes. Accuracy is that of the test split, which
is looked at once.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasdistill.common.events import Event
from nasdistill.common.machine import pick_device
from nasdistill.data import Dataset, Mixing, load_data
from nasdistill.models import Classifier, artifact
from nasdistill.space import Architecture
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.training import teacher as teaching
from nasdistill.training.from_scratch import Hyperparameters, train_teacher

TARGET = 0.94
BASIC = {"type": "basic"}
TEACHER = Architecture(
    "resnet",
    {
        "stem": {"type": "conv5", "width": 64},
        "stages": [{"width": width, "depth": 2, "block": BASIC} for width in (128, 256, 512)],
    },
)


def train(data: Dataset, args: argparse.Namespace) -> Classifier:
    """Trains the teacher on mixed pictures."""
    mixed = data.with_views(replace(data.views, mixing=Mixing("cutmix", 1.0)))
    return train_teacher(
        mixed,
        TEACHER,
        epochs=args.epochs,
        seed=0,
        emit=tell,
        hyperparameters=Hyperparameters(batch_size=256),
    ).module


def tell(event: Event) -> None:
    """One line for each sign of life."""
    print(event.text, f"{event.images_per_second or 0:,.0f} images/s", flush=True)


def write(folder: Path, module: Classifier, data: Dataset, seconds: float) -> dict[str, Any]:
    """Evaluates the teacher and writes its folder."""
    place, classes = data.train.labels.device, len(data.classes)
    module = module.to(place)
    teacher = Teacher(folder.name, module, data.input, classes, weights_hash(module), {})
    card = {"seconds": seconds, **teaching.evaluate_teacher(teacher, data, test=True)}
    artifact.write_final(
        folder,
        module=module.cpu(),
        spec=artifact.ModelSpec(TEACHER, data.preparation, data.classes),
        metrics=card,
        card="# Teacher of benchmarks/cifar10_teacher.py\n",
    )
    return card


def main() -> None:
    """Trains and writes the teacher, and prints its card as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=55)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    data = load_data(args.data, device=pick_device(args.device))
    begin = time.perf_counter()
    module = train(data, args)
    card = write(args.out, module, data, time.perf_counter() - begin)
    print("met" if card["test_accuracy"] >= TARGET else "missed", f"the target of {TARGET}")
    print(json.dumps(card))


if __name__ == "__main__":
    main()
