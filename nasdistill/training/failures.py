"""Errors that end one training and leave the study going."""

from __future__ import annotations

import torch

from nasdistill.common.errors import UserError
from nasdistill.training.loop import Diverged

FAILURES = (Diverged, MemoryError, RuntimeError, ValueError)
"""Errors of a training that lie with its student: it fails, and the study goes on."""


def failure_reason(error: BaseException) -> str:
    """The reason why a training failed, in one line.

    Raises:
        UserError: If the device itself is broken: whatever follows in this process would fail, too.
    """
    message = " ".join(str(error).split())[:300]
    if isinstance(error, torch.AcceleratorError):
        raise UserError(
            f"the device failed: {message}. What was saved is kept; start the command again"
        ) from error
    return message or type(error).__name__
