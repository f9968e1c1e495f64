"""The teacher's logits, remembered by example and view.

A file per view holds float16 logits `[N, C]`, filled block by block: a fixed number of consecutive
example ids, one view, always in the same batches, layout and precision, so that a number read from
the file is the number that the teacher would give now, whoever filled the block. A block counts as
filled when its checksum stands beside it; the checksum is written after the data.

Hosts without a disk in common give each other the blocks that they fill, and claim a view before
they fill some of it.

Each combination of teacher, data, views and precision has a folder of its own, named by its key.
The size of all folders is bounded: before a file is made, folders that no living process uses are
removed, least recently used first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasdistill.common.events import Emit, silent, with_signs_of_life
from nasdistill.common.files import write_whole
from nasdistill.common.locks import alone, alone_or_not, hold, is_held
from nasdistill.common.shared_files import ONE_FOLDER, SharedFiles
from nasdistill.data import Batch, Dataset, Split
from nasdistill.data.splits import Plan
from nasdistill.models.inference import WHOLE
from nasdistill.teachers.teacher import Teacher

BLOCK = 500
"""Examples in a block."""
KEY = "key.json"
"""File that identifies a folder's logits; held by those who use them, and touched when they do."""
LOCK = "lock"
"""File beside the folders, locked by whoever takes hold of one or removes some."""
ON_DEVICE_BYTES = 1 << 30
"""Most bytes of logits that lie on the device as well."""


@dataclass(frozen=True)
class _View:
    """The stored logits of one view.

    Attributes:
        logits: `[N, C]`, a file.
        checksums: Of each block, 0 where it is empty; a file.
        verified: Whether this process has checked or filled the block.
        origin: Checksum of what the logits are of: those of another teacher, or of another view,
            have other checksums.
    """

    logits: NDArray[np.float16]
    checksums: NDArray[np.uint32]
    verified: NDArray[np.bool_]
    origin: int

    def is_filled(self, block: int) -> bool:
        """Whether a block has the logits that its checksum was taken of."""
        return bool(self.checksums[block] != 0 and self.checksums[block] == self.checksum(block))

    def checksum(self, block: int) -> int:
        """CRC-32 of a block and its origin; never 0, which means that it is empty."""
        return zlib.crc32(self.rows(block).tobytes(), self.origin) or 1

    def rows(self, block: int) -> NDArray[np.float16]:
        """The logits of a block, `[<= BLOCK, C]`; the last one may be shorter."""
        return self.logits[block * BLOCK : (block + 1) * BLOCK]


