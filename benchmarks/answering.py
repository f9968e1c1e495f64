"""Ahead or as needed? What a teacher answers in a second, in large blocks and in small batches.

Asked ahead, it sees the cache's blocks of 500; asked as training needs it, batches of 64. Both
sides augment the pictures and ask. Writing is left out.

    python benchmarks/answering.py

No target: the faster way is the one to take.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from common import (
    Setting,
    clock,
    in_turn,
    machine,
    markdown,
    open_setting,
    place,
    ratios,
    spread,
    write,
)

from nasdistill.common.machine import cores
from nasdistill.teachers.logit_cache import BLOCK

EXAMPLES, REPEATS = 4000, 5


def rate(setting: Setting, size: int) -> float:
    """TeacherTargets a second, in batches of `size`."""
    train, teacher = setting.data.train, setting.teacher
    plan = [(ids, 0) for ids in torch.arange(EXAMPLES).split(size)]
    begin = clock(setting.device)
    for batch in train.batches(plan, teacher.input.size):
        teacher.logits(batch.images)
    return EXAMPLES / (clock(setting.device) - begin)


def main() -> None:
    """Writes the table."""
    rows, results = [], {}
    for precision in ("fp32", "auto"):
        setting = open_setting(precision=precision)
        small = setting.recipe.batch_size
        sides: dict[str, Callable[[], float]] = {
            "ahead": partial(rate, setting, BLOCK),
            "as needed": partial(rate, setting, small),
        }
        for side in sides.values():
            side()
        rates_by_side = in_turn(sides, REPEATS)
        gain = ratios(rates_by_side["ahead"], rates_by_side["as needed"])
        name = setting.teacher.precision
        results[name] = {**rates_by_side, "ratio": gain}
        rates = [f"{sorted(rates_by_side[side])[REPEATS // 2]:,.0f}" for side in sides]
        rows.append([name, *rates, spread(gain)])
    head = ["teacher in", f"images/s in {BLOCK}", f"images/s in {small}", "times as many"]
    text = f"{EXAMPLES:,} pictures, {REPEATS} repeats, {place('cpu', cores())}.\n\n"
    results = {"machine": machine(), **results}
    write("answering", results, text + markdown(head, rows))


if __name__ == "__main__":
    main()
