"""The proof of a file: what its own runtime makes of it, in a fresh process, beside fp32."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nasdistill.common.events import Emit, telling
from nasdistill.common.locks import quiet
from nasdistill.common.types import FormatName, Input, ScoreName
from nasdistill.data import Dataset, Split
from nasdistill.deployment.formats import FORMATS, engine_version
from nasdistill.deployment.runtime import FreshRuntime
from nasdistill.models import Classifier
from nasdistill.models.artifact import preparation_of
from nasdistill.models.export import TOLERANCE
from nasdistill.results.files import problems_of
from nasdistill.training.metrics import (
    MEASURES,
    accuracy_with_interval,
    agreement,
    balanced_accuracy,
)

TIMED_BATCHES = (1, 64)
TURNS, TURN_SECONDS = 5, 0.12
"""Turns that a file and its fp32 file are timed in, alternating, and the time of each."""
BATCH_BYTES = 32 << 20
"""Of float pictures that a runtime is given at once."""
MOST_BATCH = 256
RANDOM_PICTURES = 64
"""Compared where the data are not at hand."""
ODD_SIZES = ((1, 1), (7, 5), (37, 61), (211, 95), (97, 303), (480, 641))
"""Heights and widths of pictures that a file prepares itself."""


@dataclass
class Proving:
    """What the files of one final are proven with.

    Attributes:
        module: The final, on the CPU in eval mode.
        input: The image that it takes.
        fp32: Its fp32 ONNX file.
        dataset: The study's data; None where they are not at hand.
        score: The study's score.
        limits: The final's checked limits, from its metrics.json.
        max_loss: Points that a file may lose against fp32.
        threads: Threads of the runtimes.
        latency_lock: Held while others are to keep quiet; None where nobody else is at work.
        emit: Told how far it is.
    """

    module: Classifier
    input: Input
    fp32: Path
    dataset: Dataset | None
    score: ScoreName
    limits: Mapping[str, Mapping[str, Any]]
    max_loss: float
    threads: int
    latency_lock: Path | None
    emit: Emit
    _known: dict[str, Any] = field(default_factory=dict)

    def prove(self, path: Path, name: FormatName, bytes: int) -> dict[str, Any]:
        """Loads a file by its own runtime in a fresh process, compares and times it.

        Test data are only told of here: nothing is chosen by them.

        Args:
            path: The file.
            name: Its format.
            bytes: Its size, that of files beside it included.

        Returns:
            JSON values; `problems` are sentences, none where nothing is wrong.

        Raises:
            UserError: If its runtime cannot run it.
        """
        engine = engine_version(FORMATS[name])
        with ExitStack() as processes:
            file = processes.enter_context(FreshRuntime(path, name, self.threads))
            fp32 = processes.enter_context(FreshRuntime(self.fp32, "onnx", self.threads))
            record = self._compare(file, fp32, name)
            batches = TIMED_BATCHES[:1] if FORMATS[name].one_at_a_time else TIMED_BATCHES
            record["latency"] = self._times(file, fp32, engine, batches)
            around = FORMATS[name].around
            if around is not None:
                record["preparation"] = self._preparation(file, around)
        figures = {"engine": engine, "threads": self.threads, "bytes": bytes, **record}
        figures["limits"] = self._limits(figures)
        return figures | {"problems": problems_of(figures, self.max_loss)}

    def _compare(self, file: FreshRuntime, fp32: FreshRuntime, name: str) -> dict[str, Any]:
        if self.dataset is None:
            pictures = _random_pictures(self.input, RANDOM_PICTURES)
            return _differences(file.answers(pictures), self._module_on(pictures))
        test, known = self.dataset.test, self._known
        if "module" not in known:
            known["module"] = self._predict(self._module_on, test, "testing the module")
            known["fp32"] = self._predict(fp32.answers, test, "testing fp32")
        logits = self._predict(file.answers, test, f"testing {name}")
        audit = self._predict(file.answers, self.dataset.audit, f"testing {name} on audit")
        labels = test.labels.cpu()
        measure = MEASURES[self.score]
        share, low, high = accuracy_with_interval(logits, labels)
        return {
            **_differences(logits.numpy(), known["module"].numpy()),
            "test_accuracy": share,
            "test_interval": [low, high],
            "test_balanced_accuracy": balanced_accuracy(logits, labels).share,
            "loss_points": 100
            * (measure(known["fp32"], labels).share - measure(logits, labels).share),
            "agreement": agreement(logits, known["fp32"]),
            "audit_score": measure(audit, self.dataset.audit.labels.cpu()).share,
        }

    def _preparation(self, file: FreshRuntime, around: FormatName) -> dict[str, Any]:
        """What a file makes of pictures as decoded, beside the one without on Pillow's pixels."""
        folder, apart = self.fp32.parent, list[float]()
        preparation = preparation_of(folder)
        with FreshRuntime(folder / FORMATS[around].file, around, self.threads) as plain:
            for picture in _decoded_pictures(self.input.size):
                image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
                expected = plain.answers(preparation.pixels(image)[None])
                logits = file.answers(picture.transpose(2, 0, 1)[None])
                largest = max(1.0, float(np.abs(expected).max()))
                apart.append(float(np.abs(logits - expected).max()) / largest)
        return {
            "pictures": len(apart),
            "apart": sum(not each <= TOLERANCE for each in apart),
            "largest_difference": max(apart),
            "pillow": PIL.__version__,
        }

    @torch.inference_mode()
    def _module_on(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.module(torch.from_numpy(pictures)).numpy()
        return logits

    def _predict(self, answers: Any, split: Split, text: str) -> Tensor:
        """Logits `[N, K]` of all examples of a split."""
        batch = self._most_pictures(MOST_BATCH)
        with_progress = telling(text, "files", len(split), self.emit)
        plan = [(ids, None) for ids in torch.split(torch.arange(len(split)), batch)]
        batches = with_progress(split.batches(plan, self.input.size), batch)
        return torch.cat([torch.from_numpy(answers(b.images.cpu().numpy())) for b in batches])

    def _most_pictures(self, most: int) -> int:
        per_picture = 4 * self.input.channels * self.input.height * self.input.width
        return max(1, min(most, BATCH_BYTES // per_picture))

    def _times(
        self, file: FreshRuntime, fp32: FreshRuntime, engine: str, batches: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Latency of a file, and of the fp32 file beside it, turn by turn in the same minute."""
        lock = self.latency_lock
        kept_quiet: AbstractContextManager[None] = nullcontext() if lock is None else quiet(lock)
        rows = []
        with kept_quiet:
            for batch in batches:
                pictures = _random_pictures(self.input, batch)
                turns = [
                    (file.times(pictures, TURN_SECONDS), fp32.times(pictures, TURN_SECONDS))
                    for _ in range(TURNS)
                ]
                own, beside = ([ms for turn in turns for ms in turn[i]] for i in (0, 1))
                q1, median, q3 = statistics.quantiles(own, n=4)
                rows.append(
                    {
                        "engine": engine,
                        "batch": batch,
                        "threads": self.threads,
                        "median_ms": median,
                        "q1_ms": q1,
                        "q3_ms": q3,
                        "fp32_ms": statistics.median(beside),
                        "repeats": len(own),
                    }
                )
        return rows

    def _limits(self, figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The study's limits that are another matter for this file than for fp32.

        The latency is the final's, as its limit was held, times that of this file ÷ that of fp32
        beside it: a machine that is busier now breaks no limit.
        """
        single = figures["latency"][0]
        values = {"bytes": figures["bytes"], "accuracy": figures.get("audit_score")}
        if "latency" in self.limits:
            values["latency"] = (
                self.limits["latency"]["value"] * single["median_ms"] / single["fp32_ms"]
            )
        return {
            name: {
                "limit": limit["limit"],
                "value": values[name],
                "ok": (values[name] - limit["limit"]) * (-1 if name == "accuracy" else 1) <= 0,
            }
            for name, limit in self.limits.items()
            if values.get(name) is not None
        }


def _differences(logits: NDArray[np.float32], module_logits: NDArray[np.float32]) -> dict[str, Any]:
    apart = np.abs(logits.astype(np.float64) - module_logits)
    return {
        "pictures": len(logits),
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
    }


def _random_pictures(input: Input, count: int) -> NDArray[np.uint8]:
    shape = (count, input.channels, *input.size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _decoded_pictures(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Pictures uint8 `[H, W, C]` of the model's size and of odd ones, of 1 to 4 channels."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (*each, channels), dtype=np.uint8)
        for each in (size, *ODD_SIZES)
        for channels in (1, 2, 3, 4)
    ]
