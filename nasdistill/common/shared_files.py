"""Files that the hosts of a study share: through a disk in common, or through a URL.

`SharedFiles` is for hosts that see one folder: nothing has to be carried. `FilesAtURL` is for those
that do not: a file of the study's folder has a counterpart there, which appears whole or not at
all.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole
from nasdistill.common.types import without_password

Item = TypeVar("Item")
Result = TypeVar("Result")

OPENING_SECONDS = 30.0
"""How long a URL may take to answer when it is opened."""
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each further attempt, where one fails."""
LOOK_SECONDS = 1.0
"""Time between two looks at whether another host is done."""
LAST = "metrics.json"
"""File by which a folder counts as a final: it is carried after the others."""
DRIVERS = {
    "s3": "pip install 'nasdistill[s3]'",
    "s3a": "pip install 'nasdistill[s3]'",
    "gs": "pip install 'nasdistill[gcs]'",
    "gcs": "pip install 'nasdistill[gcs]'",
}
"""How the driver of a protocol is installed, where it does not come with fsspec."""

Claim = Callable[[str, bool], AbstractContextManager[bool]]
"""Lets one host in at a time: from a name and whether to wait for the others, whether it is in."""


class SharedFiles:
    """The files of a study whose hosts all see its folder: there is nothing to carry."""

    def push(self, path: Path, name: str | None = None) -> None:
        """Gives a file, or all of a folder, to the other hosts.

        Args:
            path: In the study's folder, or beside it.
            name: Of its counterpart, from the study's on; by default it follows from the path.
        """

    def fetch(self, path: Path, name: str | None = None) -> bool:
        """Takes a file, or all of a folder, as other hosts have given it; it replaces what is here.

        Args:
            path: In the study's folder, or beside it.
            name: See `push`.

        Returns:
            Whether there was anything.
        """
        return False

    def names(self, path: Path) -> list[str]:
        """Names of what other hosts have given in a folder."""
        return []

    def read(self, paths: Iterable[Path]) -> dict[Path, bytes]:
        """Contents that other hosts have given, as far as there are any; they are not kept here."""
        return {}

    def write(self, path: Path, content: bytes) -> None:
        """Gives a content to the other hosts, without a file here."""

    def remove(self, path: Path) -> None:
        """Removes a file or folder, here and for all other hosts."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Lets one host in at a time; where they share a disk, its locks do that.

        Args:
            name: Of what is claimed.
            wait: Whether to wait for the other hosts; else it gives False while one is in.
        """
        yield True

    @contextmanager
    def making(self, path: Path, lock: Path | None = None) -> Iterator[None]:
        """Lets one process at a time make a file or folder, which all others then find.

        Args:
            path: Of what is made; the body looks whether it is there already.
            lock: Of the processes here; by default beside the path.
        """
        with locks.alone(lock or path.with_suffix(".lock")):
            yield

    def in_turn(
        self, items: Sequence[Item], lock_of: Callable[[Item], Path], *, wait: bool
    ) -> Iterator[Item]:
        """Gives items one by one, each locked until the next is asked for; see `locks.in_turn`."""
        return locks.in_turn(items, lock_of, wait=wait)


ONE_FOLDER = SharedFiles()
"""Of hosts that see one folder."""


class Place(NamedTuple):
    """A URL that can be written to.

    Attributes:
        url: As it is shown.
        filesystem: Of fsspec.
        path: Of the URL, as that calls it.
    """

    url: str
    filesystem: Any
    path: str


