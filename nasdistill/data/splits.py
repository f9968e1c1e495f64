"""Splits: examples on the device, or streamed from files."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, silent, with_signs_of_life
from nasdistill.data.batch import Batch, Size
from nasdistill.data.mixing import Mix
from nasdistill.data.raw import Files
from nasdistill.data.views import Views

Plan = Iterable[tuple[Tensor, int | None]]


COUNTED_BYTES = 8 << 20
"""Of pictures whose colours are counted at once; counting takes some ten times as much."""
FLAT = 1.0
"""The deviation that stands for none: a channel of one value is shifted to 0 and not scaled."""


class Moments(NamedTuple):
    """Mean and standard deviation of each channel, in [0, 1] units; see `FLAT`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Split(ABC):
    """Some examples with their labels.

    Attributes:
        labels: int64 `[N]` on the device.
    """

    labels: Tensor
    _views: Views

    @property
    @abstractmethod
    def stored(self) -> Size:
        """`(height, width)` in which the images are kept, or decoded, in pixels."""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @abstractmethod
    def with_views(self, views: Views) -> Self:
        """The same examples in other views; images are shared, unless they need a wider margin."""

    @abstractmethod
    def batches(self, plan: Plan, size: Size, more: Sequence[Size] = ()) -> Iterator[Batch]:
        """Shows examples.

        The same (seed, id, view) is the same picture, whatever the batch; the same view at another
        size is the same crop, mixed with the same partner.

        Args:
            plan: For each batch, example ids (int64 CPU tensor `[B]`) and the number of the view,
                or None for the whole image as it is.
            size: `(height, width)` of the pictures, in pixels.
            more: Further sizes in which each batch shows them.
        """

    def _batch(
        self,
        ids_host: Tensor,
        view: int | None,
        pictures: Sequence[Tensor],
        sizes: Sequence[Size],
        mix: Mix | None,
    ) -> Batch:
        """Puts a batch together from pictures on the device; `mix` may lie elsewhere."""
        device = self.labels.device
        ids = ids_host.to(device, non_blocking=True)
        partners = share = None
        if mix is not None:
            partners, share = self.labels[mix.partners.to(device)], mix.share.to(device)
        at = dict(zip(sizes[1:], pictures[1:], strict=True))
        return Batch(pictures[0], self.labels[ids], ids, ids_host, view, partners, share, at)

    @abstractmethod
    def moments(self, emit: Emit = silent) -> Moments:
        """Mean and standard deviation of each channel over the plain images.

        Args:
            emit: Told how far it is, where that takes a while.
        """


