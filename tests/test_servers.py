"""Studies on real servers: workers killed, connections cut, servers restarted, URLs that are wrong.

Skipped where PostgreSQL is not installed (apt-get install postgresql).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from postgres import PASSWORD, Server, free_port, programs
from small_study import prepare

from nasdistill.common.errors import UserError
from nasdistill.recipe import load_recipe
from nasdistill.results import Candidate, load_study, open_storage
from nasdistill.results.servers import Patience
from nasdistill.study import Study
from nasdistill.workers.process import started_workers

pytest.importorskip("psycopg")
pytestmark = pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")

HERE = Path(__file__).parent
TRIALS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres.running() as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    """Of a database of this test's own."""
    server.do("DROP DATABASE IF EXISTS studies WITH (FORCE)")
    server.do("CREATE DATABASE studies")
    return server.url()


def started(url: str, folder: Path, count: int) -> list[subprocess.Popen[str]]:
    """Workers that have opened the study: what is disturbed is their work, not their start."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    workers = [
        subprocess.Popen(
            [sys.executable, str(HERE / "server_worker.py"), str(TRIALS)],
            cwd=folder,
            env={**os.environ, "STORAGE": url, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdin is not None
        first = worker.stdout.readline()
        assert first == "opened\n", first + worker.communicate()[0]
    for worker in workers:
        worker.stdin.write("begin\n")
        worker.stdin.flush()
    return workers


def end(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def ended(candidates: list[Candidate]) -> int:
    return sum(candidate.state == "complete" for candidate in candidates)


def wait_for(study: Study, count: int) -> None:
    until = time.monotonic() + 200
    while ended(study.candidates()) < count:
        assert time.monotonic() < until, Counter(c.state for c in study.candidates())
        time.sleep(0.05)


def opened(url: str, folder: Path, **options: object) -> Study:
    given = {"storage": url, "trials": TRIALS, "space": "mlp", "sampler": "random", **options}
    return Study.open(load_recipe(folder / "recipe.yaml", given), folder / "studies", "a test")


def assert_whole(study: Study, total: int) -> None:
    """Asserts that a study has as many trials as it should, each once, and each whole."""
    candidates = study.candidates()
    assert Counter(c.state for c in candidates) == {"complete": total}
    assert len({c.fingerprint for c in candidates}) == total
    assert all(len(c.rungs) == 2 for c in candidates)


def test_nothing_is_lost_with_workers_killed_connections_cut_and_the_server_restarted(
    server: Server, url: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    study = opened(url, tmp_path)
    workers = started(url, tmp_path, 4)
    try:
        wait_for(study, 3)
        workers[0].send_signal(signal.SIGKILL)
        wait_for(study, 7)
        assert server.cut_connections() >= 4
        wait_for(study, 11)
        server.control("restart")
    except BaseException:
        end(workers)
        raise
    outputs = [worker.communicate(timeout=200)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0, 0], outputs
    assert_whole(study, TRIALS)
    assert any("does not answer; waiting for it" in text for text in outputs)
    assert PASSWORD not in "".join(outputs)


def test_the_password_stands_in_the_owner_s_file_alone(url: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    opened(url, tmp_path)
    (kept,) = (tmp_path / "studies").glob("*/storage.txt")
    assert PASSWORD in kept.read_text() and kept.stat().st_mode & 0o077 == 0
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path != kept]
    assert others and not any(PASSWORD.encode() in path.read_bytes() for path in others)


def test_a_worker_is_told_the_password_and_its_command_line_is_not(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    study = opened(url, Path(), workers=2)
    with started_workers(study, lambda event: None) as pool:
        pool.assign("open", 2)
        assert pool.wait_for_replies(90) == [0.0], "it has opened the study"
        (worker,) = pool.others
        listed = subprocess.run(
            ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
        )
        assert str(worker.pid) in listed.stdout
        assert PASSWORD not in listed.stdout


def refused(url: str, purpose: str = "create") -> str:
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        open_storage(url, purpose)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 30, "whoever does not answer is not waited for long"
    assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_password_is_one_message(server: Server, url: str) -> None:
    text = refused(server.url(password="guessed"))
    assert "refuses the user or the password" in text and "guessed" not in text


def test_a_database_that_is_not_there_is_one_message(server: Server) -> None:
    assert "make the database" in refused(server.url("elsewhere"))


def test_a_schema_without_rights_is_one_message(server: Server, url: str) -> None:
    server.do("DROP ROLE IF EXISTS guest")
    server.do(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    assert "GRANT USAGE, CREATE ON SCHEMA" in refused(server.url(user="guest"))


def test_a_server_that_does_not_listen_is_one_message() -> None:
    text = refused(f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{free_port()}/studies")
    assert "does not answer" in text


def test_a_driver_that_is_missing_is_named_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    text = refused(f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1/studies")
    assert "pip install 'nasdistill[postgres]'" in text


def test_a_server_that_stays_away_is_one_message_and_the_study_goes_on_later(
    server: Server, url: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    study = opened(url, tmp_path)
    patience: Patience = study.patience
    patience.away_seconds = 1.0
    messages: list[str] = []
    study.news = messages.append
    server.control("stop")
    try:
        with pytest.raises(UserError, match=r"has not answered for 1 s\. Nothing .* is lost"):
            study.candidates()
    finally:
        server.control("start")
    assert len(messages) == 1 and PASSWORD not in messages[0]
    assert study.candidates() == []
    again = opened(url, tmp_path)
    assert again.claim(again.proposer().propose(0), {"params": 1000, "macs": 1000}) == 0, (
        "it goes on"
    )
    assert len(load_study("small", tmp_path / "studies").candidates) == 1