class FilesAtURL(SharedFiles):
    """The files of a study whose hosts have no disk in common.

    Args:
        place: Counterpart of the folder of studies.
        folder: The study's.
        name: The study's, in its storage: its folder here may be called otherwise.
        claim: Of the study's storage.
    """

    def __init__(self, place: Place, folder: Path, name: str, claim: Claim) -> None:
        self._place, self._folder = place, folder.absolute()
        self._name, self._claim = name, claim

    def push(self, path: Path, name: str | None = None) -> None:
        """See `SharedFiles.push`."""
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        key = self._key(path, name)
        for file in sorted(files, key=_is_last):
            below = "" if file == path else f"/{file.relative_to(path).as_posix()}"
            self._write(key + below, file.read_bytes())

    def fetch(self, path: Path, name: str | None = None) -> bool:
        """See `SharedFiles.fetch`."""
        key = self._key(path, name)
        keys = [k for k in self._find(key) if not k.endswith(".tmp")]
        for each in sorted(keys, key=lambda key: _is_last(Path(key))):
            content = self._do(lambda fs, each=each: fs.cat_file(each))  # type: ignore[misc]
            file = path if each == key else path / each.removeprefix(f"{key}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content)
        return bool(keys)

    def names(self, path: Path) -> list[str]:
        """See `SharedFiles.names`."""
        try:
            keys = self._do(lambda fs: fs.ls(self._key(path), detail=False))
        except FileNotFoundError:
            return []
        names = {key.rstrip("/").rpartition("/")[2] for key in keys}
        return sorted(name for name in names if not name.endswith(".tmp"))

    def read(self, paths: Iterable[Path]) -> dict[Path, bytes]:
        """See `SharedFiles.read`."""
        paths = list(paths)
        keys = [self._key(path) for path in paths]

        def read(filesystem: Any) -> dict[Path, bytes]:
            outcomes = filesystem.cat_ranges(keys, None, None, on_error="return") if keys else []
            for outcome in outcomes:
                if isinstance(outcome, Exception) and not isinstance(outcome, FileNotFoundError):
                    raise outcome
            pairs = zip(paths, outcomes, strict=True)
            return {path: content for path, content in pairs if isinstance(content, bytes)}

        return self._do(read)

    def write(self, path: Path, content: bytes) -> None:
        """See `SharedFiles.write`."""
        self._write(self._key(path), content)

    def remove(self, path: Path) -> None:
        """See `SharedFiles.remove`."""
        super().remove(path)
        with suppress(FileNotFoundError):
            self._do(lambda fs: fs.rm(self._key(path), recursive=True))

    @contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """See `SharedFiles.claim`."""
        with self._claim(name, wait) as mine:
            yield mine

    @contextmanager
    def making(self, path: Path, lock: Path | None = None) -> Iterator[None]:
        """See `SharedFiles.making`."""
        with locks.alone(lock or path.with_suffix(".lock")):
            if path.exists():
                yield
                return
            with self.claim(self._key(path).removeprefix(f"{self._place.path}/"), wait=True):
                came = self.fetch(path)
                yield
                if path.exists() and not came:
                    self.push(path)

    def in_turn(
        self, items: Sequence[Item], lock_of: Callable[[Item], Path], *, wait: bool
    ) -> Iterator[Item]:
        """See `SharedFiles.in_turn`."""
        left = list(items)
        while left:
            for item in [*left]:
                lock = lock_of(item)
                with locks.alone_or_not(lock) as free:
                    if not free:
                        continue
                    with self.claim(lock.stem, wait=False) as mine:
                        if mine:
                            left.remove(item)
                            yield item
            if not wait:
                return
            if left:
                time.sleep(LOOK_SECONDS)

    def _key(self, path: Path, name: str | None = None) -> str:
        """The counterpart of a path, below the study's folder or beside it."""
        if name is None:
            path = path.absolute()
            if not path.is_relative_to(self._folder):
                return f"{self._place.path}/{path.relative_to(self._folder.parent).as_posix()}"
            name = path.relative_to(self._folder).as_posix()
        return f"{self._place.path}/{PurePosixPath(self._name, name)}"

    def _find(self, key: str) -> list[str]:
        try:
            keys: list[str] = self._do(lambda fs: fs.find(key))
        except FileNotFoundError:
            return []
        # An object store knows no folders: a name with .. would lead out of the study's.
        return [name for name in keys if ".." not in PurePosixPath(name).parts]

    def _write(self, key: str, content: bytes) -> None:
        """Writes beside the place and moves there: nobody reads a half."""
        beside = f"{key}.{uuid.uuid4().hex[:8]}.tmp"

        def write(filesystem: Any) -> None:
            filesystem.pipe_file(beside, content)
            filesystem.mv(beside, key)

        self._do(write)

    def _do(self, action: Callable[[Any], Result]) -> Result:
        """Does something, again and again for half a minute where that fails.

        Raises:
            FileNotFoundError: If what is asked for is not there.
            UserError: If it still fails, or is not allowed.
        """
        for wait in (*WAITS, None):
            try:
                return action(self._place.filesystem)
            except FileNotFoundError:
                raise
            except Exception as error:  # each driver has errors of its own
                if wait is None or isinstance(error, PermissionError):
                    raise UserError(
                        f"--files {self._place.url}: {_reason(error)}. Nothing that was stored is "
                        "lost: give the same command again, and the study goes on"
                    ) from error
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def reach(url: str) -> Place:
    """Opens a URL, and sees that it can be written, read and cleaned.

    Args:
        url: Such as `file:///shared/studies`, `s3://bucket/studies`, `gs://bucket/studies`.

    Raises:
        UserError: If its protocol is unknown or not installed, or it cannot be used.
    """
    shown, protocol = without_password(url), url.partition("://")[0]
    if protocol == "memory":
        raise UserError(
            f"--files {shown}: it is the memory of one process, which no other process sees. "
            "Allowed: file:///PATH on a shared disk, s3://BUCKET/PATH, gs://BUCKET/PATH"
        )
    outcome: list[Place | Exception] = []

    def open_and_try() -> None:
        try:
            outcome.append(_open(url, shown, protocol))
        except Exception as error:  # each driver has errors of its own
            outcome.append(error)

    opening = threading.Thread(target=open_and_try, daemon=True)
    opening.start()
    opening.join(OPENING_SECONDS)
    result = outcome[0] if outcome else TimeoutError(f"no answer in {OPENING_SECONDS:.0f} s")
    if isinstance(result, Place):
        return result
    if isinstance(result, UserError):
        raise result
    raise UserError(f"--files {shown}: cannot be used: {_reason(result)}") from result


def _open(url: str, shown: str, protocol: str) -> Place:
    """See `reach`; raises whatever a driver does."""
    import fsspec

    known = sorted(fsspec.available_protocols())
    if protocol not in known:
        raise UserError(
            f"--files {shown}: unknown protocol {protocol!r}; allowed: file, s3, gs, or another of "
            f"fsspec's that can be written: {', '.join(known)}"
        )
    # What other hosts write must be seen at once.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol in ("file", "local"):
        options["auto_mkdir"] = True
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        install = DRIVERS.get(protocol, _reason(error))
        raise UserError(f"--files {shown}: its driver is not installed: {install}") from None
    folder = f"{path.rstrip('/')}/.probe-{uuid.uuid4().hex}"
    filesystem.pipe_file(f"{folder}/probe", b"nasdistill")
    if filesystem.cat_file(f"{folder}/probe") != b"nasdistill":
        raise OSError("what was written is not what is read")
    filesystem.rm(folder, recursive=True)
    return Place(shown, filesystem, path.rstrip("/"))


def _reason(error: BaseException) -> str:
    """What went wrong, on one line, without passwords."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "filename", None)
    text = f"{text}: {name}" if name and str(name) not in text else text
    return without_password(re.sub(r"\s+", " ", text))[:300].rstrip(".")


def _is_last(path: Path) -> bool:
    return path.name == LAST
