"""Optuna storages: where a study's lies, opening it, and what can be wrong with it."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.json_files import read_text
from nasdistill.common.types import without_password
from nasdistill.results import servers

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DATABASE = "study.db"
STORAGE_FILE = "storage.txt"
BUSY_SECONDS = 100.0
"""How long a writer of SQLite waits for the others."""
PROBE_SECONDS = 20.0
"""How long a database may be locked when it is opened."""
SQLITE_HEADER = b"SQLite format 3\0"

LIBRARIES = ("sqlalchemy", "sqlite3", "psycopg", "grpc")
"""Packages whose exceptions come of a storage."""

Purpose = Literal["create", "write", "read"]
"""What a storage is opened for; only `create` makes a file that is not there."""


class Noted(NamedTuple):
    """The content of a study's storage.txt.

    Attributes:
        url: The storage's URL, password and all.
        name: The study's name in it; None where that was not noted.
    """

    url: str
    name: str | None


def noted_storage(folder: Path) -> Noted | None:
    """Reads where a study is stored that is not stored in its folder; None if it is.

    Raises:
        DamagedFileError: If the file that says so cannot be read, or is empty.
    """
    path = folder / STORAGE_FILE
    if not path.exists():
        return None
    lines = [*read_text(path).split("\n"), ""]
    url = lines[0].strip()
    if not url:
        raise DamagedFileError(str(path), "empty; it holds the URL of the study's storage")
    return Noted(url, lines[1].strip() or None)


def storage_of(folder: Path) -> str | None:
    """The URL, password and all, of a study that is not stored in its folder's study.db.

    A file that was moved along with the folder is found there, whatever its old path.
    """
    noted = noted_storage(folder)
    if noted is None:
        return None
    file = storage_path(noted.url)
    if file is None or file.exists() or not (folder / file.name).is_file():
        return noted.url
    start = "journal:" if noted.url.startswith("journal:") else "sqlite:///"
    return f"{start}{folder.resolve() / file.name}"


def storage_url(folder: Path, storage: str | None) -> str:
    """The Optuna URL of a study: SQLite in its folder unless the recipe names another."""
    return storage or f"sqlite:///{folder.resolve() / DATABASE}"


def storage_path(url: str) -> Path | None:
    """The file of a storage; None for a server's, or one in memory."""
    if url.startswith("journal:"):
        return Path(url.removeprefix("journal:"))
    if not url.startswith("sqlite"):
        return None
    name = url.partition(":///")[2].partition("?")[0]
    return None if name in ("", ":memory:") or name.startswith("file:") else Path(name)


def is_same_storage(one: str, other: str) -> bool:
    """Whether two URLs name one storage: passwords may differ, and the spelling of a path."""
    paths = storage_path(one), storage_path(other)
    if paths[0] is not None and paths[1] is not None:
        return paths[0].resolve() == paths[1].resolve()
    return without_password(one) == without_password(other)


def open_storage(url: str, purpose: Purpose = "read") -> BaseStorage:
    """Opens an Optuna storage.

    Args:
        url: `sqlite:///…`, `journal:PATH`, `grpc://HOST:PORT`, or any URL that SQLAlchemy knows.
        purpose: What for.

    Raises:
        UserError: If it cannot be opened; the message says how to mend that.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with storage_errors(url, opening=True):
        _check_place(url, purpose)
        if url.startswith("journal:"):
            from optuna.storages.journal import JournalFileBackend

            return optuna.storages.JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
        if url.startswith(servers.GRPC):
            return servers.open_proxy(url)
        # Writers of SQLite wait for each other instead of failing.
        kwargs = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite") else {}
        kwargs |= servers.engine_options(url)
        path = storage_path(url)
        if purpose == "create" and path is not None and not path.exists():
            _create_whole(url, path)
        return optuna.storages.RDBStorage(url, engine_kwargs=kwargs)


def _create_whole(url: str, path: Path) -> None:
    """Makes a database beside its place and puts it there: Optuna makes table by table.

    One whose making was cut off may lack the index that keeps names apart, and Optuna makes none
    later: a study would be there twice.
    """
    import optuna

    name = url.partition(":///")[2].partition("?")[0]
    temporary = Path(f"{name}.{os.getpid()}.tmp")
    try:
        beside = optuna.storages.RDBStorage(url.replace(f":///{name}", f":///{temporary}", 1))
        beside.engine.dispose()
        try:
            os.link(temporary, path)
        except FileExistsError:  # another process was quicker
            pass
        except OSError:  # a disk without links
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def study_in(storage: BaseStorage, folder: Path, url: str) -> str | None:
    """The name in its storage of the study of a folder that may have been renamed since.

    Args:
        storage: Opened.
        folder: The study's.
        url: The storage's.

    Returns:
        None where the storage does not hold the study.
    """
    import optuna

    names = optuna.get_all_study_names(storage)
    path = storage_path(url)
    if path is not None and path.resolve().parent == folder.resolve() and len(names) == 1:
        return names[0]
    noted = noted_storage(folder)
    name = folder.name if noted is None or noted.name is None else noted.name
    return name if name in names else None


def no_study_in(storage: BaseStorage, folder: Path, url: str) -> UserError:
    """The error for a storage that does not hold the study of a folder."""
    import optuna

    names = ", ".join(map(repr, sorted(optuna.get_all_study_names(storage)))) or "none"
    where = f"study {folder.name!r}: its storage {without_password(url)}"
    if names == "none":
        return UserError(f"{where} holds no study yet")
    return UserError(
        f"{where} holds no study of that name (there: {names}). If one of them is it, write its "
        f"name on the second line of {folder / STORAGE_FILE}, the URL on the first"
    )


@contextmanager
def storage_errors(url: str, *, opening: bool = False) -> Iterator[None]:
    """Turns what a storage raises into one message that says how to mend it.

    Args:
        url: The storage's.
        opening: Whether nothing but the storage can raise.

    Raises:
        UserError: In place of an error of the storage; others pass.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = storage_problem(error, url, opening=opening)
        if problem is None:
            raise
        raise UserError(problem) from error


