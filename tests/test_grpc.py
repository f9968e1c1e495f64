"""Studies through Optuna's gRPC proxy: in front of PostgreSQL, or of SQLite where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import postgres
import pytest
from small_study import prepare
from test_servers import assert_whole, opened, refused, started, wait_for

from nasdistill.common.errors import UserError
from nasdistill.results import open_storage

pytest.importorskip("grpc")

PROXY = """
import os, optuna
storage = optuna.storages.get_storage(os.environ["DATABASE"])
optuna.storages.run_grpc_proxy_server(storage, host="localhost", port=int(os.environ["PORT"]))
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if postgres.programs() is None:
        yield f"sqlite:///{tmp_path_factory.mktemp('proxied')}/study.db"
    else:
        pytest.importorskip("psycopg")
        with postgres.running() as server:
            yield server.url()


@contextmanager
def proxy(database: str, port: int) -> Iterator[None]:
    environment = {**os.environ, "DATABASE": database, "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", PROXY], env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_nothing_is_lost_with_a_worker_and_the_proxy_killed(database: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    port = postgres.free_port()
    url = f"grpc://localhost:{port}"
    with proxy(database, port):
        study = opened(url, tmp_path)
        workers = started(url, tmp_path, 3)
        wait_for(study, 3)
        workers[0].send_signal(signal.SIGKILL)
        wait_for(study, 7)
    with proxy(database, port):
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0], outputs
        assert_whole(study, 24)
    assert any("does not answer; waiting for it" in text for text in outputs)


def test_a_proxy_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdistill.results.servers.OPENING_SECONDS", 1)
    assert "does not answer" in refused(f"grpc://localhost:{postgres.free_port()}")


@pytest.mark.parametrize("url", ["grpc://localhost", "grpc://me:zz-secret-qq@host:13000"])
def test_the_form_of_its_url_is_told(url: str) -> None:
    assert "write grpc://HOST:PORT" in refused(url)


def test_grpcio_that_is_missing_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(UserError, match=r"pip install 'nasdistill\[grpc\]'"):
        open_storage("grpc://localhost:13000")
