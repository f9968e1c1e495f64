"""Small data that the tests of sources, splits and views share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import Dataset, Files, Split, load_data
from nasdistill.data.pictures import Preparation
from nasdistill.data.raw import ImageInfo, survey

CPU = torch.device("cpu")


def load(spec: str, **more: Any) -> Dataset:
    return load_data(spec, device=CPU, **more)


def refused(spec: str, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(spec, **more)
    return str(caught.value)


def fill(folder: Path, count: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> None:
    """Writes noise images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(folder)))
    shape = (*size, 3) if mode == "RGB" else size
    for index in range(count):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{mode}{size[0]}x{size[1]}_{index}.png")


def surveyed(folder: Path, size: tuple[int, int], channels: int = 3) -> Files:
    """The images of a folder, brought to one size when decoded."""
    paths = tuple(sorted(folder.iterdir()))
    infos = [survey(path) for path in paths]
    digests = tuple(info.digest for info in infos if isinstance(info, ImageInfo))
    return Files(paths, digests, Preparation.of(Input(channels, *size)))


def write_npz(path: Path, **changes: Any) -> str:
    """An npz of 30 grey images in three classes, with some arrays replaced or (None) left out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.integers(0, 256, (30, 16, 16), dtype=np.uint8),
        "labels": np.arange(30) % 3,
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return f"npz:{path}"


def lengths(data: Dataset) -> list[int]:
    return [len(part) for part in (data.train, data.score, data.audit, data.test)]


def pixels(split: Split, ids: list[int], view: int | None, size: tuple[int, int]) -> torch.Tensor:
    (batch,) = split.batches([(torch.tensor(ids), view)], size)
    assert batch.images.dtype == torch.uint8 and batch.view == view
    assert batch.ids.tolist() == batch.ids_host.tolist() == ids
    assert torch.equal(batch.labels, split.labels[batch.ids])
    return batch.images
