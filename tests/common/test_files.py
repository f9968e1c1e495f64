"""Files that are either old or new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasdistill.common.files import write_private, write_whole

# A limit on the size of files is met like a full disk, without needing one.
CHILD = """\
import resource, signal, sys
from pathlib import Path
from nasdistill.common.files import write_whole

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_whole(Path(sys.argv[1]), b"new" * 1000)
"""


@pytest.mark.parametrize("content", ["héllo", "héllo".encode()])
def test_a_file_is_replaced(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "it"
    path.write_text("old")
    write_whole(path, content)
    assert path.read_text(encoding="utf-8") == "héllo"
    assert list(tmp_path.iterdir()) == [path]


def test_where_there_is_no_room_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", CHILD, path], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_text_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "b\udcff")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "b\udcff")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "it", "new")
    assert list(tmp_path.iterdir()) == []
