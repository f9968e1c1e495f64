"""Files that are either old or new, never half."""

from __future__ import annotations

import os
from pathlib import Path

STUDIES = Path("studies")
REPORTS = Path("reports")


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file beside its place and moves it there: a kill or a full disk spoils nothing.

    Args:
        path: The file; one that exists is replaced.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: If there is no room, or no permission; the old file is then as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
