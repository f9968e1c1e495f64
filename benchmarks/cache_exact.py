"""Are remembered answers those that the teacher would give now, to the same picture?

Every example of the shipped data is looked at in two views. Its remembered answer is held against
the teacher asked anew: in the same blocks of 500 as the cache asks in, and in the batches of 64
that training sees, in which rounding may fall out otherwise. Filled in one process, which also
notes what the teacher said there in float32; read, and asked anew, in another.

    python benchmarks/cache_exact.py [--device cuda]

Target: asked in the same blocks, equal in float32 bit for bit before rounding to float16, and at
most 0.01 apart after it.
"""

from __future__ import annotations

import argparse
import tempfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from common import Setting, machine, markdown, met, open_setting, write
from numpy.typing import NDArray
from torch import nn

from nasdistill.teachers.logit_cache import BLOCK
from nasdistill.training.precision import emulates_bf16

VIEWS = 2


def opened(precision: str, device: str, folder: str) -> Setting:
    """The shipped job, with answers in a folder of their own."""
    recipe_precision = "fp32" if precision == "fp32" else "auto"
    return open_setting(device=device, cache=Path(folder), views=VIEWS, precision=recipe_precision)


def fill(precision: str, device: str, folder: str) -> NDArray[np.float32]:
    """Asks the teacher for all answers, in a process of its own.

    Returns:
        What it says in the cache's blocks, `[views, examples, classes]`.
    """
    setting = opened(precision, device, folder)
    train, teacher = setting.data.train, setting.teacher
    setting.setup.prepare(VIEWS * len(train), 0)
    batches = train.batches(plan_of(len(train), BLOCK), teacher.input.size)
    answers = [teacher.logits(batch.images).cpu() for batch in batches]
    return torch.cat(answers).reshape(VIEWS, -1, teacher.classes).numpy()


def plan_of(count: int, size: int) -> list[tuple[torch.Tensor, int]]:
    """All examples that fill whole batches, in order, view by view."""
    ids = torch.arange(count // size * size)
    return [(part, view) for view in range(VIEWS) for part in ids.split(size)]


def compare(setting: Setting, logits_VNC: torch.Tensor, size: int) -> tuple[bool, bool, float]:
    """Holds remembered answers against live ones, asked in batches of `size` consecutive examples.

    Returns:
        Whether every live answer is what was said when the cache was filled, in float32; whether,
        rounded to float16, it is the remembered one; the largest difference from that.
    """
    setup, train, teacher = setting.setup, setting.data.train, setting.teacher
    setup.prepare(VIEWS * len(train), 0)
    answers = setup.targets["teacher"]
    before, after, largest = True, True, 0.0
    for batch in train.batches(plan_of(len(train), size), teacher.input.size):
        kept = answers.cache.logits(batch)  # type: ignore[attr-defined]
        live = teacher.logits(batch.images)
        before = before and torch.equal(live.cpu(), logits_VNC[batch.view, batch.ids_host])
        after = after and torch.equal(live.half(), kept)
        largest = max(largest, float((live - kept.float()).abs().max()))
    return before, after, largest


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    rows, results = [], {}
    emulated = emulates_bf16(nn.Conv2d(1, 1, 1, device=device))
    precisions = ("fp32",) if emulated else ("fp32", "bf16")
    for precision in precisions:
        with tempfile.TemporaryDirectory() as folder:
            with get_context("spawn").Pool(1) as pool:
                logits_VNC = torch.from_numpy(pool.apply(fill, (precision, device, folder)))
            setting = opened(precision, device, folder)
            for size in (BLOCK, setting.recipe.batch_size):
                before, after, largest = compare(setting, logits_VNC, size)
                one = {"equal before": before, "equal after": after, "largest": largest}
                results[f"{precision}, {size}"] = one
                yes = ["yes" if equal else "no" for equal in (before, after)]
                rows.append([precision, size, *yes, f"{largest:.2g}"])
            assert setting.setup.targets["teacher"].cache.asked == 0  # type: ignore[attr-defined]
    same = [results[f"{precision}, {BLOCK}"] for precision in precisions]
    text = (
        f"{VIEWS} views of {len(setting.data.train):,} examples. In the cache's own blocks: equal "
        f"before rounding: {met(all(f['equal before'] for f in same))}; at most 0.01 apart after "
        f"it: {met(all(f['largest'] <= 0.01 for f in same))}.\n\n"
    )
    head = [
        "teacher in",
        "asked in batches of",
        "equal in float32",
        "equal as float16",
        "largest difference",
    ]
    write("cache_exact", {"machine": machine(device), **results}, text + markdown(head, rows))


if __name__ == "__main__":
    main()