class LogitCache:
    """The teacher's logits on one split, remembered exactly.

    Args:
        teacher: The teacher, which is run on a miss.
        dataset: Its training split is the one that is cached.
        root: Folder that holds one sub-folder per key.
        on_fill: Called with `(examples, seconds)` after each fill.
        limit: Most bytes that the folders below `root` may take together; None for no limit. The
            folders that living processes use are kept, even above it.
        emit: Told how far a fill is, where that takes a while.
        files: By which hosts share blocks.

    Attributes:
        folder: Of this key.
        view_bytes: Size of one view on disk.
        asked: Examples that the teacher was run on in this process.
        served: Examples whose logits were read in this process.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: Dataset,
        root: Path,
        on_fill: Callable[[int, float], None] | None = None,
        limit: int | None = None,
        emit: Emit = silent,
        files: SharedFiles = ONE_FOLDER,
    ) -> None:
        self._teacher = teacher
        self._split: Split = dataset.train
        self._device = dataset.train.labels.device
        self._on_fill = on_fill
        self._limit = limit
        self._emit = emit
        self._files = files
        self._shape = (len(dataset.train), teacher.classes)
        self._blocks = -(-len(dataset.train) // BLOCK)
        self._views: dict[int, _View] = {}
        self._device_views: dict[int, Tensor] = {}
        self.view_bytes = bytes_of(*self._shape)
        self.asked = 0
        self.served = 0
        self._identity = json.dumps(_identity(teacher, dataset), sort_keys=True)
        self.folder = root / hashlib.blake2b(self._identity.encode(), digest_size=8).hexdigest()
        self._key = self.folder / KEY
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / LOCK):
            self.folder.mkdir(exist_ok=True)
            if not self._key.exists():
                write_whole(self._key, self._identity)
            weakref.finalize(self, os.close, hold(self._key))
        self._make_room(0)

    def prepare(self, plan: Plan) -> None:
        """Fills every block that the plan will read, so that training never waits.

        Args:
            plan: `(ids int64 CPU tensor, view)` of each batch to come.
        """
        os.utime(self._key)
        blocks_by_view: dict[int, NDArray[np.bool_]] = {}
        for ids, view in plan:
            assert view is not None, "only augmented views are cached"
            blocks = blocks_by_view.setdefault(view, np.zeros(self._blocks, dtype=bool))
            blocks[np.unique(ids.numpy() // BLOCK)] = True
        filled_by_others = []
        for view, blocks in blocks_by_view.items():
            with alone_or_not(self._lock(view)) as acquired:
                if not (acquired and self._fill(view, blocks, wait=False)):
                    filled_by_others.append(view)
        for view in filled_by_others:
            with alone(self._lock(view)):
                self._fill(view, blocks_by_view[view], wait=True)

    def _lock(self, view: int) -> Path:
        return self.folder / f"view-{view:03d}.lock"

    def logits(self, batch: Batch) -> Tensor:
        """The teacher's logits.

        Args:
            batch: Examples of the training split, in one view; its blocks must be prepared.

        Returns:
            float16 `[B, C]` on the batch's device.
        """
        assert batch.view is not None
        self.served += len(batch.ids_host)
        on_device = self._device_views.get(batch.view)
        if on_device is not None:
            return on_device[batch.ids]
        stored = self._views[batch.view].logits
        return torch.from_numpy(stored[batch.ids_host.numpy()]).to(self._device)

    def _fill(self, view: int, needed: NDArray[np.bool_], *, wait: bool) -> bool:
        """Fills those of the needed blocks that are empty or damaged.

        Args:
            view: Their view, which this process has locked on this host.
            needed: Whether each block is needed, bool `[blocks]`.
            wait: Whether to wait for another host that fills the view.

        Returns:
            Whether they are filled; not where another host is at it and is not waited for.
        """
        stored = self._open(view)
        unverified = [int(block) for block in np.flatnonzero(needed & ~stored.verified)]
        empty = [block for block in unverified if not stored.is_filled(block)]
        empty = self._take(view, stored, empty)
        if empty:
            with self._files.claim(f"{self.folder.name}/{view}", wait=wait) as mine:
                if not mine:
                    return False
                empty = self._take(view, stored, empty)  # filled while this process waited
                if empty:
                    self._run_teacher(view, stored, empty)
        if unverified:
            stored.verified[unverified] = True
            self._device_views.pop(view, None)
        size = 2 * self._shape[0] * self._shape[1] * (len(self._device_views) + 1)
        if view not in self._device_views and size <= ON_DEVICE_BYTES:
            copied = torch.from_numpy(np.asarray(stored.logits).copy())
            self._device_views[view] = copied.to(self._device)
        return True

    def _take(self, view: int, stored: _View, blocks: list[int]) -> list[int]:
        """Takes over what other hosts have filled of some blocks; gives those that are left."""
        contents = self._files.read(self._shared(view, block) for block in blocks)
        left = []
        for block in blocks:
            rows = stored.rows(block)
            content = contents.get(self._shared(view, block), b"")
            if len(content) == rows.nbytes + 4:
                rows[:] = np.frombuffer(content[:-4], np.float16).reshape(rows.shape)
                stored.checksums[block] = int.from_bytes(content[-4:], "little")
            if not stored.is_filled(block):
                left.append(block)
        return left

    def _shared(self, view: int, block: int) -> Path:
        """The path whose counterpart holds a block, its checksum behind it."""
        return self.folder / f"view-{view:03d}" / f"{block:06d}"

    def _run_teacher(self, view: int, stored: _View, blocks: list[int]) -> None:
        """Fills blocks with the teacher's logits."""
        start, before = time.perf_counter(), self.asked
        parts = [torch.split(self._block_ids(block), self._teacher.batch) for block in blocks]
        plan = [(ids, view) for block in parts for ids in block]
        batches = self._split.batches(plan, self._teacher.input.size)
        each, total = len(parts[0][0]), len(blocks) * BLOCK
        reported_batches = with_signs_of_life(
            batches, "asking the teacher", "answers", total, self._emit, each
        )
        answers = (self._teacher.logits(batch.images) for batch in reported_batches)
        for block, ids in zip(blocks, parts, strict=True):
            rows = slice(block * BLOCK, min((block + 1) * BLOCK, self._shape[0]))
            logits = torch.cat(list(itertools.islice(answers, len(ids))))
            stored.logits[rows] = logits[: rows.stop - rows.start].to(torch.float16).cpu().numpy()
            checksum = stored.checksum(block)
            content = stored.rows(block).tobytes() + checksum.to_bytes(4, "little")
            self._files.write(self._shared(view, block), content)  # what is filled here is there
            stored.checksums[block] = checksum
            self.asked += rows.stop - rows.start
        _flush(stored.logits)
        _flush(stored.checksums)
        if self._on_fill is not None:
            self._on_fill(self.asked - before, time.perf_counter() - start)

    def _block_ids(self, block: int) -> Tensor:
        """Ids of a block; the last is padded by repeating: every block has one shape."""
        ids = torch.arange(block * BLOCK, (block + 1) * BLOCK)
        return ids.clamp_(max=self._shape[0] - 1)

    def _open(self, view: int) -> _View:
        if view not in self._views:
            path = self.folder / f"view-{view:03d}.f16"
            if not path.exists():
                self._make_room(self.view_bytes)
            self._views[view] = _View(
                _mapped(path, np.dtype(np.float16), self._shape),
                _mapped(path.with_suffix(".crc"), np.dtype(np.uint32), (self._blocks,)),
                np.zeros(self._blocks, dtype=bool),
                zlib.crc32(f"{self._identity}, view {view}".encode()),
            )
        return self._views[view]

    def _make_room(self, needed: int) -> None:
        if self._limit is not None:
            make_room(self.folder.parent, needed, self._limit)


