"""Files by a URL: carried whole, refused in one message, tried again."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from nasdistill.common import shared_files
from nasdistill.common.errors import UserError
from nasdistill.common.shared_files import FilesAtURL, Place, reach


@contextmanager
def alone(name: str, wait: bool) -> Iterator[bool]:
    yield True


def files_of(host: Path, url: str, name: str = "small") -> FilesAtURL:
    """The files of one host, whose studies lie in a folder of its own."""
    folder = host / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    return FilesAtURL(reach(url), folder, "small", alone)


def test_a_file_and_a_folder_come_to_another_host_and_go(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared"
    one = files_of(tmp_path / "one", url)
    two = files_of(tmp_path / "two", url, "renamed")
    trunk = tmp_path / "one/studies/small/trials/3/trunk.pt"
    trunk.parent.mkdir(parents=True)
    trunk.write_bytes(b"first rung")
    one.push(trunk)
    there = tmp_path / "two/studies/renamed/trials/3/trunk.pt"
    assert two.fetch(there) and there.read_bytes() == b"first rung"
    trunk.write_bytes(b"second rung")
    one.push(trunk.parents[1])
    assert two.fetch(there.parents[1]) and there.read_bytes() == b"second rung"
    beside = tmp_path / "one/studies/.teachers/ab"
    beside.mkdir(parents=True)
    (beside / "input.json").write_text("{}")
    one.push(beside)
    assert two.fetch(tmp_path / "two/studies/.teachers/ab")
    assert (tmp_path / "two/studies/.teachers/ab/input.json").read_text() == "{}"
    assert two.names(there.parents[1]) == ["3"]
    two.remove(there.parent)
    assert not there.exists() and two.names(there.parents[1]) == []
    assert not one.fetch(trunk) and trunk.exists(), "what is not there replaces nothing"


def test_a_name_that_leads_out_of_the_folder_is_not_fetched(tmp_path: Path) -> None:
    store, folder = fsspec.filesystem("memory"), tmp_path / "studies/small"
    store.pipe_file("/bucket/small/finals/1/card", b"good")
    store.store["/bucket/small/finals/1/../../../../bad"] = store.store[
        "/bucket/small/finals/1/card"
    ]
    files = FilesAtURL(Place("memory://bucket", store, "/bucket"), folder, "small", alone)
    assert files.fetch(folder / "finals/1")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["card"]


def test_the_file_that_makes_a_final_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, order = f"file://{tmp_path}/shared", list[str]()
    one, two = files_of(tmp_path / "one", url), files_of(tmp_path / "two", url)
    final = tmp_path / "one/studies/small/finals/1"
    final.mkdir(parents=True)
    for name in ("README.md", "metrics.json", "model.onnx"):
        (final / name).write_text(name)
    write = FilesAtURL._write

    def recording(self: FilesAtURL, key: str, content: bytes) -> None:
        order.append(key.rpartition("/")[2])
        write(self, key, content)

    monkeypatch.setattr(FilesAtURL, "_write", recording)
    one.push(final)
    assert order[-1] == "metrics.json" and len(order) == 3
    written, write_whole = list[str](), shared_files.write_whole
    monkeypatch.setattr(
        shared_files,
        "write_whole",
        lambda path, content: (written.append(path.name), write_whole(path, content)),
    )
    two.fetch(tmp_path / "two/studies/small/finals/1")
    assert written[-1] == "metrics.json" and len(written) == 3


def test_nobody_reads_half_of_a_file(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared"
    one, two = files_of(tmp_path / "one", url), files_of(tmp_path / "two", url)
    path, contents = tmp_path / "one/studies/small/trunk.pt", [b"a" * 2_000_000, b"b" * 2_000_000]
    one.write(path, contents[0])
    writer = threading.Thread(
        target=lambda: [one.write(path, contents[n % 2]) for n in range(60)], daemon=True
    )
    writer.start()
    there, reads = tmp_path / "two/studies/small/trunk.pt", 0
    while writer.is_alive() or reads < 5:
        assert two.read([there])[there] in contents
        reads += 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://studies", "the memory of one process, which no other process sees"),
        ("s4://bucket/studies", "unknown protocol 's4'; allowed: file, s3, gs"),
        ("ftp://127.0.0.1:1/studies", "cannot be used: .*refused"),
        ("file:///dev/null/studies", "cannot be used: Not a directory: .*/dev/null"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_message(url: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--files {url}: .*{message}") as raised:
        reach(url)
    assert "\n" not in str(raised.value)


def test_a_driver_that_is_not_installed_is_named_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'nasdistill\[s3\]'"):
        reach("s3://bucket/studies")


def test_a_url_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(shared_files, "OPENING_SECONDS", 0.1)
    monkeypatch.setattr(shared_files, "_open", lambda *_: answer.wait())
    with pytest.raises(UserError, match="cannot be used: no answer in"):
        reach("file:///anywhere")
    answer.set()


def test_what_fails_for_a_moment_is_tried_again_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, shared = files_of(tmp_path / "one", f"file://{tmp_path}/shared"), tmp_path / "shared"
    path = tmp_path / "one/studies/small/recipe.yaml"
    path.write_text("space: tiny\n")

    def break_it() -> None:
        shutil.rmtree(shared)
        shared.write_text("a file in the place of the folder")

    waits: list[float] = []

    def mend_it(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            shared.unlink()

    monkeypatch.setattr("time.sleep", mend_it)
    break_it()
    one.push(path)
    assert len(waits) == 3 and (shared / "small/recipe.yaml").read_text() == "space: tiny\n"
    break_it()
    with pytest.raises(UserError, match="Nothing that was stored is lost: give the same command"):
        one.push(path)
    assert waits[3:] == list(shared_files.WAITS)