def storage_problem(error: BaseException, url: str, *, opening: bool = False) -> str | None:
    """Names what is wrong with a storage, and what mends it.

    Args:
        error: The exception; those that caused it are looked at, too.
        url: The storage's.
        opening: Whether nothing but the storage can have raised it.

    Returns:
        None where the storage is not the reason, or the disk is full.
    """
    causes = list(_causes(error))
    ours = any(type(c).__module__.startswith(LIBRARIES) for c in causes)
    text = " ".join(str(cause) for cause in causes).lower()
    if not (opening or ours) or "disk is full" in text:
        return None
    where, path = f"the storage {without_password(url)!r}", storage_path(url)
    known = _explanations(url, path)
    if path is None:
        known |= servers.explanations(url)
    for phrases, explanation in known.items():
        if any(phrase in text for phrase in phrases):
            return f"{where} {explanation}"
    if isinstance(error, ValueError) and url.startswith("journal:"):
        return f"{where} is not a journal of Optuna, or its end is cut off: {error}"
    cause = causes[-1] if ours else error
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    reason = without_password(reason.split("\n")[0])
    return f"cannot {'open' if opening else 'use'} {where}: {reason}"


def _explanations(url: str, path: Path | None) -> dict[tuple[str, ...], str]:
    """What is wrong and what mends it, by words that errors of storages hold."""
    file = shlex.quote(str(path))
    upgrade = f"optuna storage upgrade --storage {shlex.quote(without_password(url))}"
    copy = "" if path is None else f" (a copy first: cp {file} {shlex.quote(f'{path}.old')})"
    return {
        ("storage upgrade",): f"was made by an older Optuna; bring it up to date{copy}: {upgrade}",
        ("updating optuna", "update optuna"): (
            "was made by a newer Optuna than the one installed; update it: pip install -U optuna"
        ),
        ("database is locked", "database table is locked"): (
            f"is locked by another process. `fuser -v {file}` names it; end it, or wait for it, "
            "then give the same command again"
        ),
        ("readonly database",): (
            f"cannot be written. Make it, and its folder, writable: chmod u+w "
            f"{file} {shlex.quote(str(path and path.parent))}"
        ),
        ("not a database", "image is malformed"): (
            "is damaged, or no SQLite database. Put a copy back, or save what can be read: "
            f"sqlite3 {file} .recover | sqlite3 {shlex.quote(f'{path}.recovered')}"
        ),
        ("locking protocol", "disk i/o error"): (
            "cannot be used where it lies: the disk fails, or has no locks (some network disks). "
            "Work in a folder on a local disk, or give a server's URL or one there with --storage"
        ),
    }


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _check_place(url: str, purpose: Purpose) -> None:
    """Looks at a storage's file before Optuna does, which tries again and again.

    Raises:
        UserError: If it cannot be used.
    """
    where, path = f"the storage {without_password(url)!r}", storage_path(url)
    if path is None:
        if url.startswith("sqlite") and ":///file:" not in url:
            raise UserError(f"{where} keeps nothing: write sqlite:///PATH, such as sqlite:///a.db")
        return
    if path == Path() or path.is_dir():
        raise UserError(f"{where}: {str(path)!r} is a folder; the URL must end in a file's path")
    if not path.parent.is_dir():
        folder = shlex.quote(str(path.parent))
        raise UserError(f"{where}: there is no folder {path.parent}; make it: mkdir -p {folder}")
    if not path.exists() and purpose != "create":
        raise UserError(
            f"{where}: there is no file {path}, which held the study's trials. Put it back; if it "
            f"lies elsewhere now, write its URL into {STORAGE_FILE} in the study's folder"
        )
    if path.exists() and not _may(path, os.R_OK):
        raise UserError(f"{where} cannot be read: chmod u+r {shlex.quote(str(path))}")
    if purpose != "read":
        check_writable(path.parent)
        if path.exists():
            check_writable(path)
    if url.startswith("sqlite") and path.exists():
        _check_sqlite(url, path, purpose)


def _check_sqlite(url: str, path: Path, purpose: Purpose) -> None:
    """Checks that a file is a database of SQLite that nobody keeps locked."""
    with open(path, "rb") as file:
        head = file.read(len(SQLITE_HEADER))
    if not head and purpose != "create":  # SQLite itself would make a database of it
        raise DamagedFileError(str(path), "empty; the study's trials were stored in it")
    if head and head != SQLITE_HEADER:
        raise UserError(
            f"the storage {without_password(url)!r}: {path} is not an SQLite database (it begins "
            f"with {head!r}). Name another file, or put a copy of the database back"
        )
    opened = sqlite3.connect(path, timeout=PROBE_SECONDS, isolation_level=None)
    with closing(opened) as connection:
        if purpose == "read":
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        else:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")


def check_writable(path: Path) -> None:
    """Checks that a file, or a folder, that exists may be written.

    Raises:
        UserError: If not, with the command that changes that.
    """
    if _may(path, os.W_OK):
        return
    kind = "folder" if path.is_dir() else "file"
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise UserError(
            f"the {kind} {path} is on a read-only file system; copy the study's folder to one that "
            "can be written, and give the command there"
        )
    name = shlex.quote(str(path))
    mend = f"chmod u+w {name}" if path.stat().st_uid == os.geteuid() else f"sudo chown $USER {name}"
    raise UserError(f"the {kind} {path} may not be written by this user: {mend}")


def _may(path: Path, access: int) -> bool:
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)