class ResidentSplit(Split):
    """Examples that live in memory as one uint8 tensor.

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`.
        views: The views that it shows.
        device: Device of the batches.
        home: Device on which the examples are kept and rendered; by default that of the batches.
    """

    def __init__(
        self,
        images: Tensor,
        labels: NDArray[np.int64],
        views: Views,
        device: torch.device,
        home: torch.device | None = None,
    ) -> None:
        self._padded = views.pad(images.to(home or device))
        edge = views.margin
        tall, wide = self._padded.shape[-2:]
        self.images = self._padded[..., edge : tall - edge, edge : wide - edge]
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        self._views = views
        self._device = device

    @property
    def stored(self) -> Size:
        """See `Split`."""
        height, width = self.images.shape[-2:]
        return (height, width)

    def with_views(self, views: Views) -> Self:
        """See `Split`."""
        split = copy.copy(self)
        if views.margin != self._views.margin:
            split._padded = views.pad(self.images)
        split._views = views
        return split

    def batches(self, plan: Plan, size: Size, more: Sequence[Size] = ()) -> Iterator[Batch]:
        """See `Split`."""
        sizes = _sizes(size, more)
        for ids_host, view in plan:
            rows = ids_host.to(self._padded.device, non_blocking=True)
            mix = self._views.mix(rows, view, len(self))
            ids = _with_partners(rows, mix)
            images_by_size = _show(self._views, self._padded, ids, ids, view, sizes, mix)
            yield self._batch(
                ids_host, view, [x.to(self._device) for x in images_by_size], sizes, mix
            )

    def moments(self, emit: Emit = silent) -> Moments:
        """See `Split`."""
        at_once = max(1, COUNTED_BYTES // max(1, self.images[:1].numel()))
        return _moments(torch.split(self.images, at_once))


class StreamingSplit(Split):
    """Examples that are decoded from files, in worker processes.

    Args:
        files: The files.
        labels: int64 `[N]`.
        views: The views that it shows.
        device: Device of the batches.
        workers: Processes that decode; by default one for each core of this process but one.
    """

    def __init__(
        self,
        files: Files,
        labels: NDArray[np.int64],
        views: Views,
        device: torch.device,
        workers: int | None = None,
    ) -> None:
        self.files = files
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        self._views = views
        self._device = device
        self._workers = workers

    @property
    def stored(self) -> Size:
        """See `Split`."""
        return self.files.preparation.stored

    def with_views(self, views: Views) -> Self:
        """See `Split`."""
        split = copy.copy(self)
        split._views = views
        return split

    def batches(self, plan: Plan, size: Size, more: Sequence[Size] = ()) -> Iterator[Batch]:
        """See `Split`; the plan is read to its end at once.

        Raises:
            UserError: If a file cannot be read any more.
        """
        items, sizes = list(plan), _sizes(size, more)
        # Threads are this process's share of the cores; they may change after the data were read.
        workers = max(1, torch.get_num_threads() - 1) if self._workers is None else self._workers
        loader: DataLoader[list[Tensor] | str] = DataLoader(
            _Decoded(self.files, self._views, items, sizes),
            batch_size=None,
            num_workers=min(workers, len(items)) if len(items) > 2 else 0,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # Leaves the global generator alone.
        )
        for (ids_host, view), pictures in zip(items, loader, strict=True):
            if isinstance(pictures, str):
                raise UserError(pictures)
            images_by_size = [images.to(self._device, non_blocking=True) for images in pictures]
            mix = self._views.mix(ids_host, view, len(self))
            yield self._batch(ids_host, view, images_by_size, sizes, mix)

    def moments(self, emit: Emit = silent) -> Moments:
        """See `Split`; from 2,000 examples at the most."""
        ids = torch.linspace(0, len(self) - 1, min(2000, len(self))).long()
        plan = [(part, None) for part in torch.split(ids, 100)]
        batches = self.batches(plan, self.stored)
        text = "measuring colours"
        reported_batches = with_signs_of_life(batches, text, "data", len(ids), emit, images=100)
        return _moments(batch.images for batch in reported_batches)


def joined(splits: Sequence[Split]) -> Split:
    """All examples of some splits of one dataset, in their order."""
    first = splits[0]
    labels = torch.cat([split.labels for split in splits]).cpu().numpy()
    if isinstance(first, StreamingSplit):
        files = [split.files for split in splits if isinstance(split, StreamingSplit)]
        paths = tuple(path for each in files for path in each.paths)
        digests = tuple(digest for each in files for digest in each.digests)
        together = replace(first.files, paths=paths, digests=digests)
        return StreamingSplit(together, labels, first._views, first._device, first._workers)
    assert isinstance(first, ResidentSplit)
    images = torch.cat([split.images for split in splits if isinstance(split, ResidentSplit)])
    return ResidentSplit(images, labels, first._views, first._device, images.device)


class _Decoded(TorchDataset["list[Tensor] | str"]):
    """One item per batch of a plan: its pictures in each size, or the message of an error."""

    def __init__(
        self,
        files: Files,
        views: Views,
        items: Sequence[tuple[Tensor, int | None]],
        sizes: Sequence[Size],
    ) -> None:
        self._files, self._views, self._items, self._sizes = files, views, items, sizes

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> list[Tensor] | str:
        own_ids, view = self._items[index]
        mix = self._views.mix(own_ids, view, len(self._files))
        ids = _with_partners(own_ids, mix)
        distinct, rows = torch.unique(ids, return_inverse=True)
        try:
            decoded = np.stack([self._files.decode(int(i)) for i in distinct])
        except UserError as error:
            return str(error)
        padded = self._views.pad(torch.from_numpy(decoded))
        return _show(self._views, padded, rows, ids, view, self._sizes, mix)


def _with_partners(ids: Tensor, mix: Mix | None) -> Tensor:
    """Examples, and behind them those that they are mixed with."""
    return ids if mix is None else torch.cat([ids, mix.partners])


def _show(
    views: Views,
    padded: Tensor,
    rows: Tensor,
    ids: Tensor,
    view: int | None,
    sizes: Sequence[Size],
    mix: Mix | None,
) -> list[Tensor]:
    """Pictures in each size; `rows` and `ids` are `_with_partners`."""
    images_by_size = views.render(padded, rows, ids, view, sizes)
    return (
        images_by_size
        if mix is None
        else [mix.blend(*images.chunk(2)) for images in images_by_size]
    )


def _sizes(size: Size, more: Sequence[Size]) -> list[Size]:
    """All sizes, each once, the main one first."""
    return list(dict.fromkeys((height, width) for height, width in [size, *more]))


def stratified(
    labels: NDArray[np.int64],
    share: float,
    seed: int,
    spec: str,
    least: int = 1,
    enough: int = 0,
    part: int = 4,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits indices in two, class by class.

    Args:
        labels: int64 `[N]`.
        share: Of each class that goes to the second part.
        seed: Of the shuffle.
        spec: Name of the data, for the error.
        least: Examples of each class that the second part gets at the least.
        enough: Examples of each class up to which the second part gets more than its share, though
            no more than one in `part` of the class.
        part: See `enough`.

    Returns:
        Sorted indices of both parts.

    Raises:
        UserError: If a class has too few examples to leave one in the first part.
    """
    rng = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(least, round(len(members) * share), min(enough, len(members) // part))
        if count >= len(members):
            raise UserError(
                f"data {spec!r}: class {label} has {len(members)} example(s) where a split in two "
                f"needs at least {least + 1}"
            )
        second.append(members[:count])
        first.append(members[count:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _moments(batches: Iterable[Tensor]) -> Moments:
    """Exact moments, by counting each of the 256 values, in images `[B, C, H, W]` at a time."""
    total: Tensor | int = 0
    for images in batches:
        histograms = [torch.bincount(c.flatten().long(), minlength=256) for c in images.unbind(1)]
        total = total + torch.stack(histograms)
    assert isinstance(total, Tensor)
    mean, std = [], []
    for counts in total.double().cpu():
        values = torch.arange(256, dtype=torch.float64) / 255
        average = (counts * values).sum() / counts.sum()
        variance = (counts * (values - average) ** 2).sum() / counts.sum()
        mean.append(float(average))
        std.append(max(float(variance.sqrt()), 1e-3) if variance > 0 else FLAT)
    return Moments(tuple(mean), tuple(std))
