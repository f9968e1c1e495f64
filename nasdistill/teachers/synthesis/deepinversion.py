"""One batch of images, from noise to pixels that the teacher knows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nasdistill.common.errors import UserError
from nasdistill.teachers.synthesis.losses import Weights, normalisation, total_loss, watch
from nasdistill.teachers.teacher import Teacher

SHIFT = 2  # pixels
EVERY = 25  # steps between two signs of life


@dataclass(frozen=True)
class Progress:
    """A sign of life.

    Attributes:
        images: Images finished.
        count: Images wanted.
        step: Steps done of the batch in progress.
        steps: Steps of a batch.
        loss: Of the last step; nan before the first.
        warning: What the caller should know of this teacher; empty for nothing.
    """

    images: int
    count: int
    step: int
    steps: int
    loss: float
    warning: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Plan:
    """All that the images depend on, beside the teacher."""

    steps: int
    seed: int
    batch: int
    rate: float
    contrast: float
    weights: Weights


class _Canvas:
    """A batch of images as the weights of cosine waves, and the way from these to pixels."""

    def __init__(self, teacher: Teacher, plan: Plan, generator: torch.Generator) -> None:
        channels, (height, width) = teacher.input.channels, teacher.input.size
        known = normalisation(teacher.module)
        device = next(teacher.module.parameters(), torch.empty(0)).device
        self._rows, self._columns = _cosines(height).to(device), _cosines(width).to(device)
        frequency_HW = torch.hypot(
            torch.arange(height)[:, None] / height, torch.arange(width)[None] / width
        )
        loudness_HW = 1 / (frequency_HW * max(height, width) + 1)  # falls as in photographs
        scale = plan.contrast * math.sqrt(height * width) / loudness_HW.norm()
        self._loudness = (scale * loudness_HW).to(device)
        grey = torch.full((1, 1, 1, 1), 0.5) if known is None else known[0]
        # Keeps the mean through the logistic function (MacKay, 1992).
        self._middle = grey.to(device).logit(0.01) * math.sqrt(1 + math.pi * plan.contrast**2 / 8)
        waves = torch.randn(plan.batch, channels, height, width, generator=generator)
        self.waves = waves.to(device).requires_grad_()

    def images(self) -> Tensor:
        """Pixels, float32 `[B, C, H, W]` in [0, 1]."""
        drawn: Tensor = self._rows.T @ (self._loudness * self.waves) @ self._columns
        return (drawn + self._middle).sigmoid()


def _cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (Ahmed, Natarajan, Rao, 1974) as a matrix."""
    steps = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (steps + 0.5) * steps[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _jitter(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts all images alike by up to two pixels, zeros coming in, and mirrors half the time."""
    down, along = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    height, width = images_BCHW.shape[2:]
    padded = F.pad(images_BCHW, (SHIFT,) * 4)[..., down : down + height, along : along + width]
    return padded.flip(3) if torch.rand((), generator=generator) < 0.5 else padded


def make(
    teacher: Teacher, plan: Plan, first: int, count: int, tell: OnProgress
) -> tuple[Tensor, Tensor]:
    """The batch that begins with image number `first`."""
    generator = torch.Generator().manual_seed(_seed(plan.seed, first))
    picture = _Canvas(teacher, plan, generator)
    labels_B = torch.arange(first, first + plan.batch) % teacher.classes
    targets_B = labels_B.to(picture.waves.device)
    optimiser = torch.optim.Adam([picture.waves], lr=plan.rate, betas=(0.5, 0.9))
    with watch(teacher.module) as moments, torch.enable_grad():
        for step in range(plan.steps):
            optimiser.param_groups[0]["lr"] = plan.rate * _cosine(step / plan.steps)
            shown_BCHW = _jitter(picture.images(), generator)
            loss = total_loss(teacher, shown_BCHW, targets_B, moments, plan.weights)
            # Not backward(), which would leave gradients on a teacher that is not frozen.
            picture.waves.grad = torch.autograd.grad(loss, picture.waves)[0]
            optimiser.step()
            if (step + 1) % EVERY == 0 or step + 1 == plan.steps:
                _check(loss.item(), first, step + 1, plan)
                done = first if step + 1 < plan.steps else min(count, first + plan.batch)
                tell(Progress(done, count, step + 1, plan.steps, loss.item()))
    images = picture.images().detach().mul(255).round()
    return images.to(torch.uint8).cpu(), labels_B


def _cosine(progress: float) -> float:
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2


def _check(loss: float, first: int, step: int, plan: Plan) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the synthesis went astray: the loss became {loss} by step {step} of the images from "
            f"{first} on. Does the teacher give finite answers? Else lower the rate ({plan.rate:g})"
        )


def _seed(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
