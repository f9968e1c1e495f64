"""Locks between processes: one at a time, and measurements that others keep quiet for."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nasdistill.common.errors import UserError
from nasdistill.common.processes import is_stopped

Item = TypeVar("Item")

PATIENCE_SECONDS = 60.0
"""After which a lock of stopped processes (SIGSTOP, Ctrl-Z) is not waited for: a lease's time."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lets one process in at a time.

    Args:
        path: A file; it is made where there is none, in a folder that must exist.
    """
    with _locked(path, fcntl.LOCK_EX):
        yield


@contextmanager
def alone_or_not(path: Path) -> Iterator[bool]:
    """Like `alone`, but does not wait: gives False while another process is in.

    Args:
        path: A file; it is made where there is none, in a folder that must exist.
    """
    with open(path, "a") as file:
        try:
            _lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            yield False
            return
        yield True


def in_turn(
    items: Sequence[Item], lock_of: Callable[[Item], Path], *, wait: bool
) -> Iterator[Item]:
    """Gives items one by one, each locked until the next is asked for.

    Args:
        items: The work that several processes share.
        lock_of: The lock file of an item.
        wait: Whether to wait for those that other processes are at, last; else they are left out.
    """
    if not wait:
        for item in items:
            with alone_or_not(lock_of(item)) as free:
                if free:
                    yield item
        return
    left = list(items)
    while left:
        unlocked = [item for item in left if not is_held(lock_of(item))]
        item = (unlocked or left)[0]
        left.remove(item)
        with alone(lock_of(item)):
            yield item


@contextmanager
def quiet(lock: Path) -> Iterator[None]:
    """Holds the machine for a measurement: waits until no other worker trains, and keeps them out.

    A second lock, the gate, is taken first, so that workers that come and go cannot starve it.

    Args:
        lock: A file; it is made where there is none.
    """
    with _locked(_gate(lock), fcntl.LOCK_EX), _locked(lock, fcntl.LOCK_EX):
        yield


@contextmanager
def busy(lock: Path) -> Iterator[None]:
    """Marks a worker as training; any number may be, but not during a measurement.

    Args:
        lock: The file that `quiet` takes.
    """
    with _locked(_gate(lock), fcntl.LOCK_SH):
        pass
    with _locked(lock, fcntl.LOCK_SH):
        yield


def pausing(steps: Iterator[Item], lock: Path) -> Iterator[Item]:
    """Marks a worker as training from step to step, so that measurements come in between.

    Args:
        steps: The training, up to its next item; an item is never None.
        lock: The file that `quiet` takes.
    """
    while True:
        with busy(lock):
            step = next(steps, None)
        if step is None:
            return
        yield step


def hold(path: Path) -> int:
    """Marks something as in use by this process; any number may.

    Args:
        path: A file; it is made where there is none.

    Returns:
        A file descriptor: the mark goes when it is closed, or the process ends.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT)
    _lock(descriptor, fcntl.LOCK_SH, path)
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a living process, this one too, holds a file.

    Only of use where nobody can take hold in the meantime: inside a lock that holders take, too.
    """
    with alone_or_not(path) as free:
        return not free


def _gate(lock: Path) -> Path:
    return lock.with_name(lock.name + ".gate")


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    with open(path, "a") as file:
        _take(file.fileno(), kind, path)
        yield


def _take(descriptor: int, kind: int, path: Path) -> None:
    """Locks a file, or goes on without while all who hold it are stopped for long."""
    try:
        _lock(descriptor, kind | fcntl.LOCK_NB, path)
        return
    except BlockingIOError:
        waiter = threading.Thread(target=_wait, args=(os.dup(descriptor), kind), daemon=True)
        waiter.start()
    while waiter.is_alive():
        waiter.join(PATIENCE_SECONDS)
        holders = _holders(descriptor)
        if holders and all(map(is_stopped, holders)):
            return


def _wait(descriptor: int, kind: int) -> None:
    """Waits for a lock, which is that of all descriptors of one opened file."""
    try:
        fcntl.flock(descriptor, kind)
    finally:
        os.close(descriptor)


def _holders(descriptor: int) -> list[int]:
    """Processes that hold a lock on a file, as far as Linux tells."""
    try:
        table = Path("/proc/locks").read_text()
    except OSError:
        return []
    inode = str(os.fstat(descriptor).st_ino)
    rows = (line.split() for line in table.splitlines() if " FLOCK " in line and "->" not in line)
    return [int(row[4]) for row in rows if row[5].rpartition(":")[2] == inode]


def _lock(descriptor: int, kind: int, path: Path) -> None:
    """Locks an open file.

    Raises:
        UserError: If its disk has no locks.
        BlockingIOError: If another process has it, and `kind` says not to wait.
    """
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"{path}: its disk has no file locks ({error.strerror}), so processes could not be "
            "kept from each other's files. Give the command in a folder on a local disk; or mount "
            "a network disk with locks: NFS with its lock service running, or with the option "
            "local_lock=flock if one machine alone works there"
        ) from error