def _identity(teacher: Teacher, dataset: Dataset) -> dict[str, Any]:
    """All that a cached number depends on; the content of `KEY`."""
    resized = teacher.input.size != dataset.preparation.stored
    inference = teacher.inference or WHOLE
    return {
        "teacher": teacher.weights_hash,
        "code": teacher.code,
        "input": [teacher.input.channels, *teacher.input.size],
        "data": dataset.fingerprint,
        "device": dataset.train.labels.device.type,
        "precision": teacher.precision,
        "block": BLOCK,
        "torch": torch.__version__.split("+")[0],
        "torchvision": version("torchvision").split("+")[0],  # crops; slow to import
        "pillow": PIL.__version__,  # decodes; its forks are packages of other names
        **({"plain": "pillow"} if resized else {}),  # resized by torch in earlier releases
        **({"inference": list(inference)} if inference != WHOLE else {}),
    }


def bytes_of(examples: int, classes: int) -> int:
    """Size of one view of so many examples: float16 logits, a checksum for each block."""
    return 2 * examples * classes + 4 * -(-examples // BLOCK)


def make_room(root: Path, needed: int, limit: int) -> None:
    """Removes folders of logits, least recently used first, until there is room.

    Args:
        root: Folder of the folders.
        needed: Bytes that are to be written.
        limit: Most bytes that all folders may take then; those that a living process uses stay
            even so.
    """
    with alone(root / LOCK):
        keys = sorted(root.glob(f"*/{KEY}"), key=lambda key: key.stat().st_mtime)
        excess = sum(_size(key.parent) for key in keys) + needed - limit
        for key in keys:
            if excess <= 0:
                return
            if not is_held(key):
                excess -= _size(key.parent)
                _remove(key.parent)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("view-*"))


def _remove(folder: Path) -> None:
    """Removes a folder, its key last: after a kill the rest is found again."""
    for file in folder.glob("view-*"):
        file.unlink()
    shutil.rmtree(folder)


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Opens a file as a shared array, growing it with zeros to its size first.

    The space is really allocated, so that a full disk is an error here and not a bus error at the
    first write.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    with open(path, "ab") as file:
        if os.fstat(file.fileno()).st_size < size:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _flush(array: NDArray[Any]) -> None:
    if isinstance(array, np.memmap):
        array.flush()
