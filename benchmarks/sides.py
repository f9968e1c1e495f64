"""The sides that speed is measured on: our engine as trials use it, and the loop most people write.

Both train the same student, from the same weights, on the same examples in the same order, with the
same batch size, learning rates, AdamW and loss (α·labels + (1 − α)·T²·KL). Crops and flips are
drawn alike, but not the same ones; the common loop's AdamW also decays norms and biases, as most
write it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from common import Setting, clock
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from nasdistill import training
from nasdistill.data import Dataset, ResidentSplit, Split
from nasdistill.data.views import SHIFT
from nasdistill.losses import KL
from nasdistill.models import Classifier
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.inference import WHOLE
from nasdistill.results.rungs import COOL_DOWN
from nasdistill.space import Architecture
from nasdistill.training import (
    GraphedSteps,
    LRSchedule,
    Precision,
    Run,
    capturable,
    precision_steps,
    predict,
)
from nasdistill.training.metrics import accuracy
from nasdistill.training.precision import emulates_bf16

WORKERS = 2
Started = tuple[Classifier, Iterator[object]]
"""A student, and its training: the first item comes after the first step."""


def pace_for(setting: Setting, epochs: float) -> LRSchedule:
    """A complete schedule, in whole steps."""
    stream = setting.setup.stream
    end = max(2, round(epochs * stream.steps_per_epoch)) * stream.batch_size
    return LRSchedule(setting.recipe.rate(), end // 5, round(end * (1 - COOL_DOWN)), end)


def build(setting: Setting, architecture: Architecture) -> Classifier:
    """A fresh student, the same on every side."""
    return setting.setup.students(architecture, setting.data, setting.recipe.seed)[0]


def start_ours(
    setting: Setting, architecture: Architecture, lr_schedule: LRSchedule, precision: Precision
) -> Started:
    """Our side; the answers up to the lr_schedule's end must be there."""
    student, batch = build(setting, architecture), setting.recipe.batch_size
    setting.setup.prepare(lr_schedule.end, 0)
    run = setting.setup.run(
        [student],
        horizon=lr_schedule.end,
        lr_schedule=lr_schedule,
        seed=setting.recipe.seed,
        precision=precision,
    )
    capture(run)
    steps = (training.train(run, until) for until in (batch, lr_schedule.end))
    return student, itertools.chain.from_iterable(steps)


def capture(run: Run) -> None:
    """Has steps replayed from a CUDA graph where they can be: a study's probe finds that faster."""
    if capturable(run) is None:
        run.graphed = GraphedSteps()


def score_ours(setting: Setting, student: Classifier) -> float:
    """Accuracy on the score half."""
    return accuracy(*predict(student, setting.data.score, setting.data.input.size))


def probe_ours(setting: Setting, architecture: Architecture) -> Precision:
    """The precision of a kind of student, found as a trial finds it."""
    setup = setting.setup
    student, lr_schedule = build(setting, architecture), LRSchedule(0.0, 1, None, 1)
    run = setup.run([student], horizon=1, lr_schedule=lr_schedule, seed=0, precision="fp32")
    setup.prepare(precision_steps(run) * setup.stream.batch_size, 0)
    return training.fastest_precision(run)


def trial(
    device: torch.device, start: Callable[[], Started], score: Callable[[Classifier], float]
) -> dict[str, Any]:
    """Runs one trial, and times its parts."""
    begin = clock(device)
    student, steps = start()
    next(steps)
    first = clock(device)
    for _ in steps:
        pass
    last = clock(device)
    share = score(student)
    return {
        "start": first - begin,
        "steps": last - first,
        "score": clock(device) - last,
        "accuracy": share,
    }


class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Examples as torchvision's datasets give them: an array, made a PIL image, transformed.

    Args:
        split: The examples, in memory.
        transform: From a PIL image to a tensor.
    """

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        images = cast(ResidentSplit, split).images.cpu().numpy()
        shown = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
        self._images = np.ascontiguousarray(shown)
        self._labels = split.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def plain(data: Dataset) -> Callable[[Image.Image], Tensor]:
    """An image as it is, normalised."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])


def augmented(data: Dataset) -> Callable[[Image.Image], Tensor]:
    """A random crop and flip, normalised."""
    crop = transforms.RandomCrop(data.input.size, padding=SHIFT)
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), plain(data)])


def bare_teacher(setting: Setting) -> nn.Module:
    """The teacher without its normalisation, which the transforms do."""
    module = setting.teacher.module
    assert isinstance(module, Classifier)
    for mine, theirs in ((module.mean, setting.data.mean), (module.std, setting.data.std)):
        assert torch.allclose(mine.flatten().cpu(), torch.tensor(theirs), atol=1e-3)
    return module.net


