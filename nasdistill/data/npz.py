"""Arrays in an npz file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.data.raw import Labels, Request, Source, present


def read_npz(request: Request) -> Source:
    """Reads `npz:PATH`: arrays `images`, `labels`, and perhaps `classes`.

    Splits of its own are arrays `test_images`, `test_labels`, `validation_images` and
    `validation_labels`, or, beside a file named `train.npz`, the arrays of a `test.npz`.

    Raises:
        UserError: If the file cannot be used; the message says why.
    """
    path = Path(request.argument).expanduser()
    arrays = _read_npz(path)
    for name in ("images", "labels"):
        if name not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise UserError(f"{path}: no array {name!r} (found: {found})")
    pairs = {"train": _pair(path, arrays, "")}
    sibling = path.with_name("test.npz")
    if "test_images" in arrays:
        pairs["test"] = _pair(path, arrays, "test_")
    elif path.name == "train.npz" and sibling.is_file():
        pairs["test"] = _pair(sibling, _read_npz(sibling), "")
    if "validation_images" in arrays:
        pairs["validation"] = _pair(path, arrays, "validation_")
    train_labels = pairs["train"][1]
    if "classes" in arrays:
        classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
    else:
        # Every class needs an example, so that more classes than examples are a wrong label.
        most = min(int(train_labels.max()) + 1, len(train_labels))
        classes = tuple(str(i) for i in range(most))
    held, shape = present([images for images, _ in pairs.values()], request)
    read = {part: (images, pairs[part][1]) for part, images in zip(pairs, held, strict=True)}
    validation, validation_labels = read.get("validation", (None, None))
    test, test_labels = read.get("test", (None, None))
    return Source(
        read["train"][0],
        train_labels,
        classes,
        shape,
        validation,
        validation_labels,
        test,
        test_labels,
        attribution=str(path),
    )


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UserError(f"--data npz:{path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable npz of plain arrays ({reason})") from None


def _pair(
    path: Path, arrays: Mapping[str, NDArray[Any]], prefix: str
) -> tuple[NDArray[np.uint8], Labels]:
    if prefix + "images" not in arrays:
        raise UserError(f"{path}: no array {prefix + 'images'!r} (found: {', '.join(arrays)})")
    images, labels = arrays[prefix + "images"], arrays.get(prefix + "labels")
    where = f"{path}: array {prefix + 'images'!r}"
    if images.dtype != np.uint8:
        raise UserError(f"{where} has dtype {images.dtype}; allowed is uint8 (0 to 255)")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(
            f"{where} has shape {images.shape}; allowed are [N,H,W], [N,H,W,1] and [N,H,W,3]"
        )
    if labels is None or labels.ndim != 1 or len(labels) != len(images):
        found = "none" if labels is None else f"of shape {labels.shape}"
        raise UserError(f"{where} has {len(images)} images, labels are {found}; one each is needed")
    if len(images) == 0:
        raise UserError(f"{where} holds no images")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: labels have dtype {labels.dtype}; allowed are integers from 0")
    images = images[..., None] if images.ndim == 3 else images
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images, labels.astype(np.int64)
