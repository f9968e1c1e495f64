"""Does a latency that was measured twice come out the same?

Twenty students of `mobile`, drawn uniformly, and the teacher are measured in two runs, each in a
process of its own, the second in another order. Batch 1, one thread, as the search does it.

    python benchmarks/latency.py [--engine onnxruntime|torch|cuda]

Target: the same model's two medians within 5 % of each other, and the ranking of twenty models in
the two runs agreeing by Kendall's tau of at least 0.95. To be run on an idle machine.
"""

from __future__ import annotations

import argparse
import random
from multiprocessing import get_context

from common import machine, markdown, met, open_setting, quartiles, write

from nasdistill import profile
from nasdistill.ranking import kendall
from nasdistill.space import SearchSpace

COUNT, SECONDS, SEED = 20, 0.2, 7


def measure(engine: str, order_seed: int) -> list[float]:
    """Median milliseconds of each model, by its number; the teacher's last."""
    setting = open_setting()
    space, rng = SearchSpace.load("mobile"), random.Random(SEED)
    drawn = [space.random(rng) for _ in range(COUNT)]
    models = [setting.course.students(a, setting.data, 0)[0].eval() for a in drawn]
    models.append(setting.teacher.module.eval())
    inputs = [setting.data.input] * COUNT + [setting.teacher.input]
    found = [0.0] * len(models)
    for index in random.Random(order_seed).sample(range(len(models)), len(models)):
        measured = profile.measure(
            {"it": models[index]}, {"it": inputs[index]}, engine=engine, seconds=SECONDS
        )
        found[index] = measured["it"].median_ms
    return found


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="onnxruntime", choices=tuple(profile.ENGINES))
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    runs = []
    for run in range(asked.runs):
        with get_context("spawn").Pool(1) as pool:
            runs.append(pool.apply(measure, (asked.engine, run)))
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    apart = [abs(x - y) / min(x, y) for a, b in pairs for x, y in zip(a, b, strict=True)]
    taus = [kendall(a[:COUNT], b[:COUNT]) or 0.0 for a, b in pairs]
    low, middle, high = quartiles(apart)
    within = sum(share <= 0.05 for share in apart) / len(apart)
    tau = quartiles(taus)
    text = (
        f"{COUNT} students and the teacher, {asked.runs} runs, every pair of runs held against "
        f"each other, engine {asked.engine}. Within 5 %: {within:.0%} of the comparisons (target: "
        f"the median comparison: {met(middle <= 0.05)}; all of them: {met(max(apart) <= 0.05)}). "
        f"Ranking of the {COUNT}: target τ 0.95 at the median: {met(tau[1] >= 0.95)}, in the worst "
        f"pair: {met(min(taus) >= 0.95)}.\n\n"
    )
    rows = [
        ["difference of two medians", f"{low:.1%}", f"{middle:.1%}", f"{high:.1%}",
         f"{max(apart):.1%}"],
        ["τ of two runs", f"{tau[2]:.3f}", f"{tau[1]:.3f}", f"{tau[0]:.3f}", f"{min(taus):.3f}"],
    ]  # fmt: skip
    head = ["figure", "better quartile", "median", "worse quartile", "worst"]
    results = {"machine": machine(), "engine": asked.engine, "runs": runs, "taus": taus}
    write("latency", results, text + markdown(head, rows))


if __name__ == "__main__":
    main()
