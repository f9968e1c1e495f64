"""A teacher that cannot be run here: all that is left of it is a table of its answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.data import Dataset
from nasdistill.teachers.teacher import Teacher


class Absent(nn.Module):
    """Stands where the module of a teacher would be."""

    def forward(self, images: Tensor) -> Tensor:
        """Is never called."""
        raise AssertionError("a recorded teacher cannot be run")


def recorded_teacher(spec: str, dataset: Dataset) -> Teacher:
    """A teacher made of `table:PATH`; its answers are read by `answers.TableTargets`.

    Raises:
        UserError: If there is no such file.
    """
    path = Path(spec.removeprefix("table:"))
    if not path.is_file():
        raise UserError(f"--teacher {spec}: there is no such file")
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    card = {"name": spec, "source": "table"}
    return Teacher(spec, Absent(), dataset.input, len(dataset.classes), digest, card)
