"""Arrays in an npz file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.data.raw import Labels, Request, Source, prepare


class _Part(NamedTuple):
    """The images of one split, uint8 `[N, C, H, W]`, and their labels, int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: Labels


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
            names = ", ".join(arrays) or "nothing"
            raise UserError(f"{path}: no array {name!r} (found: {names})")
    parts = {"train": _part(path, arrays, "")}
    sibling = path.with_name("test.npz")
    if "test_images" in arrays:
        parts["test"] = _part(path, arrays, "test_")
    elif path.name == "train.npz" and sibling.is_file():
        parts["test"] = _part(sibling, _read_npz(sibling), "")
    if "validation_images" in arrays:
        parts["validation"] = _part(path, arrays, "validation_")
    train_labels = parts["train"].labels
    if "classes" in arrays:
        classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
    else:
        # Every class needs an example, so that more classes than examples are a wrong label.
        most = min(int(train_labels.max()) + 1, len(train_labels))
        classes = tuple(str(i) for i in range(most))
    prepared, shape = prepare([part.images for part in parts.values()], request)
    images = dict(zip(parts, prepared, strict=True))
    labels = {name: part.labels for name, part in parts.items()}
    return Source(
        images["train"],
        train_labels,
        classes,
        shape,
        images.get("validation"),
        labels.get("validation"),
        images.get("test"),
        labels.get("test"),
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


def _part(path: Path, arrays: Mapping[str, NDArray[Any]], prefix: str) -> _Part:
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
        kind = "none" if labels is None else f"of shape {labels.shape}"
        raise UserError(f"{where} has {len(images)} images, labels are {kind}; one each is needed")
    if len(images) == 0:
        raise UserError(f"{where} holds no images")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: labels have dtype {labels.dtype}; allowed are integers from 0")
    images = images[..., None] if images.ndim == 3 else images
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return _Part(images, labels.astype(np.int64))
