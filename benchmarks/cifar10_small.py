"""CIFAR-10 as small as the shipped data: 10,000 pictures to learn from, 5,000 to be tested on.

    python benchmarks/cifar10_small.py --arrays build/cifar10
    nasdistill teacher train --data npz:build/cifar10_small/whole.npz \\
        --epochs 12 --precision bf16 --out build/cifar10_small/teacher

`--arrays` names a folder with `train.npz` and `test.npz`: uint8 `images`, `labels` and `classes`.
Written are `whole.npz`, from whose 48,000 pictures the teacher learns, and `train.npz` with the
first 10,000 of them for students. Both have the same validation pictures, the last 2,000, and the
same test pictures, every second one of the test set, which may lie sorted by class. `finds.py` and
`full_runs.py` read them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import ROOT

FOLDER = ROOT / "build" / "cifar10_small"
DATA = f"npz:{FOLDER / 'train.npz'}"
TEACHER = f"folder:{FOLDER / 'teacher'}"
TRAINING, VALIDATION = 10_000, 2_000


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrays", type=Path, required=True)
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        np.load(args.arrays / "train.npz") as training,
        np.load(args.arrays / "test.npz") as test,
    ):
        images, labels = training["images"], training["labels"]
        shared = {
            "classes": training["classes"],
            "validation_images": images[-VALIDATION:],
            "validation_labels": labels[-VALIDATION:],
            "test_images": test["images"][::2],
            "test_labels": test["labels"][::2],
        }
    for name, count in (("whole", len(labels) - VALIDATION), ("train", TRAINING)):
        splits = {**shared, "images": images[:count], "labels": labels[:count]}
        for key in ("labels", "validation_labels", "test_labels"):
            by_class = np.bincount(splits[key], minlength=len(splits["classes"]))
            assert by_class.min() > 0, f"{key}: a class is missing"
            print(f"{name}.npz, {key}: {by_class}")
        np.savez(FOLDER / f"{name}.npz", **splits)


if __name__ == "__main__":
    main()