def weights_of_loss(setting: Setting) -> tuple[float, float]:
    """α and T of the recipe's classic pair."""
    labels, kl = setting.setup.objective.terms
    assert isinstance(kl.term, KL)
    return labels.weight(0.0), kl.term.temperature(0.0)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Lets CUDA multiply in TF32 inside, and look for the fastest convolutions, if `on`."""
    flags = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
    flags.append((torch.backends.cudnn, "benchmark"))
    before = [getattr(*flag) for flag in flags]
    for flag in flags if on else ():
        setattr(*flag, True)
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            setattr(*flag, value)


HALVES = {"fp32": (False, False), "teacher in bf16": (True, False), "bf16": (True, True)}
"""By name: whether the common loop's teacher, and its student, run under bf16 autocast."""


@dataclass
class CommonLoop:
    """The loop most people write.

    Attributes:
        setting: The job.
        tuned: Whether it has autocast, channels_last, fused AdamW, workers that live on, pinned
            memory, and no reading of each step's loss. TF32 is switched outside, see `tf32`.
    """

    setting: Setting
    tuned: bool
    _loaders: dict[tuple[int, int], DataLoader[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = self.setting.data
        self._train = Pictures(data.train, augmented(data))
        self._score = Pictures(data.score, plain(data))
        self._alpha, self._temperature = weights_of_loss(self.setting)
        self._teacher = self._laid_out(copy.deepcopy(bare_teacher(self.setting)))

    def start(self, architecture: Architecture, lr_schedule: LRSchedule, precision: str) -> Started:
        """See `start_ours`; the precision is a key of `HALVES`."""
        student = build(self.setting, architecture).to(self.setting.device)
        return student, self._steps(self._laid_out(student.net), lr_schedule, precision)

    def probe(self, architecture: Architecture, steps: int = 6) -> str:
        """Times a few steps at each precision, and names the fastest."""
        if not self.tuned or emulates_bf16(self._teacher):
            return "fp32"
        device, batch = self.setting.device, self.setting.recipe.batch_size
        seconds = {}
        for name in HALVES:
            _, training = self.start(
                architecture, LRSchedule(1e-3, 1, None, (1 + steps) * batch), name
            )
            next(training)
            begin = clock(device)
            for _ in training:
                pass
            seconds[name] = clock(device) - begin
        return min(seconds, key=lambda name: seconds[name])

    def score(self, student: Classifier) -> float:
        """Accuracy on the score half."""
        net, right = student.net.eval(), 0
        ids = torch.arange(len(self._score)).split(WHOLE.batch)
        with torch.no_grad():
            for images, labels in self._loader(self._score, [part.tolist() for part in ids]):
                logits = net(self._placed(images))
                right += int((logits.argmax(dim=1).cpu() == labels).sum())
        return right / len(self._score)

    def _steps(self, net: nn.Module, lr_schedule: LRSchedule, precision: str) -> Iterator[float]:
        """Trains; gives the mean loss so far."""
        stream, device = self.setting.setup.stream, self.setting.device
        plan = [ids.tolist() for ids, _ in stream.plan(0, stream.steps(lr_schedule.end))]
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=lr_schedule.peak, fused=self.tuned or None
        )
        total = 0.0
        net.train()
        for step, (images, labels) in enumerate(self._loader(self._train, plan)):
            for group in optimizer.param_groups:
                group["lr"] = lr_schedule(step * stream.batch_size)
            images = self._placed(images)
            loss = self._loss(net, images, labels.to(device, non_blocking=self.tuned), precision)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not self.tuned:
                total += loss.item()
            yield total / (step + 1)

    def _loss(self, net: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
        device, temperature = self.setting.device.type, self._temperature
        for_teacher, for_student = HALVES[precision]
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=for_teacher):
            taught = self._teacher(images)
        with torch.autocast(device, torch.bfloat16, enabled=for_student):
            logits = net(images)
        soft = F.kl_div(
            F.log_softmax(logits.float() / temperature, dim=1),
            F.softmax(taught.float() / temperature, dim=1),
            reduction="batchmean",
        )
        hard = F.cross_entropy(logits.float(), labels)
        return self._alpha * hard + (1 - self._alpha) * temperature**2 * soft

    def _loader(self, pictures: Pictures, batches: list[list[int]]) -> DataLoader[Any]:
        """Of these batches; the tuned loop keeps it, and its workers, for the next student."""
        key = (len(pictures), len(batches))
        if key in self._loaders:
            return self._loaders[key]
        loader: DataLoader[Any] = DataLoader(
            pictures,
            batch_sampler=batches,
            num_workers=WORKERS,
            persistent_workers=self.tuned,
            pin_memory=self.tuned and self.setting.device.type == "cuda",
        )
        if self.tuned:
            self._loaders[key] = loader
        return loader

    def _placed(self, images: Tensor) -> Tensor:
        images = images.to(self.setting.device, non_blocking=self.tuned)
        return images.contiguous(memory_format=torch.channels_last) if self.tuned else images

    def _laid_out(self, net: nn.Module) -> nn.Module:
        for layer in net.modules():
            if isinstance(layer, DepthwiseConv2d):  # our gradients are not what people have
                layer.__class__ = nn.Conv2d
        return net.to(memory_format=torch.channels_last) if self.tuned else net
