"""Splits: examples on the device, or streamed from files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from nasdistill.data.sources import Files
from nasdistill.data.views import Views, render_crop, render_shift, resize
from nasdistill.errors import UserError
from nasdistill.options import Input

Plan = Iterable[tuple[Tensor, int | None]]


@dataclass(frozen=True)
class Batch:
    """Some examples in one view.

    Attributes:
        images: uint8 `[B, C, H, W]` on the device.
        labels: int64 `[B]` on the device.
        ids: int64 `[B]` on the device: which examples of the split.
        ids_host: The same on the CPU.
        view: Number of the view; None for the plain image.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    ids_host: Tensor
    view: int | None


class Split(ABC):
    """Some examples with their labels.

    Attributes:
        labels: int64 `[N]` on the device.
    """

    labels: Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @abstractmethod
    def batches(self, plan: Plan, size: tuple[int, int]) -> Iterator[Batch]:
        """Shows examples.

        The same (seed, id, view) is the same picture, whatever the batch; the same view at another
        size is the same crop.

        Args:
            plan: For each batch, example ids (int64 CPU tensor `[B]`) and the number of the view,
                or None for the whole image as it is.
            size: `(height, width)` of the pictures, in pixels.
        """

    @abstractmethod
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in [0, 1] units."""


class ResidentSplit(Split):
    """Examples that live on the device as one uint8 tensor.

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`.
        views: How views are drawn.
        device: Where everything lives.
    """

    def __init__(
        self, images: Tensor, labels: NDArray[np.int64], views: Views, device: torch.device
    ) -> None:
        self.images = images.to(device)
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        self._views = views

    def batches(self, plan: Plan, size: tuple[int, int]) -> Iterator[Batch]:
        """See `Split`."""
        for ids_host, view in plan:
            ids = ids_host.to(self.images.device)
            yield Batch(self._render(ids, view, size), self.labels[ids], ids, ids_host, view)

    def _render(self, ids: Tensor, view: int | None, size: tuple[int, int]) -> Tensor:
        if view is None or self._views.kind == "none":
            return resize(self.images[ids], size)
        boxes = self._views.boxes(ids, view, *self.images.shape[-2:])
        if self._views.kind == "shift":
            return resize(render_shift(self.images, ids, boxes), size)
        return render_crop(self.images[ids], boxes, size)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See `Split`."""
        return _moments(self.images)


class StreamingSplit(Split):
    """Examples that are decoded from files, in worker processes.

    Args:
        files: The files.
        labels: int64 `[N]`.
        views: How views are drawn.
        device: Where batches go.
        shape: Channels of the images, and the side to which they are cut.
        workers: Processes that decode; by default one per core beside this one.
    """

    def __init__(
        self, files: Files, labels: NDArray[np.int64], views: Views, device: torch.device,
        shape: Input, workers: int | None = None,
    ) -> None:  # fmt: skip
        self._files = files
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        self._views = views
        self._device = device
        self._shape = shape
        self._workers = max(1, (os.cpu_count() or 2) - 1) if workers is None else workers

    def batches(self, plan: Plan, size: tuple[int, int]) -> Iterator[Batch]:
        """See `Split`."""
        items = list(plan)
        decoded = _Decoded(self._files, self._views, items, size, self._shape.channels)
        loader: DataLoader[Tensor] = DataLoader(
            decoded,
            batch_size=None,
            num_workers=min(self._workers, len(items)) if len(items) > 2 else 0,
            pin_memory=self._device.type == "cuda",
        )
        for (ids_host, view), images in zip(items, loader, strict=True):
            ids = ids_host.to(self._device)
            shown = images.to(self._device, non_blocking=True)
            yield Batch(shown, self.labels[ids], ids, ids_host, view)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See `Split`; from 2,000 examples at the most."""
        count = min(2000, len(self))
        ids = torch.linspace(0, len(self) - 1, count).long()
        plan = [(part, None) for part in torch.split(ids, 100)]
        images = torch.cat([batch.images for batch in self.batches(plan, self._shape.size)])
        return _moments(images)


class _Decoded(TorchDataset[Tensor]):
    """One item per batch of a plan."""

    def __init__(
        self, files: Files, views: Views, items: Sequence[tuple[Tensor, int | None]],
        size: tuple[int, int], channels: int,
    ) -> None:  # fmt: skip
        self._files, self._views, self._items = files, views, items
        self._size, self._channels = size, channels

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        ids, view = self._items[index]
        return torch.cat([self._picture(int(i), view) for i in ids])

    def _picture(self, example: int, view: int | None) -> Tensor:
        image = torch.from_numpy(self._files.decode(example, self._channels))[None]
        height, width = image.shape[-2:]
        if view is None or self._views.kind == "none":
            # The largest part of the middle that has the proportions asked for.
            scale = min(height / self._size[0], width / self._size[1])
            tall, wide = (max(1, round(side * scale)) for side in self._size)
            top, left = (height - tall) // 2, (width - wide) // 2
            return resize(image[..., top : top + tall, left : left + wide], self._size)
        boxes = self._views.boxes(torch.tensor([example]), view, height, width)
        return render_crop(image, boxes, self._size)


def stratified(
    labels: NDArray[np.int64], share: float, seed: int, spec: str, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits indices in two, class by class.

    Args:
        labels: int64 `[N]`.
        share: Of each class that goes to the second part.
        seed: Of the shuffle.
        spec: Name of the data, for the error.
        least: Examples of each class that the second part gets at the least.

    Returns:
        Sorted indices of both parts.

    Raises:
        UserError: If a class has too few examples to leave one in the first part.
    """
    rng = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held = max(least, round(len(members) * share))
        if held >= len(members):
            raise UserError(
                f"data {spec!r}: class {label} has {len(members)} example(s) where a split in two "
                f"needs at least {least + 1}"
            )
        second.append(members[:held])
        first.append(members[held:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact: counts each of the 256 values."""
    mean, std = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten().long(), minlength=256).double().cpu()
        values = torch.arange(256, dtype=torch.float64) / 255
        average = (counts * values).sum() / counts.sum()
        variance = (counts * (values - average) ** 2).sum() / counts.sum()
        mean.append(float(average))
        std.append(max(float(variance.sqrt()), 1e-3))
    return tuple(mean), tuple(std)
