"""Are remembered answers those that the teacher would give now, to the same picture?

Every example of the shipped data is looked at in two views. Its remembered answer is held against
the teacher asked anew: in the same blocks of 500 as the cache asks in, and in the batches of 64
that training sees, in which rounding may fall out otherwise. Filled in one process, read in
another.

    python benchmarks/cache_exact.py [--device cuda]

Target: equal before rounding to float16 (asked in the same blocks, rounding the live answer gives
the remembered one bit for bit), at most 0.01 apart after it.
"""

from __future__ import annotations

import argparse
import tempfile
from multiprocessing import get_context
from pathlib import Path

import torch
from common import Setting, machine, markdown, met, open_setting, write

from nasdistill.cache import BLOCK

VIEWS = 2


def opened(precision: str, device: str, folder: str) -> Setting:
    """The shipped job, with answers in a folder of their own."""
    recipe_precision = "fp32" if precision == "fp32" else "auto"
    return open_setting(device=device, cache=Path(folder), views=VIEWS, precision=recipe_precision)


def fill(precision: str, device: str, folder: str) -> None:
    """Asks the teacher for all answers, in a process of its own."""
    setting = opened(precision, device, folder)
    setting.course.prepare(VIEWS * len(setting.data.train), 0)


def compare(setting: Setting, size: int) -> tuple[bool, float]:
    """Holds remembered answers against live ones, asked in batches of `size` consecutive examples.

    Returns:
        Whether every live answer, rounded to float16, is the remembered one; the largest
        difference before that rounding.
    """
    course, train, teacher = setting.course, setting.data.train, setting.teacher
    course.prepare(VIEWS * len(train), 0)
    answers = course.teachers["teacher"]
    ids = torch.arange(len(train) // size * size)
    plan = [(part, view) for view in range(VIEWS) for part in ids.split(size)]
    equal, largest = True, 0.0
    for batch in train.batches(plan, teacher.input.size):
        kept = answers.cache.logits(batch)  # type: ignore[attr-defined]
        live = teacher.logits(batch.images).float()
        equal = equal and torch.equal(live.half(), kept)
        largest = max(largest, float((live - kept.float()).abs().max()))
    return equal, largest


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    rows, found = [], {}
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            with get_context("spawn").Pool(1) as pool:
                pool.apply(fill, (precision, device, folder))
            setting = opened(precision, device, folder)
            for size in (BLOCK, setting.recipe.batch_size):
                equal, largest = compare(setting, size)
                found[f"{precision}, {size}"] = {"equal": equal, "largest": largest}
                rows.append([precision, size, "yes" if equal else "no", f"{largest:.2g}"])
            assert setting.course.teachers["teacher"].cache.asked == 0  # type: ignore[attr-defined]
    same = [found[f"{precision}, {BLOCK}"] for precision in ("fp32", "bf16")]
    text = (
        f"{VIEWS} views of {len(setting.data.train):,} examples. In the cache's own blocks: equal "
        f"before rounding: {met(all(f['equal'] for f in same))}; at most 0.01 apart after it: "
        f"{met(all(f['largest'] <= 0.01 for f in same))}.\n\n"
    )
    head = ["teacher in", "asked in batches of", "equal as float16", "largest difference of logits"]
    write("cache_exact", {"machine": machine(device), **found}, text + markdown(head, rows))


if __name__ == "__main__":
    main()
