"""Makes fashion-mnist-mini.npz from Debian's package dataset-fashion-mnist.

    python -m nasdistill.assets.make_fashion_mnist_mini OUT.npz

10,000 training and 2,000 validation images are drawn from Fashion-MNIST's 60,000, 5,000 test images
from its 10,000; each split is balanced over the ten classes. Lossless: a zip of npy members packed
with LZMA, which `numpy.load` reads. Fashion-MNIST is Copyright (c) 2017 Zalando SE, MIT licence
(FASHION_MNIST_LICENSE beside this file).
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasdistill.data.sources import DEBIAN_FASHION_MNIST, read_idx

SEED = 20170828
SIZES = {"train": 1000, "validation": 200, "test": 500}


def draw(
    labels: NDArray[np.uint8], counts: list[int], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draws disjoint index sets, each with `counts[k]` examples of every class."""
    drawn: list[list[NDArray[np.int64]]] = [[] for _ in counts]
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part in range(len(counts)):
            drawn[part].append(members[sum(counts[:part]) : sum(counts[: part + 1])])
    return [rng.permutation(np.concatenate(parts)) for parts in drawn]


def main(out: Path) -> None:
    """Writes the file."""
    rng = np.random.default_rng(SEED)
    folder = DEBIAN_FASHION_MNIST
    images = {k: read_idx(folder / f"{k}-images-idx3-ubyte.gz") for k in ("train", "t10k")}
    labels = {k: read_idx(folder / f"{k}-labels-idx1-ubyte.gz") for k in ("train", "t10k")}
    train, validation = draw(labels["train"], [SIZES["train"], SIZES["validation"]], rng)
    (test,) = draw(labels["t10k"], [SIZES["test"]], rng)
    chosen = {
        "train": ("train", train),
        "validation": ("train", validation),
        "test": ("t10k", test),
    }
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        for name, (part, ids) in chosen.items():
            for kind, arrays in (("images", images), ("labels", labels)):
                buffer = io.BytesIO()
                np.save(buffer, arrays[part][ids])
                member = zipfile.ZipInfo(f"{name}_{kind}.npy", (2017, 8, 28, 0, 0, 0))
                member.compress_type = zipfile.ZIP_LZMA
                archive.writestr(member, buffer.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
