"""Images from the teacher alone, for distilling without data."""

from nasdistill.teachers.synthesis.deepinversion import Progress
from nasdistill.teachers.synthesis.losses import (
    Weights,
    batch_norm_loss,
    batch_norms,
    diversity_loss,
    watch,
)
from nasdistill.teachers.synthesis.synthesise import synthesise

__all__ = [
    "Progress",
    "Weights",
    "batch_norm_loss",
    "batch_norms",
    "diversity_loss",
    "synthesise",
    "watch",
]
