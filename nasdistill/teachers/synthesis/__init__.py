"""Images from the teacher alone, for distilling without data."""

from nasdistill.teachers.synthesis.deepinversion import Progress
from nasdistill.teachers.synthesis.losses import (
    LossWeights,
    batch_norm_loss,
    batch_norms,
    diversity_loss,
    record_moments,
)
from nasdistill.teachers.synthesis.synthesise import synthesise

__all__ = [
    "LossWeights",
    "Progress",
    "batch_norm_loss",
    "batch_norms",
    "diversity_loss",
    "record_moments",
    "synthesise",
]
