from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from nasdistill.common.errors import UserError
from nasdistill.results import open_storage, storage, storage_errors, storage_of
from nasdistill.results.storage import Purpose, is_same_storage, study_in

LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"BEGIN {sys.argv[2]}")
print("locked", flush=True)
sys.stdin.read()
"""


def _database(path: Path, *names: str) -> str:
    """A database of Optuna with some studies."""
    url = f"sqlite:///{path}"
    opened = open_storage(url, "create")
    for name in names:
        optuna.create_study(study_name=name, storage=opened)
    return url


@pytest.mark.parametrize("statement", [0, 24, 25, 26, 31, 39, 47, 48])
def test_a_database_whose_making_was_cut_off_keeps_names_apart(
    tmp_path: Path, statement: int
) -> None:
    url, child = f"sqlite:///{tmp_path / 'study.db'}", os.fork()
    if child == 0:
        seen = itertools.count()

        def die(*_: object) -> None:
            if next(seen) == statement:
                os._exit(9)

        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", die)
        open_storage(url, "create")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 9)
    opened = open_storage(url, "create")
    optuna.create_study(study_name="one", storage=opened)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="one", storage=opened)
    assert optuna.get_all_study_names(open_storage(url)) == ["one"]


def test_a_database_is_made_once_by_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shared.db"
    other = tmp_path / "other.db"
    _database(other, "theirs")
    link = os.link

    def late(source: Path, target: Path) -> None:
        shutil.copy(other, target)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert optuna.get_all_study_names(open_storage(f"sqlite:///{path}", "create")) == ["theirs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.db", "shared.db"]


def _refused(url: str, purpose: Purpose = "read") -> str:
    """The message of a storage that cannot be opened, which must come at once."""
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        open_storage(url, purpose)
    assert time.monotonic() - begun < 5
    return str(caught.value)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user who may not do everything, as whom the test runs."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    else:
        yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def test_a_schema_of_an_older_optuna_names_the_command_that_upgrades_it(tmp_path: Path) -> None:
    url = _database(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    message = _refused(url)
    assert "older Optuna" in message and f"cp {tmp_path}/a.db {tmp_path}/a.db.old" in message
    command = message.rpartition("optuna ")[2].split()
    assert command == ["storage", "upgrade", "--storage", url]
    run = "import sys; from optuna.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", run, *command], check=True, capture_output=True)
    open_storage(url)


def test_a_schema_of_a_newer_optuna_is_told_apart(tmp_path: Path) -> None:
    url = _database(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    assert "newer Optuna" in (message := _refused(url)) and "pip install -U optuna" in message


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
@pytest.mark.parametrize("purpose", ["create", "read"])
def test_a_missing_folder_is_to_be_made(tmp_path: Path, kind: str, purpose: Purpose) -> None:
    message = _refused(f"{kind}{tmp_path}/no such/x", purpose)
    assert message.endswith(f"make it: mkdir -p '{tmp_path}/no such'")
    assert not (tmp_path / "no such").exists()


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
@pytest.mark.parametrize("purpose", ["write", "read"])
def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path, kind: str, purpose: Purpose) -> None:
    message = _refused(f"{kind}{tmp_path}/x", purpose)
    assert f"there is no file {tmp_path}/x" in message and "storage.txt" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_a_folder_is_no_storage(tmp_path: Path, kind: str) -> None:
    assert "is a folder" in _refused(f"{kind}{tmp_path}", "create")
    assert "is a folder" in _refused("journal:", "create")


def test_a_storage_in_memory_keeps_nothing() -> None:
    assert "keeps nothing" in _refused("sqlite://", "create")
    assert "keeps nothing" in _refused("sqlite:///:memory:", "create")


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(5000), b"not a database", b"SQLite format 2\0" * 99]
)
@pytest.mark.parametrize("purpose", ["create", "read"])
def test_what_is_no_database_is_told_at_once(
    tmp_path: Path, content: bytes, purpose: Purpose
) -> None:
    (tmp_path / "x.db").write_bytes(content)
    message = _refused(f"sqlite:///{tmp_path / 'x.db'}", purpose)
    assert f"{tmp_path}/x.db is not an SQLite database" in message
    assert (tmp_path / "x.db").read_bytes() == content


def test_a_database_that_is_damaged_inside_names_the_way_to_save_it(tmp_path: Path) -> None:
    _database(path := tmp_path / "x.db", "a")
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    message = _refused(f"sqlite:///{path}")
    assert f"sqlite3 {path} .recover | sqlite3 {path}.recovered" in message


def test_what_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("once upon a time\nand more\n")
    opened = None
    with (
        pytest.raises(UserError, match="is not a journal of Optuna"),
        storage_errors(f"journal:{tmp_path}/x.log", opening=True),
    ):
        opened = open_storage(f"journal:{tmp_path}/x.log")
    assert opened is None


@pytest.mark.parametrize(("lock", "purpose"), [("EXCLUSIVE", "read"), ("IMMEDIATE", "write")])
def test_a_database_that_another_process_locks_is_told_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, purpose: Purpose
) -> None:
    url = _database(tmp_path / "x.db", "a")
    monkeypatch.setattr(storage, "PROBE_SECONDS", 0.2)
    arguments = [sys.executable, "-c", LOCKER, str(tmp_path / "x.db"), lock]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        message = _refused(url, purpose)
        other.communicate("")
    assert "locked by another process" in message and f"fuser -v {tmp_path}/x.db" in message
    open_storage(url, purpose)


def test_a_lock_in_the_middle_of_a_search_is_told_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.2)
    url = _database(tmp_path / "x.db", "a")
    study = optuna.load_study(study_name="a", storage=open_storage(url, "write"))
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="locked by another process"), storage_errors(url):
        study.set_user_attr("key", 1)
    other.close()


def test_errors_that_are_not_the_storages_pass() -> None:
    with pytest.raises(ValueError, match="mine"), storage_errors("journal:x"):
        raise ValueError("mine")


def test_what_may_not_be_written_can_be_read(unprivileged: Path) -> None:
    path = unprivileged / "x.db"
    url = _database(path, "a")
    path.chmod(0o400)
    assert optuna.get_all_study_names(open_storage(url)) == ["a"]
    assert _refused(url, "write").endswith(f"may not be written by this user: chmod u+w {path}")
    path.chmod(0o000)
    assert _refused(url).endswith(f"cannot be read: chmod u+r {path}")
    path.chmod(0o600)
    unprivileged.chmod(0o500)
    assert f"the folder {unprivileged} may not be written" in _refused(url, "write")
    assert f"the folder {unprivileged} may not" in _refused(f"journal:{unprivileged}/y", "create")


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_a_storage_that_moved_with_its_folder_is_found_there(tmp_path: Path, kind: str) -> None:
    old, new = tmp_path / "old" / "x", tmp_path / "new" / "y"
    old.mkdir(parents=True)
    (old / "storage.txt").write_text(f"{kind}{old}/trials.store\nx\n")
    (old / "trials.store").touch()
    assert storage_of(old) == f"{kind}{old}/trials.store"
    new.parent.mkdir()
    old.rename(new)
    assert storage_of(new) == f"{kind}{new}/trials.store"


def test_urls_of_one_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_same_storage("sqlite:///a/../x.db", f"sqlite:///{tmp_path}/x.db?timeout=5")
    assert not is_same_storage("sqlite:///x.db", "sqlite:///y.db")
    assert is_same_storage("mysql://me:old@host/a", "mysql://me:new@host/a")
    assert not is_same_storage("mysql://me:old@host/a", "mysql://me:old@host/b")


def test_a_study_is_found_under_the_name_it_was_made_with(tmp_path: Path) -> None:
    (folder := tmp_path / "renamed").mkdir()
    url = _database(folder / "study.db", "made")
    assert study_in(open_storage(url), folder, url) == "made"
    database = _database(tmp_path / "all.db", "made", "renamed")
    (folder / "storage.txt").write_text(f"{database}\nmade\n")
    assert study_in(open_storage(database), folder, database) == "made"
    (folder / "storage.txt").write_text(database)
    assert study_in(open_storage(database), folder, database) == "renamed"
