"""A process that does nothing but run a file by its own runtime, and the other end of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from nasdistill.common.errors import UserError
from nasdistill.common.types import FormatName
from nasdistill.deployment.formats import FORMATS

WARM_UP = 5


class FreshRuntime:
    """A file, loaded in a process of its own.

    Args:
        path: The file.
        name: Its format.
        threads: Threads of its runtime.
    """

    def __init__(self, path: Path, name: FormatName, threads: int) -> None:
        self._path = path
        home, paths = Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")
        if home.name not in ("site-packages", "dist-packages"):  # else it is found anyway
            paths = os.pathsep.join(filter(None, (str(home), paths)))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, name, str(path), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def answers(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The file's logits `[B, classes]` on pictures uint8 `[B, C, H, W]`.

        Raises:
            UserError: If its runtime cannot load or run it.
        """
        return self._ask(0.0, pictures)

    def times(self, pictures: NDArray[np.uint8], seconds: float) -> list[float]:
        """Milliseconds of each call on the same pictures, repeated for so many seconds.

        Raises:
            UserError: If its runtime cannot load or run it.
        """
        times: list[float] = self._ask(seconds, pictures).tolist()
        return times

    def _ask(self, seconds: float, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{seconds}\n".encode())
            _send(process.stdin, pictures)
            return _receive(process.stdout)
        except (OSError, ValueError, EOFError):  # it has ended
            process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1][:300] if lines else f"it ended with status {process.returncode}"
            raise UserError(f"{self._path}: its own runtime cannot run it ({reason})") from None


def _send(stream: IO[bytes], array: NDArray[Any]) -> None:
    buffer = io.BytesIO()  # NumPy asks a pipe where it stands
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    stream.write(f"{len(content)}\n".encode() + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> NDArray[Any]:
    content = stream.read(int(stream.readline()))
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def main() -> None:
    """Loads a file and answers requests until there are no more.

    A request is a line with seconds (0 for answers) and an array of pictures; the reply is an
    array of logits, or of milliseconds.
    """
    name, path, threads = sys.argv[1:]
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a runtime prints is no reply
    format = FORMATS[name]  # type: ignore[index]
    answer = format.open(Path(path), int(threads))
    while line := requests.readline():
        pictures = _receive(requests)
        if format.around is None:
            pictures = pictures.astype(np.float32) / np.float32(255)
        seconds = float(line)
        if not seconds:
            step = 1 if format.one_at_a_time else len(pictures)
            calls = [pictures[at : at + step] for at in range(0, len(pictures), step)]
            _send(replies, np.concatenate([answer(call) for call in calls]))
            continue
        for _ in range(WARM_UP):
            answer(pictures)
        times, until = list[float](), time.perf_counter() + seconds
        while not times or time.perf_counter() < until:
            start = time.perf_counter()
            answer(pictures)
            times.append(1000 * (time.perf_counter() - start))
        _send(replies, np.array(times))


if __name__ == "__main__":
    main()
