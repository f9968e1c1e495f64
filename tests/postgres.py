"""A PostgreSQL server of a test's own, and what it takes to disturb it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "zz-secret-qq"


def programs() -> Path | None:
    """The folder of the server's programs; None where it is not installed."""
    paths = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if paths:
        return paths[-1].parent
    command = shutil.which("initdb")
    return None if command is None else Path(command).parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A server in a folder of its own, which wants a password.

    Args:
        folder: New.
        port: Free.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port

    def url(self, database: str = "studies", user: str = "me", password: str = PASSWORD) -> str:
        """The URL of one of its databases."""
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self._port}/{database}"

    def make(self) -> None:
        """Makes the server's files."""
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        _give_away(self._folder)
        data = str(self._folder / "data")
        _run("initdb", "-D", data, "-U", "me", "-A", "scram-sha-256", f"--pwfile={secret}", "-N")
        with (self._folder / "data/postgresql.conf").open("a") as file:
            file.write(f"port = {self._port}\nlisten_addresses = '127.0.0.1'\nfsync = off\n")
            file.write(f"unix_socket_directories = '{self._folder}'\nmax_connections = 200\n")

    def control(self, *words: str) -> None:
        """Starts, stops or restarts it."""
        log = str(self._folder / "log")
        _run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", "-m", "fast", *words)

    def do(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Does one statement as its owner."""
        import psycopg

        address = self.url(database).replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def cut_connections(self) -> int:
        """Ends every connection but its own; gives how many there were."""
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'studies'"
        return len(self.do(others))


@contextmanager
def running() -> Iterator[Server]:
    """A server with an empty database `studies`, ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = Server(folder, free_port())
    try:
        server.make()
        server.control("start")
        server.do("CREATE DATABASE studies")
        yield server
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.control("stop")
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: str, *words: str) -> None:
    folder = programs()
    assert folder is not None
    command = [str(folder / program), *words]
    if os.geteuid() == 0:  # the server refuses to be root's
        command = ["runuser", "-u", "postgres", "--", *command]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
    assert done.returncode == 0, done.stderr.decode()


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
