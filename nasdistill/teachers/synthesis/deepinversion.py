"""One batch of images, optimised from noise until the teacher takes it for its training data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from nasdistill.common.errors import UserError
from nasdistill.common.seeds import seed_of
from nasdistill.teachers.synthesis.losses import (
    LossWeights,
    normalisation,
    record_moments,
    total_loss,
)
from nasdistill.teachers.teacher import Teacher

SHIFT = 2
"""Most pixels by which images are shifted before the teacher sees them."""
REPORT_EVERY = 25
"""Steps between two reports of progress."""


@dataclass(frozen=True)
class Progress:
    """The state of a synthesis.

    Attributes:
        images: Images finished.
        count: Images to be made.
        step: Steps done of the batch in progress.
        steps: Steps of a batch.
        loss: Of the last step; nan before the first.
        warning: A reason to doubt the images of this teacher, or a damaged file; empty for none.
    """

    images: int
    count: int
    step: int
    steps: int
    loss: float
    warning: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Settings:
    """All that the images depend on, beside the teacher; part of the key of stored images.

    Attributes:
        steps: Of Adam (Kingma, Ba, 2015) on each batch.
        seed: Of the first noise and of the shifts.
        batch: Images optimised together.
        rate: Learning rate, falling along a cosine (Loshchilov, Hutter, 2017).
        contrast: Standard deviation of the first images before the logistic function.
        weights: Of the terms of the loss.
    """

    steps: int = 60
    seed: int = 0
    batch: int = 256
    rate: float = 0.5
    contrast: float = 2.0
    weights: LossWeights = field(default_factory=LossWeights)


class _CosineImages:
    """A batch of images as the coefficients of cosine waves.

    Args:
        teacher: Determines size, channels and first mean of the images.
        settings: Determines their number and their contrast.
        generator: Draws the first coefficients.

    Attributes:
        coefficients: float32 `[B, C, H, W]` with gradients, before they are scaled by frequency.
    """

    def __init__(self, teacher: Teacher, settings: Settings, generator: torch.Generator) -> None:
        channels, (height, width) = teacher.input.channels, teacher.input.size
        moments = normalisation(teacher.module)
        device = next(teacher.module.parameters(), torch.empty(0)).device
        self._rows, self._columns = _cosines(height).to(device), _cosines(width).to(device)
        frequency_HW = torch.hypot(
            torch.arange(height)[:, None] / height, torch.arange(width)[None] / width
        )
        amplitude_HW = 1 / (frequency_HW * max(height, width) + 1)  # falls as in photographs
        scale = settings.contrast * math.sqrt(height * width) / amplitude_HW.norm()
        self._amplitude_HW = (scale * amplitude_HW).to(device)
        mean = torch.full((1, 1, 1, 1), 0.5) if moments is None else moments.mean
        # Keeps the mean through the logistic function (MacKay, 1992).
        factor = math.sqrt(1 + math.pi * settings.contrast**2 / 8)
        self._offset = mean.to(device).logit(0.01) * factor
        noise = torch.randn(settings.batch, channels, height, width, generator=generator)
        self.coefficients = noise.to(device).requires_grad_()

    def pixels(self) -> Tensor:
        """The images, float32 `[B, C, H, W]` in [0, 1]."""
        scaled = self._amplitude_HW * self.coefficients
        waves: Tensor = self._rows.T @ scaled @ self._columns
        return (waves + self._offset).sigmoid()


def _cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (Ahmed, Natarajan, Rao, 1974) as a matrix."""
    steps = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (steps + 0.5) * steps[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _jitter(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts all images alike by up to two pixels, padded by zeros, and mirrors half the time."""
    down, along = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    height, width = images_BCHW.shape[2:]
    padded = F.pad(images_BCHW, (SHIFT,) * 4)[..., down : down + height, along : along + width]
    return padded.flip(3) if torch.rand((), generator=generator) < 0.5 else padded


def make_batch(
    teacher: Teacher, settings: Settings, first: int, count: int, on_progress: OnProgress
) -> tuple[Tensor, Tensor]:
    """Makes the batch that begins with image number `first`.

    Args:
        teacher: The teacher.
        settings: Of the synthesis.
        first: Number of the batch's first image.
        count: Images that the whole synthesis makes.
        on_progress: Called every `REPORT_EVERY` steps, and after the last one.

    Returns:
        Images uint8 `[B, C, H, W]` and their drawn classes int64 `[B]`, on the CPU.

    Raises:
        UserError: If the loss stops being finite.
    """
    generator = torch.Generator().manual_seed(seed_of(settings.seed, first))
    images = _CosineImages(teacher, settings, generator)
    labels_B = torch.arange(first, first + settings.batch) % teacher.classes
    targets_B = labels_B.to(images.coefficients.device)
    optimiser = torch.optim.Adam([images.coefficients], lr=settings.rate, betas=(0.5, 0.9))
    with record_moments(teacher.module) as moments, torch.enable_grad():
        for step in range(settings.steps):
            optimiser.param_groups[0]["lr"] = settings.rate * _cosine(step / settings.steps)
            jittered_BCHW = _jitter(images.pixels(), generator)
            loss = total_loss(teacher, jittered_BCHW, targets_B, moments, settings.weights)
            # Not backward(), which would leave gradients on a teacher that is not frozen.
            images.coefficients.grad = torch.autograd.grad(loss, images.coefficients)[0]
            optimiser.step()
            is_last = step + 1 == settings.steps
            if (step + 1) % REPORT_EVERY == 0 or is_last:
                _check_finite(loss.item(), first, step + 1, settings)
                finished = min(count, first + settings.batch) if is_last else first
                on_progress(Progress(finished, count, step + 1, settings.steps, loss.item()))
    pixels_BCHW = images.pixels().detach().mul(255).round()
    return pixels_BCHW.to(torch.uint8).cpu(), labels_B


def _cosine(progress: float) -> float:
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2


def _check_finite(loss: float, first: int, step: int, settings: Settings) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the synthesis went astray: the loss became {loss} by step {step} of the images from "
            f"{first} on. Does the teacher give finite answers? Else lower the rate "
            f"({settings.rate:g})"
        )
