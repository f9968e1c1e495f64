"""A teacher that cannot be run here: only a table of its outputs is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.data import Dataset
from nasdistill.teachers.teacher import Teacher


class Absent(nn.Module):
    """Takes the place of a teacher's module where there is none."""

    def forward(self, images: Tensor) -> Tensor:
        """Is never called."""
        raise AssertionError("a recorded teacher cannot be run")


def recorded_teacher(spec: str, dataset: Dataset) -> Teacher:
    """Makes a teacher from `table:PATH`; `targets.TableTargets` gives its logits.

    Args:
        spec: `table:PATH`.
        dataset: The data that were recorded.

    Raises:
        UserError: If there is no such file.
    """
    digest = table_hash(Path(spec.removeprefix("table:")), f"--teacher {spec}")
    card = {"name": spec, "source": "table"}
    return Teacher(spec, Absent(), dataset.input, len(dataset.classes), digest, card)


def table_hash(path: Path, source: str) -> str:
    """The hash of a table's file, which names its answers; 32 hexadecimal digits.

    Args:
        path: The file.
        source: The beginning of the message if it cannot be read.

    Raises:
        UserError: If there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{source}: {path}: there is no such file")
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise UserError(f"{source}: {path}: {error.strerror}") from None
